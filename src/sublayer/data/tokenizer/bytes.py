"""One token a byte."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from sublayer.data.tokenizer.alphabet import CHARACTER, END
from sublayer.data.tokenizer.base import TOKENIZERS, TokenizerConfig
from sublayer.data.tokenizer.runtime import Tokenizer


@TOKENIZERS.register
class BytesConfig(TokenizerConfig):
    """One token a byte: 256, and the one that begins a document."""

    paper: ClassVar[str] = "Xue et al. 2022, ByT5: Towards a Token-Free Future (without its spare ids)"

    kind: Literal["bytes"] = "bytes"

    def expected_size(self) -> int:
        return 1 + len(CHARACTER)

    def build(self, texts: Callable[[], Iterator[str]]) -> Tokenizer:
        vocabulary = {END: 0} | {character: 1 + byte for byte, character in CHARACTER.items()}
        core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens([AddedToken(END, special=True)])
        return Tokenizer(core)
