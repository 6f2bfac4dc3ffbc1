"""The model's config, and the complete layer configs that follow from it."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sublayer.config import Config, Count, Flag, Probability, explain, suggest
from sublayer.model.attention import multi_head
from sublayer.model.attention.base import AttentionChoice
from sublayer.model.feed_forward import FeedForwardChoice, gated
from sublayer.model.norm import NormChoice, RMSNormConfig
from sublayer.model.part import CacheExact, InitialisationConfig, ModelPart, StackShape
from sublayer.model.position import PositionChoice, rope
from sublayer.model.residual import ResidualChoice, pre_norm
from sublayer.registry import PartConfig

LAYER_FIELDS = ("position", "attention", "feed_forward", "residual", "norm")
"""What a layer may choose for itself."""


class LayerConfig(BaseModel):
    """One layer, complete: every choice made and every size filled in."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    position: PositionChoice
    attention: AttentionChoice
    feed_forward: FeedForwardChoice
    residual: ResidualChoice
    norm: NormChoice

    def parts(self) -> list[tuple[str, ModelPart]]:
        """The layer's parts by field, those inside others included."""
        found: list[tuple[str, ModelPart]] = []

        def walk(path: str, part: ModelPart) -> None:
            found.append((path, part))
            for name in type(part).model_fields:
                value = getattr(part, name)
                if isinstance(value, ModelPart):
                    walk(f"{path}.{name}", value)

        for name in LAYER_FIELDS:
            walk(name, getattr(self, name))
        return found

    def cache_exact(self, shape: StackShape) -> CacheExact:
        """Whether cached decoding of the layer equals one full pass: the strictest of its parts' statements."""
        return _strictest(part.cache_exact(shape) for _, part in self.parts())


class ModelConfig(Config):
    """A Transformer: its sizes and every choice in it.

    Raises:
        ConfigError: when a value is refused or the composition is illegal; the message names the key, why, and what to
            change.
    """

    stack: Literal["decoder", "encoder"] = "decoder"
    """`decoder`: a token sees only what stands before it; `encoder`: it sees both sides."""
    vocab_size: Count | None = None
    """Number of tokens; left out, the tokenizer's."""
    d_model: Count = 384
    """Width of the residual stream."""
    n_layers: Annotated[Count, Field(le=10_000)] = 6
    """Number of blocks."""
    max_length: Count = 1024
    """Longest sequence that the positions are made for, in tokens."""
    position: PositionChoice = rope.RopeConfig()
    """How a token's position enters."""
    attention: AttentionChoice = multi_head.MultiHeadConfig()
    """The first sublayer of each block."""
    feed_forward: FeedForwardChoice = gated.GatedConfig()
    """The second sublayer of each block."""
    residual: ResidualChoice = pre_norm.PreNormConfig()
    """How the sublayers are wired into the stream."""
    norm: NormChoice = RMSNormConfig()
    """The normalisation that the wiring uses."""
    tied_embeddings: Flag = True
    """Use the token embedding as the output matrix as well (Press and Wolf 2017)."""
    dropout: Probability = 0.0
    """Probability of dropping a value of the embeddings' sum, and of each sublayer's output, in training."""
    initialisation: InitialisationConfig = InitialisationConfig()
    """The random values that a new model starts from."""
    layers: tuple[dict[str, Any], ...] = ()
    """What single layers choose for themselves, repeated cyclically; the same kind merges, another kind replaces."""

    _resolved: tuple[LayerConfig, ...] = PrivateAttr(default=())

    @property
    def shape(self) -> StackShape:
        """The sizes that all layers share."""
        return StackShape(self.stack, self.d_model, self.n_layers, self.max_length, self.dropout, self.initialisation)

    def resolve(self) -> tuple[LayerConfig, ...]:
        """The complete config of each layer.  What is built, counted and checked is read from here."""
        return self._resolved

    def cache_exact(self) -> CacheExact:
        """Whether cached decoding equals one full pass: the strictest of the parts' statements."""
        return _strictest(layer.cache_exact(self.shape) for layer in self._resolved)

    def longest(self) -> int | None:
        """How many positions the model has; None when they do not end."""
        ends = (layer.position.longest(self.shape) for layer in self._resolved)
        return min((end for end in ends if end is not None), default=None)

    @model_validator(mode="after")
    def _compose(self) -> Self:
        layers = [self._layer(number) for number in range(self.n_layers)]
        if self.tied_embeddings and layers[0].position.d_token(self.shape) != self.d_model:
            raise ValueError(
                "tied_embeddings need token vectors as wide as d_model, but the position is concatenated to them; "
                "set tied_embeddings: false or position.combine: add"
            )
        self._resolved = tuple(layers)
        return self

    def _layer(self, number: int) -> LayerConfig:
        change = self.layers[number % len(self.layers)] if self.layers else {}
        place = ("layers", number % len(self.layers)) if change else ()
        chosen: dict[str, Any] = {}
        for key in change:
            if key not in LAYER_FIELDS:
                raise _located(
                    (*place, key),
                    f"a layer cannot choose '{key}' for itself; {suggest(key, list(LAYER_FIELDS))}",
                )
        for name in LAYER_FIELDS:
            part: ModelPart = getattr(self, name)
            where: tuple[str | int, ...] = (name,)
            if name in change and _fills(part, self.shape):  # what is wrong for all layers is no single one's fault
                where = (*place, name)
                part = self._overridden(part, change[name], where)
            if self.shape.direction not in part.directions:
                raise _located(where, f"'{part.kind_name()}' is not defined for a {self.stack}; choose another")
            try:
                chosen[name] = part.filled(self.shape)
            except ValueError as error:
                raise _located(where, str(error)) from None
        layer = LayerConfig(**chosen)
        if "position" in change and layer.position != self.position.filled(self.shape):
            for position in (layer.position, self.position):
                if position.embeds:
                    raise _located(
                        (*place, "position"),
                        f"'{position.kind_name()}' acts on the embeddings, so it is chosen for the whole stack; "
                        "choose it at model.position and let no layer change it",
                    )
        try:
            layer.position.check(self.shape, layer.attention.heads())
        except ValueError as error:
            cause = next((name for name in ("position", "attention") if name in change), None)
            raise _located((*place, cause) if cause else ("position",), str(error)) from None
        return layer

    @staticmethod
    def _overridden(part: PartConfig, change: Any, where: tuple[str | int, ...]) -> Any:
        try:
            return part.override(change)
        except PydanticCustomError as error:
            raise _located(where, error.message()) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _located((*where, *first["loc"]), explain(first)) from None


def _strictest(statements: Iterable[CacheExact]) -> CacheExact:
    lengths: list[int] = []
    for exact in statements:
        if exact.reason:
            return exact
        if exact.length is not None:
            lengths.append(exact.length)
    return CacheExact(length=min(lengths, default=None))


def _fills(part: ModelPart, shape: StackShape) -> bool:
    try:
        part.filled(shape)
    except ValueError:
        return False
    return True


def _located(where: tuple[str | int, ...], message: str) -> ValidationError:
    """An error that pydantic places below the key that is being validated."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    details: InitErrorDetails = {"type": error, "loc": where, "input": None}
    return ValidationError.from_exception_data("ModelConfig", [details])
