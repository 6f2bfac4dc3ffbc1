"""What a source yields: one text, or a text in segments, with the names that decide where it goes."""

from dataclasses import dataclass
from typing import Any

END_MARK = "\ue000end\ue000"
"""A segment's text that stands for the tokenizer's end token, whatever that is called: a source knows no tokenizer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a document that is tokenized by itself.

    Attributes:
        text: the stretch; `END_MARK` alone, with `special`, is the end token.
        scored: its tokens are targets of the loss.
        special: names of special tokens in it are read as those tokens: text of a template, never of a user.
    """

    text: str
    scored: bool = True
    special: bool = False


def label_text(label: Any) -> Any:
    """A label as text where YAML or JSON read it as a whole number, true or false; anything else as it is."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(label) if isinstance(label, int) else label


def joined(first: str, second: str) -> tuple[Segment, ...]:
    """Two texts as one document: the end token stands between them."""
    parts = (Segment(first), Segment(END_MARK, special=True), Segment(second))
    return tuple(part for part in parts if part.text)


@dataclass(frozen=True, slots=True)
class Document:
    """One document, or one piece of a long one.

    Attributes:
        key: names the document within its source, such as a relative path; for messages.
        domain: the kind of text, such as `code`; losses are reported by domain.
        text: the text; may be any length, but a source of large files yields them in pieces (see `continues`).
        held_out_key: decides the side of the held-out split; documents with the same one are never on two sides.
            Empty means `key`.
        continues: this text carries on the document yielded just before, which has the same key.
        segments: in place of `text`, the stretches that make up the document, some of which are not learnt; such a
            document comes whole (`continues` is False).
        label: the class that it is of, where the source tells one.
    """

    key: str
    domain: str
    text: str = ""
    held_out_key: str = ""
    continues: bool = False
    segments: tuple[Segment, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        assert not self.segments or not (self.text or self.continues), "segments stand alone"
