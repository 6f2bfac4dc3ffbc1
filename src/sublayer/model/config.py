"""The model's config, and the complete layer configs that follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from sublayer.config import Config, Count, Flag, Place, Probability, located, suggest
from sublayer.model.attention import differential, latent, multi_head  # noqa: F401  (an attention is registered by its import)
from sublayer.model.attention.base import AttentionChoice
from sublayer.model.embedding import EmbeddingConfig
from sublayer.model.experts import ExpertsConfig  # noqa: F401  (as above)
from sublayer.model.feed_forward import FeedForwardChoice, gated
from sublayer.model.head import HeadChoice, TokenHeadConfig
from sublayer.model.norm import NormChoice, RMSNormConfig
from sublayer.model.part import CacheExact, InitialisationConfig, ModelPart, StackShape
from sublayer.model.position import PositionChoice, rope
from sublayer.model.residual import ResidualChoice, pre_norm
from sublayer.model.resolution import CROSS, LAYER_FIELDS, LayerConfig, overridden, resolved, strictest

MOST_LAYERS = 10_000


class ModelConfig(Config):
    """A Transformer: its sizes and every choice in it.

    Raises:
        ConfigError: when a value is refused or the composition is illegal; the message names the key, why, and what to
            change.
    """

    stack: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    """`decoder`: a token sees only what stands before it; `encoder`: it sees both sides; `encoder_decoder`: an encoder
    reads a source, and a decoder attends to what it makes of it."""
    vocab_size: Count | None = None
    """Number of tokens; left out, the tokenizer's."""
    d_model: Count = 384
    """Width of the residual stream."""
    n_layers: Annotated[Count, Field(le=MOST_LAYERS)] = 6
    """Number of blocks; of an encoder_decoder, in the decoder."""
    max_length: Count = 1024
    """Longest sequence that the positions are made for, in tokens."""
    position: PositionChoice = rope.RopeConfig()
    """How a token's position enters."""
    attention: AttentionChoice = multi_head.MultiHeadConfig()
    """The first sublayer of each block."""
    cross_attention: AttentionChoice | None = None
    """How an encoder_decoder's decoder attends to the encoder; left out, as it does to itself, without a pattern."""
    feed_forward: FeedForwardChoice = gated.GatedConfig()
    """The last sublayer of each block."""
    residual: ResidualChoice = pre_norm.PreNormConfig()
    """How the sublayers are wired into the stream."""
    norm: NormChoice = RMSNormConfig()
    """The normalisation that the wiring uses."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """How tokens become vectors."""
    head: HeadChoice = TokenHeadConfig()
    """What is made of the last hidden states."""
    tied_embeddings: Flag = True
    """Use the token embedding as the output matrix as well (Press and Wolf 2017); of a head over tokens."""
    final_norm: Flag | None = None
    """Normalise what leaves the last block; left out, where its wiring has it so."""
    dropout: Probability = 0.0
    """Probability of dropping a value of the embeddings' sum, and of each sublayer's output, in training."""
    stochastic_depth: Probability = 0.0
    """Probability of leaving out a sublayer of the last block for a sequence, in training; of the others, less in
    proportion to their depth (Huang et al. 2016, section 3)."""
    initialisation: InitialisationConfig = InitialisationConfig()
    """The random values that a new model starts from."""
    layers: tuple[dict[str, Any], ...] = ()
    """What single layers choose for themselves, repeated cyclically; the same kind merges, another kind replaces."""

    encoder: dict[str, Any] = Field(default={})
    """What the encoder of an encoder_decoder has other than the decoder: `n_layers`, `layers`, and any choice of a
    layer; the same kind merges, another kind replaces."""

    _encoder: tuple[LayerConfig, ...] = PrivateAttr(default=())
    _resolved: tuple[LayerConfig, ...] = PrivateAttr(default=())

    @property
    def shape(self) -> StackShape:
        """The sizes that all layers share; of an encoder_decoder, those of its decoder."""
        return StackShape(
            "encoder" if self.stack == "encoder" else "decoder",
            self.d_model,
            self.n_layers,
            self.max_length,
            self.dropout,
            self.initialisation,
            self.stochastic_depth,
            other_layers=self._encoder_depth() if self.stack == "encoder_decoder" else 0,
        )

    @property
    def encoder_shape(self) -> StackShape:
        """The sizes that the layers of an encoder_decoder's encoder share."""
        return replace(self.shape, stack="encoder", n_layers=self._encoder_depth(), other_layers=self.n_layers)

    def _encoder_depth(self) -> int:
        n_layers = self.encoder.get("n_layers", self.n_layers)
        if isinstance(n_layers, bool) or not isinstance(n_layers, int) or not 1 <= n_layers <= MOST_LAYERS:
            raise located(("encoder", "n_layers"), f"must be an integer from 1 to {MOST_LAYERS}, not {n_layers!r}")
        return n_layers

    def resolve(self) -> tuple[LayerConfig, ...]:
        """The complete config of each layer; of an encoder_decoder, of its decoder's.

        What is built, counted and checked is read from here.
        """
        return self._resolved

    def resolve_encoder(self) -> tuple[LayerConfig, ...]:
        """The complete config of each layer of an encoder_decoder's encoder; of the other stacks, none."""
        return self._encoder

    def all_layers(self) -> tuple[LayerConfig, ...]:
        """Those of the encoder, where there is one beside, and then the stack's."""
        return (*self._encoder, *self._resolved)

    def cache_exact(self) -> CacheExact:
        """Whether cached decoding equals one full pass: the strictest of the parts' statements."""
        return strictest(layer.cache_exact(self.shape) for layer in self._resolved)

    def longest(self) -> int | None:
        """The longest sequence that the positions are made for, in tokens; None when they do not end."""
        encoder = (layer.position.longest(self.encoder_shape) for layer in self._encoder)
        ends = (*encoder, *(layer.position.longest(self.shape) for layer in self._resolved))
        return min((end for end in ends if end is not None), default=None)

    @model_validator(mode="after")
    def _compose(self) -> Self:
        chosen: dict[str, ModelPart] = {name: getattr(self, name) for name in LAYER_FIELDS}
        places: dict[str, Place] = {name: (name,) for name in LAYER_FIELDS}
        if self.stack == "encoder_decoder":
            self._encoder = self._resolved_encoder(chosen, places)
            chosen |= {CROSS: self.cross_attention or self.attention.across()}
            places |= {CROSS: (CROSS,) if self.cross_attention else ("attention",)}
        else:
            self._refuse_without_encoder()
        self._resolved = resolved(chosen, places, self.layers, ("layers",), self.shape)
        try:
            self.head.filled(self.shape)
        except ValueError as error:
            raise located(("head",), str(error)) from None
        widths = {layer.position.d_token(self.shape) for layer in (*self._resolved[:1], *self._encoder[:1])}
        if len(widths) > 1:
            raise located(
                ("encoder", "position"),
                "encoder and decoder read the same token embeddings, but their positions leave them different widths; "
                "choose the same combine and d_position for both",
            )
        if self.tied_embeddings and widths != {self.d_model}:
            raise ValueError(
                "tied_embeddings need token vectors as wide as d_model, but the position is concatenated to them; "
                "set tied_embeddings: false or position.combine: add"
            )
        return self

    def _resolved_encoder(
        self, chosen: Mapping[str, ModelPart], places: Mapping[str, Place]
    ) -> tuple[LayerConfig, ...]:
        """The encoder's layers: what the decoder's have, with the encoder's own choices."""
        known = ["n_layers", "layers", *LAYER_FIELDS]
        for key in self.encoder:
            if key not in known:
                raise located(("encoder", key), f"an encoder cannot choose '{key}' for itself; {suggest(key, known)}")
        own = {
            name: overridden(part, self.encoder[name], ("encoder", name))
            for name, part in chosen.items()
            if name in self.encoder
        }
        where = {name: ("encoder", name) if name in own else place for name, place in places.items()}
        return resolved({**chosen, **own}, where, self._encoder_layers(), ("encoder", "layers"), self.encoder_shape)

    def _encoder_layers(self) -> Sequence[Mapping[str, Any]]:
        layers = self.encoder.get("layers", ())
        if not isinstance(layers, list | tuple) or not all(isinstance(layer, Mapping) for layer in layers):
            raise located(("encoder", "layers"), "must be a list of what single layers choose, as model.layers is")
        return layers

    def _refuse_without_encoder(self) -> None:
        for name in ("encoder", CROSS):
            if getattr(self, name):
                raise located(
                    (name,), f"has no effect, as stack is {self.stack}; leave it out or set stack: encoder_decoder"
                )
