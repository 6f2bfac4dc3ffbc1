"""The 256 printable characters that byte-level BPE writes bytes with (Radford et al. 2019, GPT-2)."""

END = "<|endoftext|>"
"""The special token that begins every document, and so ends the one before it (GPT-2's convention)."""

MASKS = ("<mask>", "[MASK]")
"""What the special token that hides another one is called: RoBERTa's name, BERT's."""

SENTINEL = "<extra_id_{}>"
"""What the special token is called that stands for a stretch left out, counted from 0 (T5's name)."""


def _alphabet() -> dict[int, str]:
    # Bytes that print as themselves in Latin-1 stay; the others are numbered from U+0100 on.
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(rest)}


CHARACTER = _alphabet()
"""byte → character"""

BYTE = {character: byte for byte, character in CHARACTER.items()}
"""character → byte"""
