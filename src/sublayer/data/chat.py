"""Conversations as text: a Jinja template, and which stretches of what it writes are the answers.

The template is that of Hugging Face's tokenizers: given `messages`, `bos_token`, `eos_token` and
`add_generation_prompt`, it writes one text.  Here `bos_token` and `eos_token` are both the token that begins and ends
documents, as the tokenizers saved here have it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from sublayer.data.document import END_MARK, Segment
from sublayer.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
ANSWERS = "assistant"

PLAIN = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message.role }}:\n{{ message.content | trim }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
"""Roles in plain text, each message on a line of its own and ended by the end token.

A role counts only after an end token, which no text contains, so that nobody can write a turn for somebody else.  The
borders are ones where byte-level tokenizers cut as well, so the whole text has the same tokens as its segments.
"""

_PLACE = re.compile("\ue001([0-9]+)\ue002")
"""Stands for a message's content in a rendering that shows where contents go."""


class Unrenderable(ValueError):
    """A conversation that has no place in its template; the message is a few words that say why."""


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: one of ROLES.
        content: its text.
        scored: an answer to be learnt; of no meaning for other roles.
    """

    role: str
    content: str
    scored: bool = True


@dataclass(frozen=True)
class _Frame:
    """What a template writes around the contents: `texts[0]`, content `order[0]`, `texts[1]`, … `texts[-1]`."""

    texts: tuple[str, ...]
    order: tuple[int, ...]


class ChatTemplate:
    """A template, and the text that it makes of conversations.

    Args:
        source: Jinja, as in the `chat_template` of a `tokenizer_config.json`.
        end: the name of the tokenizer's end token, for templates that write it out.

    Raises:
        DataError: when `source` is no Jinja.
    """

    def __init__(self, source: str, end: str) -> None:
        self.source = source
        self.end = end
        self._frames: dict[tuple[tuple[str, ...], bool], _Frame] = {}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template is no Jinja ({_said(error)}); mend it.") from None

    def training(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """A conversation to learn from: answers and the end token after each are scored, nothing else is.

        Raises:
            Unrenderable: when the template refuses the conversation or changes a content, or no answer is in it.
            DataError: when the template drops or repeats a message, or ends no answer with the end token.
        """
        if not any(message.role == ANSWERS and message.scored for message in messages):
            raise Unrenderable("no answer of an assistant")
        return self._segments(messages, prompt=False)

    def prompt(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """A conversation up to where the next answer begins.

        Raises:
            Unrenderable, DataError: as `training` does, and when the last message is an answer.
        """
        if messages[-1].role == ANSWERS:
            raise Unrenderable("an answer as its last message, where a question belongs")
        return self._segments(messages, prompt=True)

    def saved(self) -> str:
        """The template to be saved with a tokenizer: it writes the token that begins every document first.

        Raises:
            DataError: when it cannot even write a single question.
        """
        try:
            frame = self._frame((Message("user", ""),), prompt=True)
        except Unrenderable as problem:
            raise DataError(f"a single user's message is {problem}; mend it, or take template: plain.") from None
        begins = frame.texts[0].startswith((END_MARK, self.end))
        return self.source if begins else "{{ bos_token }}" + self.source

    def _segments(self, messages: Sequence[Message], prompt: bool) -> tuple[Segment, ...]:
        frame = self._frame(messages, prompt)
        written = self._render([{"role": m.role, "content": m.content} for m in messages], prompt)
        found = [*self._template_text(_without_begin(frame.texts[0], self.end))]
        at = len(frame.texts[0])
        if not written.startswith(frame.texts[0]):
            raise Unrenderable("a text that the chat template changes")
        for number, after in zip(frame.order, frame.texts[1:], strict=True):
            message = messages[number]
            content = next((text for text in _trimmed(message.content) if written.startswith(text + after, at)), None)
            if content is None:
                raise Unrenderable("a text that the chat template changes")
            at += len(content) + len(after)
            answer = message.role == ANSWERS and not prompt
            scored = answer and message.scored
            if content:
                found.append(Segment(content, scored=scored))
            if answer:
                ending = self._ending.match(after)
                if ending is None:
                    raise DataError(
                        f"the chat template does not end an answer with the end token '{self.end}'; write "
                        "{{ eos_token }} after it, or name in data.tokenizer.end the token it ends answers with."
                    )
                if ending[1]:
                    found.append(Segment(ending[1], scored=scored))
                found.append(Segment(END_MARK, scored=scored, special=True))
                after = after[ending.end() :]
            found += self._template_text(after)
        if at != len(written):
            raise Unrenderable("a text that the chat template changes")
        return tuple(found)

    def _frame(self, messages: Sequence[Message], prompt: bool) -> _Frame:
        """Where contents go, found by rendering places instead of them; the same for all with the same roles."""
        roles = tuple(message.role for message in messages)
        known = self._frames.get((roles, prompt))
        if known is not None:
            return known
        places = [{"role": role, "content": f"\ue001{number}\ue002"} for number, role in enumerate(roles)]
        texts = _PLACE.split(self._render(places, prompt))
        frame = _Frame(tuple(texts[::2]), tuple(int(number) for number in texts[1::2]))
        for number, role in enumerate(roles):
            times = frame.order.count(number)
            if times != 1:
                what = f"writes it {times} times" if times else "leaves it out"
                raise DataError(
                    f"the chat template does not fit the conversation {', '.join(roles)}: of message {number + 1} "
                    f"({role}), it {what}; use one that writes every message once, such as template: plain."
                )
        if len(self._frames) < 10_000:
            self._frames[roles, prompt] = frame
        return frame

    def _render(self, messages: list[dict[str, str]], prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=prompt, bos_token=END_MARK, eos_token=END_MARK
            )
        except Exception as error:  # a template can fail in any way that code can
            raise Unrenderable(f"refused by the chat template ({_said(error)})") from None

    def _template_text(self, text: str) -> list[Segment]:
        """The template's own text, with the end token apart."""
        return [Segment(part, scored=False, special=True) for part in re.split(f"({END_MARK})", text) if part]

    @cached_property
    def _ending(self) -> re.Pattern[str]:
        """White space, and the end token after it."""
        return re.compile(rf"(\s*)(?:{END_MARK}|{re.escape(self.end)})")


