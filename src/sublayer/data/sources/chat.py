"""A source of conversations and instructions, of which the answers are learnt."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from sublayer.data.chat import ANSWERS, PLAIN, ChatTemplate, Message, Unrenderable, parse_messages
from sublayer.data.document import Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources.base import SOURCES
from sublayer.data.sources.damage import Damage
from sublayer.data.sources.files import given, lines
from sublayer.data.sources.json_lines import JsonLinesConfig, checked_text, digest, parsed, text_of
from sublayer.data.tokenizer import BpeConfig, TokenizerConfig
from sublayer.errors import DataError

Format = Literal["messages", "sharegpt", "instruction", "prompt"]

FORMATS: dict[Format, str] = {
    "messages": "messages",
    "sharegpt": "conversations",
    "instruction": "instruction",
    "prompt": "prompt",
}
"""The field by which a row's format is told."""

SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@SOURCES.register
class ChatConfig(JsonLinesConfig):
    """JSON lines with a conversation each; the loss is on the answers and the end token after each.

    What stands before the first answer decides the held-out side, so no question is on both.
    """

    in_segments: ClassVar[bool] = True

    kind: Literal["chat"] = "chat"
    format: Literal["auto", "messages", "sharegpt", "instruction", "prompt"] = "auto"
    """messages: a list `messages` with `role` and `content`; sharegpt: a list `conversations` with `from` and `value`;
    instruction: `instruction`, `output` and, if you like, `input`; prompt: `prompt` and `completion`; auto: told by the
    fields of each line."""
    template: str = Field(default="auto", min_length=1)
    """What writes a conversation as text: plain (roles in plain text), tokenizer (the template that the tokenizer's
    file carries), a Jinja file, or the Jinja itself; auto: the tokenizer's where it carries one, or else plain.  It is
    saved with the model."""

    # A template writes the tokenizer's end token, or is the tokenizer's own.
    _tokenizer: TokenizerConfig = PrivateAttr(default_factory=BpeConfig)
    _renderer: ChatTemplate | None = PrivateAttr(default=None)

    def with_tokenizer(self, tokenizer: TokenizerConfig) -> "ChatConfig":
        knowing = self.model_copy()
        knowing._tokenizer = tokenizer
        return knowing

    def chat_template(self) -> str:
        return self._template().saved()

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        self._renderer = self._template()
        return super().documents(skipped)

    def first_question(self) -> list[dict[str, str]]:
        """What stands before the first answer of the first conversation that can be read, as messages; or nothing."""
        for _, path in self._files():
            for _, line in lines(path, self.longest_line, lambda number, damage: None):
                with suppress(Damage, Unrenderable):
                    messages = _messages(parsed(line), self.format)
                    asked = list(takewhile(lambda message: message.role != ANSWERS, messages))
                    if asked:
                        return [{"role": message.role, "content": message.content} for message in asked]
        return []

    def fingerprint(self) -> str:
        template = self._template()
        return hashlib.sha256(f"{template.source}\0{template.end}\0{super().fingerprint()}".encode()).hexdigest()

    def _document(self, key: str, domain: str, row: Mapping[str, Any]) -> Document:
        assert self._renderer is not None
        try:
            messages = _messages(row, self.format)
            segments = self._renderer.training(messages)
        except Unrenderable as problem:
            raise Damage(str(problem)) from None
        for message in messages:
            checked_text(message.content, "")
        asked = list(takewhile(lambda message: message.role != ANSWERS, messages)) or messages
        return Document(key, domain, segments=segments, held_out_key=digest(*(message.content for message in asked)))

    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._source(), self._tokenizer.end_token())

    def _source(self) -> str:
        if self.template in ("auto", "tokenizer"):
            carried = self._tokenizer.chat_template()
            if carried is None and self.template == "tokenizer":
                raise DataError(
                    "data.sources: template: tokenizer asks for a tokenizer that carries a chat template, and this one "
                    "does not; name one of kind file that does, or template: plain."
                )
            return PLAIN if carried is None else carried
        if self.template == "plain":
            return PLAIN
        if "{{" in self.template or "{%" in self.template:
            return self.template
        path = given(self.template)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise DataError(
                f"data.sources: the chat template {path} could not be read ({reason}); write plain, tokenizer, the "
                "path of a Jinja file, or the Jinja itself."
            ) from None


def _messages(row: Mapping[str, Any], named: Literal["auto"] | Format) -> list[Message]:
    """The conversation in a row.

    Raises:
        Damage, Unrenderable: when there is none.
    """
    found = next((form for form, field in FORMATS.items() if field in row), None) if named == "auto" else named
    match found:
        case None:
            keys = ", ".join(map(str, list(row)[:12]))
            raise Damage(
                "no conversation",
                f"it has: {keys}; it needs messages, conversations, instruction and output, or prompt and completion",
            )
        case "messages":
            return parse_messages(_field(row, "messages"))
        case "sharegpt":
            return parse_messages(_from_sharegpt(_field(row, "conversations")))
        case "instruction":
            more = row.get("input") or ""
            asked, answer = text_of(row, "instruction"), text_of(row, "output")
            if not isinstance(more, str):
                raise Damage("a field 'input' that holds no text")
            asked = f"{asked}\n\n{more}" if more else asked
        case "prompt":
            asked, answer = text_of(row, "prompt"), text_of(row, "completion")
    return parse_messages([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])


def _field(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise Damage(f"no field '{field}'", f"it has: {', '.join(map(str, list(row)[:12]))}")
    return row[field]


def _from_sharegpt(turns: Any) -> Any:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns
    return [
        {"role": SHAREGPT.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")} for turn in turns
    ]
