"""The Transformer.

Shapes: B batch, T tokens, D d_model, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.errors import ConfigError
from sublayer.model.block import Block
from sublayer.model.config import LayerConfig, ModelConfig
from sublayer.model.dropout import dropout
from sublayer.model.embedding import OutputHead, TokenEmbedding
from sublayer.model.initialise import initialise
from sublayer.model.layout import Layout, Span
from sublayer.model.loss import cross_entropy
from sublayer.model.packed import PackedLinear, pack, unpack
from sublayer.model.part import Heads
from sublayer.model.position import Position, PositionConfig
from sublayer.model.precision import at_least_float32
from sublayer.model.report import EMPTY, Report
from sublayer.model.state import State
from sublayer.model.sublayer import Context

WANTED = frozenset({"attention", "logits"})
"""What `want` may name."""


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        logits: [B, T, V]; None when targets were given and `want` does not name "logits".
        loss: the training loss, with targets: the sum of `losses`.
        losses: its terms by name: `cross_entropy` (mean nats a scored token) and the sublayers' auxiliary ones.
        report: what the sublayers tell, by layer.
    """

    logits: Tensor | None = None
    loss: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    report: Report = EMPTY


pytree.register_dataclass(Output)


class Transformer(nn.Module):
    """A stack of `x + Sublayer(Norm(x))`, as its config names it.

    Args:
        config: every choice; `vocab_size` must be given.
        seed: of the initial values, each tensor drawn from (seed, its own name).

    Attributes:
        config: as given.
        packed: whether matrices of it are packed; see `pack`.

    Raises:
        ConfigError: when `vocab_size` is left out.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ConfigError("vocab_size: is required to build a model; in a run it comes from the tokenizer.")
        self.config = config
        self.packed = False
        self._limit = config.longest()
        shape, layers = config.shape, config.resolve()
        # The values that torch's constructors draw are replaced below; the caller's generator stays untouched.
        with torch.random.fork_rng(devices=[]):
            self._position_of, distinct = _positions(layers)
            self.positions = nn.ModuleList(position.build(shape, heads) for position, heads in distinct)
            std = config.initialisation.embedding_std
            self.embedding = TokenEmbedding(config.vocab_size, layers[0].position.d_token(shape), std)
            self.blocks = nn.ModuleList(Block(layer, shape, number) for number, layer in enumerate(layers))
            self.final_norm = layers[-1].norm.build(shape.d_model) if layers[-1].residual.final_norm else None
            self.head = (
                None
                if config.tied_embeddings
                else OutputHead(config.vocab_size, shape.d_model, shape.std(shape.d_model))
            )
        if not self.embedding.weight.is_meta:
            initialise(self, seed)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def position(self, layer: int) -> Position:
        """The position encoding of a layer, which others may share."""
        return cast(Position, self.positions[self._position_of[layer]])

    def forward(
        self,
        tokens_BT: Tensor,
        layout: Layout | None = None,
        *,
        state: State | None = None,
        targets: Tensor | None = None,
        logits_at: Tensor | None = None,
        want: Iterable[str] = (),
    ) -> Output:
        """Logits, or with targets the loss.

        Args:
            tokens_BT: token ids (int64).
            layout: positions, documents and padding; left out, a plain batch.
            state: a decoding state from `init_state`; the tokens go on from what it holds, and it takes them in.
            targets: [B, T] the token to predict at each place, −100 where none is.  The loss is computed in chunks and
                the logits are not kept.
            logits_at: [B] the one place of each row whose logits are wanted, as of a prompt: [B, 1, V] then
                stand in memory instead of [B, T, V].
            want: "attention" for attention weights in the report; "logits" for logits beside the loss.

        Raises:
            ValueError: when the layout does not fit the tokens, or the state is full.
        """
        wanted = frozenset(want)
        if not wanted <= WANTED:
            raise ValueError(f"want: {sorted(wanted - WANTED)} cannot be returned; choose from {sorted(WANTED)}.")
        layout = layout or Layout()
        layout.check(tokens_BT)
        if targets is not None and self.packed:
            raise ValueError("targets: a packed model computes no loss; call unpack() first.")
        if targets is not None and targets.shape != tokens_BT.shape:
            raise ValueError(f"targets have shape {tuple(targets.shape)}, but the tokens {tuple(tokens_BT.shape)}.")
        if layout.positions_BT is None and self._limit is not None and tokens_BT.shape[1] > self._limit:
            raise ValueError(f"{tokens_BT.shape[1]} tokens are given, but the model's positions end at {self._limit}.")
        plain = layout.plain
        n_tokens = tokens_BT.shape[1]
        if state is None:
            layout = layout.resolved(n_tokens, tokens_BT.device)
        else:
            layout = state.advance(layout, n_tokens)

        first = self.position(0)
        x_BTD = first.embed(self.embedding(tokens_BT), layout)
        x_BTD = dropout(x_BTD, self.config.dropout, self.training)
        span, tell = Span.within(layout, plain), wanted - {"logits"}
        contexts = [Context(layout, span, cast(Position, position), None, state, tell) for position in self.positions]
        report = EMPTY
        for number, block in enumerate(self.blocks):
            context = contexts[self._position_of[number]]
            x_BTD, told = block(x_BTD, context, None if state is None else state.layers[number])
            if told is not EMPTY:
                report = report + told.under(f"layers.{number}")
        if logits_at is not None:
            if targets is not None:
                raise ValueError("logits_at: the loss needs every place; give either targets or logits_at.")
            x_BTD = x_BTD.gather(1, logits_at[:, None, None].expand(-1, 1, x_BTD.shape[-1]))
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)

        logits = at_least_float32(self._logits(x_BTD)) if targets is None or "logits" in wanted else None
        if targets is None:
            return Output(logits, report=report)
        weight_VD = self.embedding.weight if self.head is None else self.head.weight
        losses = {"cross_entropy": cross_entropy(x_BTD.flatten(0, 1), weight_VD, targets.flatten()), **report.losses}
        return Output(logits, torch.stack(list(losses.values())).sum(), losses, report)

    def _logits(self, x_BTD: Tensor) -> Tensor:
        logits: Tensor = F.linear(x_BTD, self.embedding.weight) if self.head is None else self.head(x_BTD)
        return logits

    def pack(self) -> Self:
        """Lay the matrices out anew for decoding on a CPU, in place; the model computes the same, faster.

        A packed model still has every weight, once, and can be saved; to train it or to move it, call `unpack`.  Where
        no matrix gains by it, as on a GPU, nothing happens.  Tied embeddings stay as they are, since both of their uses
        read them.
        """
        pack(self)
        self.packed = any(isinstance(module, PackedLinear) for module in self.modules())
        return self

    def unpack(self) -> Self:
        """Undo `pack`: the same parameters, with the values that they had."""
        unpack(self)
        self.packed = False
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `cuda` and `bfloat16` come down to; refused here, before a part of the model has moved.
        if self.packed:
            raise ValueError("a packed model stays on the CPU and in its dtype; call unpack() first.")
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def init_state(
        self,
        batch_size: int,
        max_length: int | None = None,
        *,
        max_rewind: int = 0,
        dtype: torch.dtype | None = None,
    ) -> State:
        """An empty decoding state for `forward(…, state=…)`.

        Args:
            batch_size: rows.
            max_length: tokens that a row can hold; left out, the config's.
            max_rewind: how many tokens `state.rewind` can take back.
            dtype: of the caches; left out, the dtype that products run in.

        Raises:
            ValueError: for an encoder, which has no decoding, and when its parts cannot decode exactly or that far.
        """
        if self.config.stack != "decoder":
            raise ValueError(f"stack: an {self.config.stack} does not decode, so it has no decoding state.")
        max_length = self.config.max_length if max_length is None else max_length
        if max_length < 1 or batch_size < 1:
            raise ValueError(f"batch_size ({batch_size}) and max_length ({max_length}) must be at least 1.")
        exact = self.config.cache_exact()
        if exact.reason:
            raise ValueError(f"cached decoding of this model would not equal full passes: {exact.reason}.")
        if exact.length is not None and max_length > exact.length:
            end = "positions end at" if exact.length == self._limit else "cached decoding equals full passes up to"
            raise ValueError(f"max_length is {max_length}, but the model's {end} {exact.length}; ask for no more.")
        if dtype is None:
            kind = self.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.embedding.weight.dtype
        layers = [
            block.new_memories(batch_size, max_length, max_rewind, self.device, dtype)
            for block in cast(list[Block], list(self.blocks))
        ]
        return State(batch_size, max_length, max_rewind, layers, self.device)

    def n_parameters(self, embeddings: bool = True) -> int:
        """How many numbers are trained; without `embeddings`, less the token embedding (and output matrix)."""
        total = sum(parameter.numel() for parameter in self.parameters())
        total += sum(module.n_parameters for module in self.modules() if isinstance(module, PackedLinear))
        if embeddings:
            return total
        embedding = self.embedding.weight
        return total - embedding.numel() - (0 if self.head is None else embedding.shape[0] * self.config.d_model)


def _positions(layers: Sequence[LayerConfig]) -> tuple[list[int], list[tuple[PositionConfig, Heads]]]:
    """Which position encoding each layer has, and what they are made from.

    Layers that choose the same one for like attentions share it, unless it belongs to a layer.  One that acts on the
    embeddings acts once, whatever the attentions are.
    """
    first = layers[0].attention.heads()
    places: list[int] = []
    distinct: list[tuple[PositionConfig, Heads]] = []
    for layer in layers:
        need = (layer.position, first if layer.position.embeds else layer.attention.heads())
        if not layer.position.shared or need not in distinct:
            distinct.append(need)
        places.append(distinct.index(need) if layer.position.shared else len(distinct) - 1)
    return places, distinct
