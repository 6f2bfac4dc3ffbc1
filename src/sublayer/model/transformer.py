"""The Transformer.

Shapes: B batch, T tokens, D d_model, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model.config import ModelConfig
from sublayer.model.embedding import Embedding
from sublayer.model.head import Head
from sublayer.model.initialise import initialise
from sublayer.model.layout import Layout
from sublayer.model.packed import Packed, pack, unpack
from sublayer.model.precision import at_least_float32
from sublayer.model.report import EMPTY, Report
from sublayer.model.source import Encoded, Source
from sublayer.model.stack import Stack
from sublayer.model.state import State
from sublayer.model.sublayer import Scope, Sublayer

WANTED = frozenset({"attention", "routing", "logits"})
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


class Transformer(Stack):
    """A stack of `x + Sublayer(Norm(x))`, as its config names it, with embeddings below and a head on top.

    An encoder_decoder has a second stack beside it, the encoder, which reads the source through the same embeddings.

    Args:
        config: every choice; `vocab_size` must be given.
        seed: of the initial values, each tensor drawn from (seed, its own name).

    Attributes:
        config: as given.
        packed: whether matrices of it are packed; see `pack`.

    Raises:
        ConfigError: when `vocab_size` is left out, or the number of classes of a head over classes.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        if config.vocab_size is None:
            raise ConfigError("vocab_size: is required to build a model; in a run it comes from the tokenizer.")
        shape, layers = config.shape, config.resolve()
        # The values that torch's constructors draw are replaced below; the caller's generator stays untouched.
        with torch.random.fork_rng(devices=[]):
            super().__init__(layers, shape, config.final_norm)
            self.config = config
            self.packed = False
            self._longest = config.longest()
            encoding = config.resolve_encoder()
            self.encoder = Stack(encoding, config.encoder_shape, config.final_norm) if encoding else None
            width = layers[0].position.d_token(shape)
            self.embedding = Embedding(config.embedding, config.vocab_size, width, shape)
            self.head: Head = config.head.build(shape, config.vocab_size, layers[-1].norm, config.tied_embeddings)
        if not self.embedding.weight.is_meta:
            initialise(self, seed)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def forward(
        self,
        tokens_BT: Tensor,
        layout: Layout | None = None,
        *,
        source: Source | Encoded | Tensor | None = None,
        state: State | None = None,
        targets: Tensor | None = None,
        logits_at: Tensor | None = None,
        want: Iterable[str] = (),
    ) -> Output:
        """Logits, or with targets the loss.

        Args:
            tokens_BT: token ids (int64).
            layout: positions, documents and padding; left out, a plain batch.
            source: what the encoder of an encoder_decoder reads: tokens [B, S], with their layout where it is not
                plain, or what `encode` made of them.  While decoding it is given with the first tokens.
            state: a decoding state from `init_state`; the tokens go on from what it holds, and it takes them in.
            targets: [B, T] the token to predict at each place, −100 where none is.  The loss is computed in chunks and
                the logits are not kept.  Of a head over classes: [B] the class of each row.
            logits_at: [B] the one place of each row whose logits are wanted, as of a prompt: [B, 1, V] then
                stand in memory instead of [B, T, V].
            want: "attention" for attention weights in the report; "routing" for what routers decide; "logits" for
                logits beside the loss.

        Raises:
            ValueError: when the layout does not fit the tokens, the state is full, or a source is missing or too many.
        """
        wanted = frozenset(want)
        if not wanted <= WANTED:
            raise ValueError(f"want: {sorted(wanted - WANTED)} cannot be returned; choose from {sorted(WANTED)}.")
        layout = layout or Layout()
        self._check(tokens_BT, layout, targets, logits_at)
        told = wanted - {"logits"}
        encoded, report = self._encoded(source, state, told)
        plain = layout.plain
        n_tokens = tokens_BT.shape[1]
        if state is None:
            layout = layout.resolved(n_tokens, tokens_BT.device)
        else:
            layout = state.advance(layout, n_tokens)
            if encoded is not None:
                state.take_source()  # only now: a call that is refused changes nothing

        x_BTD = self.embedding(tokens_BT, layout, self.position(0))
        x_BTD, below = self.through(x_BTD, tokens_BT, layout, plain, encoded, state, told)
        report = report + below if below is not EMPTY else report
        if logits_at is not None:
            x_BTD = x_BTD.gather(1, logits_at[:, None, None].expand(-1, 1, x_BTD.shape[-1]))
        x_BTD = self.normalised(x_BTD)

        embedding_VD = self.embedding.weight
        logits = None
        if targets is None or "logits" in wanted:
            logits = at_least_float32(self.head(x_BTD, layout, embedding_VD))
        if targets is None:
            return Output(logits, report=report)
        losses = {"cross_entropy": self.head.loss(x_BTD, layout, embedding_VD, targets), **report.losses}
        losses |= self.auxiliary(report)
        return Output(logits, torch.stack(list(losses.values())).sum(), losses, report)

    def encode(self, source: Source | Tensor, want: Iterable[str] = ()) -> Encoded:
        """What the encoder of an encoder_decoder makes of a source, to be given to `forward` in its place.

        Args:
            source: tokens [B, S], with their layout where it is not plain.
            want: "attention" for attention weights in the report, "routing" for what routers decide.

        Raises:
            ValueError: when the model has no encoder beside it, or the layout does not fit the tokens.
        """
        if self.encoder is None:
            raise ValueError(f"source: {self.config.shape.words} reads its tokens alone; leave the source out.")
        # (Dynamo does not follow the default of a layout that is left out.)
        source = source if isinstance(source, Source) else Source(source, Layout())
        self._check(source.tokens_BS, source.layout)
        plain = source.layout.plain
        layout = source.layout.resolved(source.tokens_BS.shape[1], source.tokens_BS.device)
        x_BSD = self.embedding(source.tokens_BS, layout, self.encoder.position(0))
        x_BSD, report = self.encoder.through(x_BSD, source.tokens_BS, layout, plain, want=frozenset(want))
        return Encoded(self.encoder.normalised(x_BSD), layout, report.under("encoder"))

    def boxes(self) -> Iterator[tuple[str, Sublayer]]:
        """The sublayers of all blocks, of an encoder beside as well, by the names that their reports have."""
        if self.encoder is not None:
            yield from ((f"encoder.{name}", box) for name, box in self.encoder.boxes())
        yield from super().boxes()

    def scopes(self) -> frozenset[Scope]:
        """What the sublayers' auxiliary losses are meant for; none where there are no such losses."""
        return frozenset[Scope]().union(*(box.scopes() for _, box in self.boxes()))

    def auxiliary(self, told: Report, scope: Scope | None = None) -> dict[str, Tensor]:
        """The sublayers' losses, by name, that follow from sums over tokens.

        `forward` adds those of its own tokens.  To have them of more tokens, as of all micro-batches of a step, add up
        the sums and counts of their reports.

        Args:
            told: by the passes over these tokens.
            scope: only the losses that are meant for this much of a step's tokens; None for all.
        """
        if not told.sums:
            return {}
        return {
            f"{name}.{loss}": value
            for name, box in self.boxes()
            for loss, value in box.auxiliary(told.below(name), scope).items()
        }

    def adjust(self, counts: Mapping[str, Tensor]) -> None:
        """Change what is changed without a gradient, after an optimizer step: biases that balance experts.

        Args:
            counts: that the step's passes told, added up.
        """
        told = Report(counts=counts)
        for name, box in self.boxes():
            box.adjust(told.below(name).counts)

    def _encoded(
        self, source: Source | Encoded | Tensor | None, state: State | None, want: frozenset[str]
    ) -> tuple[Encoded | None, Report]:
        """The encoder's output and report, where this call has a source; it must, once."""
        sourced = state is not None and state.sourced
        if source is None:
            if self.encoder is not None and not sourced:
                raise ValueError("source: an encoder_decoder needs one, the tokens [B, S] that its encoder reads.")
            return None, EMPTY
        if sourced:
            raise ValueError("source: the state remembers one already; give it with the first tokens only.")
        encoded = source if isinstance(source, Encoded) else self.encode(source, want)
        return encoded, encoded.report

    def _check(
        self, tokens: Tensor, layout: Layout, targets: Tensor | None = None, logits_at: Tensor | None = None
    ) -> None:
        layout.check(tokens)
        if targets is not None and self.packed:
            raise ValueError("targets: a packed model computes no loss; call unpack() first.")
        if targets is not None and logits_at is not None:
            raise ValueError("logits_at: the loss needs every place; give either targets or logits_at.")
        by_token = self.config.head.by_token
        if logits_at is not None and not by_token:
            raise ValueError("logits_at: a head over classes has one place a row; leave it out.")
        if targets is not None and targets.shape != (tokens.shape if by_token else tokens.shape[:1]):
            beside = f"the tokens {tuple(tokens.shape)}" if by_token else f"a class is needed for {len(tokens)} rows"
            raise ValueError(f"targets have shape {tuple(targets.shape)}, but {beside}.")
        if layout.positions_BT is None and self._longest is not None and tokens.shape[1] > self._longest:
            raise ValueError(f"{tokens.shape[1]} tokens are given, but the model's positions end at {self._longest}.")

    def pack(self) -> Self:
        """Lay the matrices out anew for decoding on a CPU, in place; the model computes the same, faster.

        A packed model still has every weight, once, and can be saved; to train it or to move it, call `unpack`.  Where
        no matrix gains by it, as on a GPU, nothing happens.  Tied embeddings stay as they are, since both of their uses
        read them.
        """
        pack(self)
        self.packed = any(isinstance(module, Packed) for module in self.modules())
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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module.

        Raises:
            ValueError: when the model is packed; nothing is loaded then.
        """
        if self.packed:
            raise ValueError("a packed model takes no other weights; call unpack() first.")
        return super().load_state_dict(state_dict, strict, assign)

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
        if self.config.stack == "encoder":
            raise ValueError("stack: an encoder does not decode, so it has no decoding state.")
        max_length = self.config.max_length if max_length is None else max_length
        if max_length < 1 or batch_size < 1:
            raise ValueError(f"batch_size ({batch_size}) and max_length ({max_length}) must be at least 1.")
        exact = self.config.cache_exact()
        if exact.reason:
            raise ValueError(f"cached decoding of this model would not equal full passes: {exact.reason}.")
        if exact.length is not None and max_length > exact.length:
            end = "positions end at" if exact.length == self._longest else "cached decoding equals full passes up to"
            raise ValueError(f"max_length is {max_length}, but the model's {end} {exact.length}; ask for no more.")
        if dtype is None:
            kind = self.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.embedding.weight.dtype
        layers = self.new_memories(batch_size, max_length, max_rewind, self.device, dtype)
        return State(batch_size, max_length, max_rewind, layers, self.device)

    def n_parameters(self, embeddings: bool = True) -> int:
        """How many numbers are trained; without `embeddings`, less the token embedding (and output matrix)."""
        total = sum(parameter.numel() for parameter in self.parameters())
        total += sum(module.n_parameters for module in self.modules() if isinstance(module, Packed))
        if embeddings:
            return total
        total -= self.embedding.weight.numel()
        if self.config.head.by_token and not self.config.tied_embeddings:
            total -= self.embedding.weight.shape[0] * self.config.d_model
        return total
