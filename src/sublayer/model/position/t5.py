"""The relative bias of T5: one number for each head and bucket of distances.

Shapes: H heads, T queries, S keys, N buckets.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from sublayer.config import Count, Flag
from sublayer.model.attention.score import OffsetBias, by_key
from sublayer.model.initialise import Normal, Rule
from sublayer.model.layout import Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position.base import Position, PositionConfig
from sublayer.model.precision import at_least_float32


@PositionConfig.registry.register
class T5Config(PositionConfig):
    """A learned bias for each head and bucket of distances, the farther the wider; one table for all layers."""

    paper: ClassVar[str] = "Raffel et al. 2020, section 2.1"
    shift_invariant: ClassVar[bool] = True

    kind: Literal["t5"] = "t5"
    n_buckets: Count = 32
    """Buckets in all; half of those for a direction hold one distance each, the others grow with its logarithm."""
    max_distance: Count = 128
    """Distance from which on all keys share the last bucket (which begins before it)."""
    bidirectional: Flag | None = None
    """Tell keys ahead from keys behind, with half of the buckets each; left out, so in an encoder.  Without it all keys
    ahead are in the bucket of the query's own position."""

    def filled(self, shape: StackShape) -> Self:
        causal = shape.direction == "causal"
        if causal and self.bidirectional:
            raise ValueError(
                "a bidirectional t5 table keeps half of its buckets for keys ahead, and a causal stack sees none; "
                "set bidirectional: false"
            )
        config = self.model_copy(update={"bidirectional": self.bidirectional is not False and not causal})
        exact, least = config.n_exact(), 4 if config.bidirectional else 2
        if self.n_buckets < least or (config.bidirectional and self.n_buckets % 2):
            odd = " and be even" if config.bidirectional else ""
            raise ValueError(f"n_buckets ({self.n_buckets}) must be at least {least}{odd}")
        if self.max_distance <= exact:
            raise ValueError(
                f"max_distance ({self.max_distance}) must be beyond the {exact} distances that have a bucket each; "
                "raise it or choose fewer n_buckets"
            )
        return config

    def n_exact(self) -> int:
        """How many distances have a bucket each, in one direction."""
        return self.n_buckets // (4 if self.bidirectional else 2)

    def build(self, shape: StackShape, heads: Heads) -> "T5":
        return T5(self, shape, heads.count)


class T5(Position):
    """score(i, j) + b[bucket(i − j)], with b learned for each head."""

    def __init__(self, config: T5Config, shape: StackShape, n_heads: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_buckets, n_heads))
        self._std = shape.d_model**-0.5  # as in T5's own code
        self._bucket_of = _buckets(config)

    def prepare(self, q_BHTK: Tensor, k_BGSK: Tensor, span: Span, scale: float) -> OffsetBias:
        return OffsetBias(f"t5 {id(self)}", self._bias)

    def _bias(self, offsets: Tensor) -> Tensor:
        table_HN = at_least_float32(self.weight).T.contiguous()
        return by_key(table_HN[None, :, None], self.buckets(offsets))

    def buckets(self, offsets: Tensor) -> Tensor:
        """The bucket of each offset, query position − key position (int64)."""
        bucket_of = torch.tensor(self._bucket_of, device=offsets.device)
        if not self.config.bidirectional:
            return bucket_of[offsets.clamp(0, len(bucket_of) - 1)]
        near = bucket_of[offsets.abs().clamp(max=len(bucket_of) - 1)]
        return torch.where(offsets < 0, near + self.config.n_buckets // 2, near)

    def initial_values(self) -> Mapping[str, Rule]:
        return {"weight": Normal(self._std)}


def _buckets(config: T5Config) -> list[int]:
    """The bucket of each distance up to max_distance, in one direction."""
    exact = config.n_exact()
    n_buckets = config.n_buckets // (2 if config.bidirectional else 1)
    # In float32 and on the CPU, wherever the model is: what is rounded here decides where a bucket begins, and so it
    # begins where it does in the models that were trained with it.
    distance = torch.arange(config.max_distance + 1, dtype=torch.float32, device="cpu")
    steps = (distance.clamp(min=1) / exact).log() / math.log(config.max_distance / exact) * (n_buckets - exact)
    bucket = torch.where(distance < exact, distance, (exact + steps.long()).clamp(max=n_buckets - 1))
    return [int(number) for number in bucket.tolist()]
