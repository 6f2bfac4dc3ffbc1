"""The one tokenizer class at run time: a byte-level `tokenizers.Tokenizer`, exact in bytes both ways."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from sublayer.data.chat import ChatTemplate, Unrenderable, parse_messages
from sublayer.data.document import END_MARK, Segment
from sublayer.data.tokenizer.alphabet import BYTE, END, MASKS
from sublayer.data.tokenizer.borders import WordBorders
from sublayer.data.tokenizer.stream import Stream
from sublayer.data.tokenizer.words import Words, splits_as_gpt2
from sublayer.errors import DataError
from sublayer.files import json_mapping

BESIDE = ("tokenizer_config.json", "chat_template.jinja")
"""The files beside a `tokenizer.json` that belong to it."""

MOST_REMEMBERED = 1024
"""Texts of templates whose ids are kept."""


class Tokenizer:
    """Text to token ids and back, without loss for any Unicode text.

    Text is never read as special tokens: the letters `<|endoftext|>` in a document are letters.

    Args:
        core: a byte-level tokenizer.
        end: the special token that begins every document.
        settings: what `tokenizer_config.json` holds beside it, kept when saving.

    Attributes:
        chat_template: Jinja that writes conversations; None where the model reads plain text only.
        vocab_size: V, one more than the largest id.
        end_id: the id of the special token that begins a document and ends the one before.
        bytes_per_token: [V] int64, the bytes of text each id stands for; 0 for special tokens and unused ids.

    Raises:
        DataError: when `core` is not byte-level or has no token `end`.
    """

    def __init__(self, core: tokenizers.Tokenizer, end: str = END, settings: dict[str, Any] | None = None) -> None:
        if not _is_byte_level(core):
            raise DataError(
                "the tokenizer is not byte-level, so text would not come back as it was; "
                "use a byte-level BPE one (as of GPT-2, Llama 3 or Qwen), or {kind: bpe} to learn one from your text."
            )
        end_id = core.token_to_id(end)
        if end_id is None:
            raise DataError(f"the tokenizer has no token '{end}' to set documents apart; name one that it has.")
        core.encode_special_tokens = True  # not kept in tokenizer.json, so set on every one
        core.no_padding()
        core.no_truncation()
        self._core = core
        self._template_ids: dict[str, list[int]] = {}
        self._settings = dict(settings or {})
        self.chat_template: str | None = chat_template_in(self._settings)
        self.end = end
        self.end_id: int = end_id
        self._bytes = _token_bytes(core)
        self.vocab_size = len(self._bytes)
        self.bytes_per_token: NDArray[np.int64] = np.array([len(text) for text in self._bytes], dtype=np.int64)

    @cached_property
    def words(self) -> Words | None:
        """A faster way to encode much text on one core; None where the tokenizer splits text as it does not."""
        return Words(self._core) if splits_as_gpt2(self._core) else None

    @cached_property
    def _reading_special(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._core.to_str())

    def encode(self, text: str, start: bool = True) -> list[int]:
        """The ids of one text.

        Args:
            text: any text.
            start: put the token that begins a document in front.

        Raises:
            DataError: when `text` holds half a character (a lone surrogate), which no UTF-8 text does.
        """
        return self.encode_batch([text], start)[0]

    def encode_batch(self, texts: Sequence[str], start: bool = True, special: bool = False) -> list[list[int]]:
        """`encode` for several texts at once, on all cores; with `special`, names of special tokens stand for them."""
        for text in texts:
            _refuse_surrogates(text)
        head = [self.end_id] if start else []
        core = self._reading_special if special else self._core
        return [head + encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_segments(self, segments: Sequence[Segment]) -> list[list[int]]:
        """The ids of each segment, tokenized by itself, on all cores.

        Args:
            segments: of any number of documents; without the token that begins a document.

        Raises:
            DataError: when a text holds half a character (a lone surrogate).
        """
        plain = iter(self.encode_batch([segment.text for segment in segments if not segment.special], start=False))
        return [self._special_ids(segment.text) if segment.special else next(plain) for segment in segments]

    def encode_document(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of a document in segments, with the token that begins it.

        Raises:
            DataError: as `encode_segments`.
        """
        return [self.end_id, *(index for ids in self.encode_segments(segments) for index in ids)]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation up to where the next answer begins.

        Args:
            messages: mappings with `role` ("system", "user", "assistant", …) and `content`.

        Raises:
            DataError: when the tokenizer carries no chat template, or the conversation does not fit it.
        """
        if self.chat_template is None:
            raise DataError(
                "the tokenizer carries no chat template, so the model was not trained on conversations; "
                "give a text to go on from, or train on a source of kind chat."
            )
        try:
            segments = ChatTemplate(self.chat_template, self.end).prompt(parse_messages(messages))
        except Unrenderable as error:
            raise DataError(f"the conversation cannot be read: it has {error}.") from None
        return self.encode_document(segments)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out, and bytes that are no character read as U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, which may begin or end inside a character; special tokens are left out."""
        return b"".join([self._bytes[index] for index in ids])

    def _special_ids(self, text: str) -> list[int]:
        """The ids of a template's text; there are few different ones, so they are remembered."""
        if text == END_MARK:
            return [self.end_id]
        if text not in self._template_ids:
            _refuse_surrogates(text)
            if len(self._template_ids) >= MOST_REMEMBERED:
                self._template_ids.clear()
            self._template_ids[text] = self._reading_special.encode(text, add_special_tokens=False).ids
        return self._template_ids[text]

    def name(self, index: int) -> str:
        """What the vocabulary calls an id, such as `<|endoftext|>`."""
        return self._core.id_to_token(index) or f"<{index}>"

    def stream(self, special: bool = False) -> Stream:
        """A decoder to feed one id at a time, which never gives out half a character.

        Args:
            special: give out the names of special tokens too, but for the one that ends a document.
        """
        return Stream(self._bytes_and_names if special else self._bytes)

    @cached_property
    def _bytes_and_names(self) -> list[bytes]:
        table = list(self._bytes)
        for index, token in self._core.get_added_tokens_decoder().items():
            if token.special and index != self.end_id:
                table[index] = token.content.encode()
        return table

    def has_any(self, names: Sequence[str]) -> bool:
        """Whether there is a token of one of these names."""
        return any(self._core.token_to_id(name) is not None for name in names)

    def special_id(self, names: Sequence[str]) -> int:
        """The id of a special token, by the first of its names that there is; one is there."""
        return next(index for name in names if (index := self._core.token_to_id(name)) is not None)

    def with_special(self, names: Sequence[str]) -> "Tokenizer":
        """The same with special tokens put behind all others."""
        core = tokenizers.Tokenizer.from_str(self._core.to_str())
        core.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
        # By this, Hugging Face's libraries know it.
        masks = [name for name in names if name in MASKS]
        grown = Tokenizer(core, self.end, self._settings | ({"mask_token": masks[0]} if masks else {}))
        grown.chat_template = self.chat_template
        return grown

    @cached_property
    def borders(self) -> WordBorders:
        """Tells which tokens begin a word."""
        return WordBorders(self._bytes)

    def fingerprint(self) -> str:
        """A text that is equal for equal tokenizers."""
        return hashlib.sha256(f"{self.end} {self._core.to_str()}".encode()).hexdigest()

    def same_vocabulary(self, other: "Tokenizer") -> bool:
        """Whether every text has the same tokens in the other one; which of them ends documents may differ."""
        return self._core.to_str() == other._core.to_str()

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as Hugging Face's AutoTokenizer reads them."""
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{name: value for name, value in self._settings.items() if name != "chat_template"},
            "bos_token": self.end,
            "eos_token": self.end,
        }
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        (directory / "tokenizer.json").write_text(self._core.to_str(pretty=True), encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, end: str | None = None) -> "Tokenizer":
        """Read a tokenizer.

        Args:
            path: a `tokenizer.json`, or a directory that holds one.
            end: the token that begins every document; left out, the one `tokenizer_config.json` names as
                `eos_token`, or else `<|endoftext|>`.

        Raises:
            DataError: when a file is missing or damaged, the tokenizer is not byte-level, or has no token `end`.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(
                f"there is no tokenizer at {file}; name a tokenizer.json or a directory with one."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the tokenizer {file} could not be read ({error}); copy it anew.") from None
        try:
            core = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception for a damaged file
            raise DataError(f"{file} is damaged or no tokenizer ({error}); copy it anew or name another.") from None
        settings = read_settings(file)
        try:
            return cls(core, end or end_in(settings) or END, settings)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def read_settings(file: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` and `chat_template.jinja` beside a `tokenizer.json` say; {} where they are missing.

    Raises:
        DataError: when one of them is damaged.
    """
    settings: dict[str, Any] = {}
    beside, template = (file.with_name(name) for name in BESIDE)
    if beside.is_file():
        try:
            settings = json_mapping(beside)
        except ValueError as error:
            raise DataError(f"{beside} is damaged ({error}); copy it anew.") from None
        try:
            end_in(settings)
        except DataError as error:
            raise DataError(f"{beside}: {error}") from None
    if template.is_file():  # where newer Hugging Face libraries put it
        try:
            settings["chat_template"] = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{template} could not be read ({error}); copy it anew.") from None
    return settings


