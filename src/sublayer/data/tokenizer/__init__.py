"""Text to tokens and back: the runtime `Tokenizer`, and one file a way to come by one."""

from sublayer.data.tokenizer.base import TOKENIZERS, TokenizerConfig
from sublayer.data.tokenizer.bpe import BpeConfig
from sublayer.data.tokenizer.bytes import BytesConfig
from sublayer.data.tokenizer.file import FileConfig
from sublayer.data.tokenizer.runtime import Tokenizer
from sublayer.data.tokenizer.stream import Stream

__all__ = ["TOKENIZERS", "BpeConfig", "BytesConfig", "FileConfig", "Stream", "Tokenizer", "TokenizerConfig"]
