"""What must be true of every legal composition: statements, each put to whatever composition it applies to.

A statement is a function of a `Subject` and of a generator for its own random choices (tokens, lengths, how rows are
padded); it fails as a test does.  They stand in `statements/`, by what they are about.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sublayer.model import Layout, ModelConfig, Source, Transformer
from tests.properties.composition import VOCAB_SIZE, drops_tokens, lively, random_tokens


class Subject:
    """A composition, and a model of it."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @cached_property
    def model(self) -> Transformer:
        return lively(self.config)

    @property
    def paired(self) -> bool:
        """Whether a source is read besides."""
        return self.config.stack == "encoder_decoder"

    def source(self, n_rows: int, length: int = 5) -> Tensor | None:
        """Tokens [B, S] for the encoder, where there is one beside."""
        return random_tokens(9, n_rows, length) if self.paired else None

    def logits(self, tokens: Tensor, layout: Layout | None = None, source: Source | Tensor | None = None) -> Tensor:
        """The logits of a forward pass, with the usual source where another one is needed and none is given."""
        source = self.source(len(tokens)) if source is None else source
        logits = self.model(tokens, layout, source=source).logits
        assert logits is not None
        return logits

    def loss(self, tokens: Tensor, targets: Tensor, layout: Layout | None = None) -> Tensor:
        loss = self.model(tokens, layout, source=self.source(len(tokens)), targets=targets).loss
        assert loss is not None
        return loss

    def targets(self, n_rows: int, length: int) -> Tensor:
        """Something to predict: a token at each place, or a class for each row."""
        if self.config.head.by_token:
            return random_tokens(2, n_rows, length)
        return random_tokens(2, n_rows) % self.config.head.n_classes

    def cotangent(self, *shape: int) -> Tensor:
        """Random factors for logits, so that their sum has a gradient in all directions."""
        return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


Check = Callable[[Subject, random.Random], None]


@dataclass(frozen=True)
class Statement:
    """A statement.

    Attributes:
        check: raises when it is not true.
        applies: whether it is one about a composition.
        share: of the compositions that it applies to, it is put to about so many.
    """

    check: Check
    applies: Callable[[ModelConfig], bool]
    share: float

    @property
    def name(self) -> str:
        return self.check.__name__

    def put(self, subject: Subject, seed: int) -> bool:
        """Whether it was put to the subject; then it is true."""
        dice = random.Random(f"{seed} {self.name}")
        if not self.applies(subject.config) or dice.random() >= self.share:
            return False
        self.check(subject, dice)
        return True


STATEMENTS: list[Statement] = []


def statement(
    applies: Callable[[ModelConfig], bool] = lambda config: True, share: float = 1.0
) -> Callable[[Check], Check]:
    """Makes a function a statement about the compositions it applies to."""

    def decorate(check: Check) -> Check:
        STATEMENTS.append(Statement(check, applies, share))
        return check

    return decorate


def by_token(config: ModelConfig) -> bool:
    """Whether the head has something to tell of each token."""
    return config.head.by_token


def decodes(config: ModelConfig) -> bool:
    """Whether tokens follow one another: a decoder, by itself or beside an encoder."""
    return config.stack != "encoder" and config.head.by_token


def alone(config: ModelConfig) -> bool:
    """Whether what is computed of a text does not depend on what else stands in the batch."""
    return not drops_tokens(config)


def some_tokens(dice: random.Random, n_tokens: int) -> list[int]:
    return [dice.randrange(VOCAB_SIZE) for _ in range(n_tokens)]
