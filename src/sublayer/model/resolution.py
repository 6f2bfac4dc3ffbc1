"""The complete config of each layer of a stack: what all layers choose, and what single ones change."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from sublayer.config import Place, explained, located, suggest
from sublayer.model.attention.base import AttentionChoice, AttentionConfig
from sublayer.model.feed_forward import FeedForwardChoice
from sublayer.model.norm import NormChoice
from sublayer.model.part import CacheExact, ModelPart, StackShape
from sublayer.model.position import PositionChoice, none
from sublayer.model.residual import ResidualChoice

LAYER_FIELDS = ("position", "attention", "feed_forward", "residual", "norm")
"""What every layer may choose for itself."""

CROSS = "cross_attention"
"""What a layer of a decoder with an encoder may choose besides."""


class LayerConfig(BaseModel):
    """One layer, complete: every choice made and every size filled in."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    position: PositionChoice
    attention: AttentionChoice
    cross_attention: AttentionConfig | None = None
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

        for name in type(self).model_fields:
            if getattr(self, name) is not None:
                walk(name, getattr(self, name))
        return found

    def cache_exact(self, shape: StackShape) -> CacheExact:
        """Whether cached decoding of the layer equals one full pass: the strictest of its parts' statements."""
        return strictest(part.cache_exact(shape) for _, part in self.parts())


def resolved(
    chosen: Mapping[str, ModelPart],
    places: Mapping[str, Place],
    changes: Sequence[Mapping[str, Any]],
    where: Place,
    shape: StackShape,
) -> tuple[LayerConfig, ...]:
    """The layers of a stack.

    Args:
        chosen: what all of them have, by field.
        places: where each of those stands in the config.
        changes: what single layers choose for themselves, repeated cyclically.
        where: the place of `changes`.
        shape: of the stack.

    Raises:
        ValidationError: when a choice is refused, with its place.
    """
    return tuple(
        _Layer(
            chosen, places, changes[number % len(changes)], (*where, number % len(changes)), shape, number
        ).complete()
        if changes
        else _Layer(chosen, places, {}, where, shape, number).complete()
        for number in range(shape.n_layers)
    )


class _Layer:
    """One layer on its way to being complete."""

    def __init__(
        self,
        chosen: Mapping[str, ModelPart],
        places: Mapping[str, Place],
        change: Mapping[str, Any],
        where: Place,
        shape: StackShape,
        number: int,
    ) -> None:
        self.chosen, self.places, self.change, self.where = chosen, places, change, where
        self.shape, self.number = shape, number

    def complete(self) -> LayerConfig:
        for key in self.change:
            if key not in self.chosen:
                raise located(
                    (*self.where, key),
                    f"a layer cannot choose '{key}' for itself; {suggest(key, list(self.chosen))}",
                )
        layer = LayerConfig(**{name: self._part(name) for name in self.chosen})
        self._refuse_what_is_the_stack_s(layer)
        refused = "position"
        try:
            layer.position.check(self.shape, layer.attention.heads(), layer.attention.seen(self.shape.direction))
            refused = "attention"
            layer.attention.check(layer.position)
            if layer.cross_attention is not None:
                refused = CROSS
                layer.cross_attention.check(none.NoPositionConfig())  # there is none between two sequences
        except ValueError as error:
            cause = next((name for name in (refused, "position", "attention") if name in self.change), None)
            raise located((*self.where, cause) if cause else self.places[refused], str(error)) from None
        return layer

    def _part(self, name: str) -> ModelPart:
        """One choice, with its sizes."""
        part, place = self.chosen[name], self.places[name]
        if name in self.change and _fills(
            name, part, self.shape
        ):  # what is wrong for all layers is no single one's fault
            place = (*self.where, name)
            part = overridden(part, self.change[name], place)
        try:
            if name in self.change:
                part.check_alone(self.chosen[name])
            part = part.in_layer(self.number, self.shape)
        except ValueError as error:
            raise located(place, str(error)) from None
        if self.shape.direction not in part.directions:
            raise located(place, f"'{part.kind_name()}' is not defined for {self.shape.words}; choose another")
        try:
            return _filled(name, part, self.shape)
        except ValueError as error:
            raise located(place, str(error)) from None

    def _refuse_what_is_the_stack_s(self, layer: LayerConfig) -> None:
        if "position" in self.change:
            self._refuse_another("position", layer.position, lambda part: part.embeds, "acts on the embeddings")
        if "residual" in self.change:
            self._refuse_another(
                "residual", layer.residual, lambda part: part.whole_stack, "carries a wider stream from layer to layer"
            )

    def _refuse_another(self, name: str, mine: Any, whole: Callable[[Any], bool], why: str) -> None:
        theirs = self.chosen[name].filled(self.shape)
        if mine == theirs:
            return
        for part in (mine, theirs):
            if whole(part):
                raise located(
                    (*self.where, name),
                    f"'{part.kind_name()}' {why}, so it is chosen for the whole stack; "
                    f"choose it at {'.'.join(('model', *map(str, self.places[name])))} and let no layer change it",
                )


def overridden(part: ModelPart, change: Any, place: Place) -> Any:
    """A part with a change to it.

    Raises:
        ValidationError: when the change is refused, placed at `place`.
    """
    try:
        return part.override(change)
    except PydanticCustomError as error:
        raise located(place, error.message()) from None
    except ValidationError as error:
        where, words = explained(error)[0]
        raise located((*place, *where), words) from None


def strictest(statements: Iterable[CacheExact]) -> CacheExact:
    """What holds when all of these have to."""
    lengths: list[int] = []
    for exact in statements:
        if exact.reason:
            return exact
        if exact.length is not None:
            lengths.append(exact.length)
    return CacheExact(length=min(lengths, default=None))


def _filled(name: str, part: ModelPart, shape: StackShape) -> ModelPart:
    if name == CROSS:
        assert isinstance(part, AttentionConfig)
        return part.filled_across(shape)
    return part.filled(shape)


def _fills(name: str, part: ModelPart, shape: StackShape) -> bool:
    try:
        _filled(name, part, shape)
    except ValueError:
        return False
    return True