def end_in(settings: Mapping[str, Any]) -> str | None:
    """The `eos_token` that settings name.

    Raises:
        DataError: when it is no text.
    """
    named = settings.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    if named is not None and not isinstance(named, str):
        raise DataError("eos_token is no text; copy it anew.")
    return named


def chat_template_in(settings: Mapping[str, Any]) -> str | None:
    """The `chat_template` of settings; of several by name, the default one."""
    named = settings.get("chat_template")
    if isinstance(named, list):
        by_name = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
        named = by_name.get("default")
    return named if isinstance(named, str) else None


def _is_byte_level(core: tokenizers.Tokenizer) -> bool:
    # The library shows neither the parts of a sequence nor their options, but its JSON does.
    decoder = json.loads(core.to_str())["decoder"] or {}
    parts = decoder.get("decoders", [decoder])
    return [part.get("type") for part in parts] == ["ByteLevel"]


def _token_bytes(core: tokenizers.Tokenizer) -> list[bytes]:
    """The bytes of every id: added tokens are written as they are, all others in the byte alphabet."""
    vocabulary = core.get_vocab(with_added_tokens=True)
    added = core.get_added_tokens_decoder()
    largest = max(vocabulary.values())
    if largest > 2 * len(vocabulary) + 1000:  # a table by id would be mostly empty, and as large as somebody likes
        raise DataError(f"the tokenizer has {len(vocabulary)} tokens, but ids up to {largest}; it is damaged.")
    table = [b""] * (1 + largest)
    for token, index in vocabulary.items():
        if index not in added:
            table[index] = bytes(BYTE[character] for character in token if character in BYTE)
        elif not added[index].special:
            table[index] = token.encode()
    return table


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds half a character at position {error.start} (a lone surrogate), "
            "which is no Unicode text; remove it or decode the text with the right encoding."
        ) from None
