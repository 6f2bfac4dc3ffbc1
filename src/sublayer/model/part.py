"""What every part of the model declares about itself, as data, and the shape of the stack that it is built into."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from sublayer.config import Config, Flag, Positive
from sublayer.registry import PartConfig

Direction = Literal["causal", "bidirectional"]
Split = Literal["column", "row"]


@dataclass(frozen=True)
class CacheExact:
    """Whether cached decoding gives what one full pass gives.

    Attributes:
        length: exact up to this many positions; None means without limit.
        reason: why it is not exact at all; empty when it is.
    """

    length: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"never ({self.reason})"
        return "always" if self.length is None else f"until length {self.length}"


class InitialisationConfig(Config):
    """The random values that a new model starts from."""

    std: Positive | None = 0.02
    """Standard deviation of weight matrices; null for 1/√fan_in, the width that keeps the variance of its input."""
    embedding_std: Positive = 0.02
    """Standard deviation of token and position embeddings."""
    depth_scaled: Flag = True
    """Divide the last matrix of every sublayer by √(2·n_layers), so that the residual stream's variance does not grow
    with depth (GPT-2: Radford et al. 2019, section 2.3).  Layers with one sublayer count as two, so that variants with
    and without a second one start equal in what they share.  A residual with a rule of its own, deepnorm, takes its
    place."""


@dataclass(frozen=True)
class Heads:
    """What a position needs to know of the attention that it serves.

    Attributes:
        count: how many maps of scores there are.
        width: of the queries and keys that the position is given, by head; of values too where it may change them.
    """

    count: int
    width: int


@dataclass(frozen=True)
class StackShape:
    """The sizes that all layers of a stack share; what a part may read when it fills in its own.

    Attributes:
        stochastic_depth: probability of leaving out a sublayer of the last layer in training; of those before it less.
        other_layers: layers of the other half of an encoder-decoder; 0 where there is none.
        gain: factor of the initial values of what a sublayer adds to the stream, where the layer's residual sets one.
        layer: the number of the layer that is built, from 0.
    """

    stack: Literal["decoder", "encoder"]
    d_model: int
    n_layers: int
    max_length: int
    dropout: float = 0.0
    initialisation: InitialisationConfig = field(default_factory=InitialisationConfig)
    stochastic_depth: float = 0.0
    other_layers: int = 0
    gain: float | None = None
    layer: int = 0

    @property
    def words(self) -> str:
        return f"a{'n' if self.stack == 'encoder' else ''} {self.stack}"

    @property
    def direction(self) -> Direction:
        return "causal" if self.stack == "decoder" else "bidirectional"

    def std(self, fan_in: int) -> float:
        """Standard deviation of a weight matrix with `fan_in` inputs."""
        return self.initialisation.std or fan_in**-0.5

    def branch_std(self, fan_in: int) -> float:
        """Standard deviation of a matrix that what a sublayer writes is proportional to: of values, of hidden units.

        (Queries, keys and gates only decide how it is put together.)
        """
        return self.std(fan_in) * (1.0 if self.gain is None else self.gain)

    def output_std(self, fan_in: int) -> float:
        """Standard deviation of the matrix with which a sublayer writes into the residual stream."""
        if self.gain is not None:
            return self.branch_std(fan_in)
        std = self.std(fan_in)
        return std / (2 * self.n_layers) ** 0.5 if self.initialisation.depth_scaled else std


class ModelPart(PartConfig):
    """The config of a part of the model: a choice, its source, and what it can do."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"causal", "bidirectional"})
    """Which stacks the part is defined for."""

    splits: ClassVar[Mapping[str, Split]] = {}
    """Weight matrices that tensor parallelism may divide, by name in the part's module, and along which side."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        """Which stacks it is defined for, and whether cached decoding with it is exact as it is by default."""
        stacks = {"causal": "decoders", "bidirectional": "encoders"}
        able = [words for direction, words in stacks.items() if direction in cls.directions]
        told = [*able] if len(able) == len(stacks) else [f"{able[0]} only"]
        if "causal" in cls.directions and not any(field.is_required() for field in cls.model_fields.values()):
            shape = StackShape("decoder", d_model=64, n_layers=1, max_length=1024)
            exact = cls().cache_exact(shape)
            until = "max_length" if exact.length == shape.max_length else str(exact.length)
            if exact.reason:
                told.append(f"cached decoding is not exact: {exact.reason}")
            elif exact.length is not None:
                told.append(f"cached decoding exact until {until}")
        return tuple(told)

    def cache_exact(self, shape: StackShape) -> CacheExact:
        """Whether cached decoding with this part equals one full pass."""
        return CacheExact()

    def active_share(self, name: str) -> float:
        """The share of the parameter `name`, by its name in the part's module, that one token uses."""
        return 1.0

    def token_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        """FLOPs that the part spends on a token by itself in the forward pass, a multiplication and an addition each.

        Left as it is, each number in a matrix, or in a batch of matrices, is multiplied with one of the token's and
        added; what is done number by number is not counted.

        Args:
            weights: the shapes of the parameters in the part's module, by name.
        """
        return sum(2 * math.prod(shape) * self.active_share(name) for name, shape in weights.items() if len(shape) > 1)

    def idle_flops(self, weights: Mapping[str, tuple[int, ...]]) -> float:
        """FLOPs that a token would cost besides, in the forward pass, if it used all parameters; as `token_flops`."""
        return sum(
            2 * math.prod(shape) * (1 - self.active_share(name)) for name, shape in weights.items() if len(shape) > 1
        )

    def in_layer(self, layer: int, shape: StackShape) -> "ModelPart":
        """The part that layer number `layer` has, where this one is chosen for all layers.

        Raises:
            ValueError: when it would be in none.
        """
        return self

    def check_alone(self, chosen: "ModelPart") -> None:
        """Refuse what a single layer cannot choose for itself.

        Args:
            chosen: the part of all layers.

        Raises:
            ValueError: with the reason.
        """

    def filled(self, shape: StackShape) -> Self:
        """This config with every size that was left out filled in.

        Raises:
            ValueError: when its sizes do not fit the stack's.
        """
        return self