def parse_messages(values: Any) -> list[Message]:
    """The turns of a conversation as OpenAI's and Hugging Face's chat formats write them.

    Args:
        values: a list of mappings with `role` and `content`; a content is a text or a list of text parts.  An answer
            with `weight: 0` is not learnt.

    Raises:
        Unrenderable: when it is something else.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise Unrenderable("messages that are no list, or empty")
    return [_message(value) for value in values]


def _message(value: Any) -> Message:
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise Unrenderable("a message without a role and a content")
    role, content, weight = value["role"], value["content"], value.get("weight", 1)
    if role not in ROLES:
        raise Unrenderable(f"a role that is none of {', '.join(ROLES)}")
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Unrenderable("a message whose content is no text")
    if role == ANSWERS and not content.strip():
        raise Unrenderable("an empty answer")
    if weight not in (0, 1):
        raise Unrenderable("a message whose weight is neither 0 nor 1")
    return Message(role, content, bool(weight))


def _trimmed(content: str) -> list[str]:
    """The content, and what templates make of it by trimming, the longest first."""
    either = {content.strip(), content.lstrip(), content.rstrip(), content.strip("\n"), content.lstrip("\n")}
    either.add(content.rstrip("\n"))
    either.discard(content)
    return [content, *sorted(either, key=len, reverse=True)]


def _without_begin(text: str, end: str) -> str:
    """Without the token that begins every document, since every document is given one."""
    return text.removeprefix(END_MARK) if text.startswith(END_MARK) else text.removeprefix(end)


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}`, with which templates mark answers for Hugging Face; here they are found
    without."""

    tags = {"generation"}  # noqa: RUF012 (as the base class declares it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """As Hugging Face's, so that its templates mean here what they mean there; a template cannot reach the machine."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    return environment


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
