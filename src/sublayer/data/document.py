"""What a source yields: one text with the names that decide where it goes."""

from dataclasses import dataclass


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
    """

    key: str
    domain: str
    text: str
    held_out_key: str = ""
    continues: bool = False
