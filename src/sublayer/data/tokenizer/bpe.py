"""Byte-level byte-pair encoding, learnt from the training side."""

from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

import tokenizers
from pydantic import AfterValidator
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from sublayer.config import Count
from sublayer.data.tokenizer.alphabet import CHARACTER, END
from sublayer.data.tokenizer.base import TOKENIZERS, TokenizerConfig
from sublayer.data.tokenizer.runtime import Tokenizer
from sublayer.data.tokenizer.words import with_few_words

SMALLEST = 257


def _holds_every_byte(size: int) -> int:
    if size < SMALLEST:
        raise ValueError(f"must be at least {SMALLEST} (every byte, and the token that begins a document), not {size}")
    return size


@TOKENIZERS.register
class BpeConfig(TokenizerConfig):
    """Byte-level BPE learnt from the training text; the same text gives the same tokenizer."""

    paper: ClassVar[str] = "Sennrich et al. 2016, §3.2; on bytes: Radford et al. 2019, §2.2"

    kind: Literal["bpe"] = "bpe"
    vocab_size: Annotated[Count, AfterValidator(_holds_every_byte)] = 4096
    """How many tokens at most; a small text has fewer pairs to merge and gives fewer."""
    min_frequency: Count = 2
    """A pair seen less often than this is not merged."""

    def expected_size(self) -> int:
        return self.vocab_size

    def build(self, texts: Callable[[], Iterator[str]]) -> Tokenizer:
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=[AddedToken(END, special=True)],
            initial_alphabet=list(CHARACTER.values()),
            show_progress=False,
        )
        core.train_from_iterator(with_few_words(texts()), trainer)
        return Tokenizer(core)
