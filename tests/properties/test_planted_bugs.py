"""Bugs planted by hand, each of which the grid's statements find: the grid is able to fail.

Each bug is one that could be written: it leaves a model that runs, with finite numbers of the right shapes.  It is put
in before the compositions are built, and only those with the part are drawn, of which the grid itself has enough.  That
nothing is found without a bug, the grid says.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from sublayer.model.attention.kernel.sdpa import Sdpa
from sublayer.model.attention.pattern.base import Near, Reach
from sublayer.model.feed_forward.tail import Tail
from sublayer.model.layout import Layout
from sublayer.model.part import StackShape
from sublayer.model.position import t5
from sublayer.model.position.t5 import T5, T5Config
from tests.properties import statements as _statements  # noqa: F401  (which lists them)
from tests.properties.composition import composition_of
from tests.properties.statement import STATEMENTS, Subject

TRIED = 25
"""Compositions with the part in which a bug has to show."""

ATTENTION = {"kind": "multi_head", "n_heads": 2, "pattern": {"kind": "window", "size": 3}}


def failing(fixed: dict[str, Any]) -> Iterator[str]:
    """The statements that fail for compositions with these parts."""
    for number in range(TRIED):
        subject = Subject(composition_of(number, fixed={"layers": [], "encoder": {}, "cross_attention": None} | fixed))
        for statement in STATEMENTS:
            try:
                statement.put(subject, number)
            except AssertionError:
                yield statement.name


def ring_one_too_small(patch: pytest.MonkeyPatch) -> None:
    """The window's mask is right, and the memory of decoding one token too short for it."""
    patch.setattr(Near, "reach", property(lambda near: Reach(back=max(1, near.back))))


def window_one_too_wide_in_one_kernel(patch: pytest.MonkeyPatch) -> None:
    """`<` for `<=` where one kernel makes its mask."""
    exact = Sdpa._mask

    def mask(self: Sdpa, call: Any) -> Tensor | None:
        span, pattern = call.span, call.pattern
        if isinstance(pattern, Near):
            object.__setattr__(call, "pattern", Near(pattern.back + 1, pattern.ahead))
            object.__setattr__(span, "_memo", {})
        return exact(self, call)

    patch.setattr(Sdpa, "_mask", mask)


def bucket_of_the_next_distance_in_a_decoding_step(patch: pytest.MonkeyPatch) -> None:
    """Distances are counted from the token behind, when there is a single query."""
    exact = T5.buckets
    patch.setattr(T5, "buckets", lambda self, offsets: exact(self, offsets + (1 if offsets.shape[-2] == 1 else 0)))


def tail_not_kept(patch: pytest.MonkeyPatch) -> None:
    """Each call of a decoding starts the convolution anew."""
    exact = Tail.extend

    def extend(self: Tail, x_BTF: Tensor, layout: Layout) -> Any:
        self.kept_BCF = torch.zeros_like(self.kept_BCF)
        return exact(self, x_BTF, layout)

    patch.setattr(Tail, "extend", extend)


DECODING = "decoding_with_a_state_equals_one_full_pass"
BUGS: list[tuple[Callable[[pytest.MonkeyPatch], None], dict[str, Any], str]] = [
    (ring_one_too_small, {"attention": ATTENTION, "stack": "decoder"}, DECODING),
    (window_one_too_wide_in_one_kernel, {"attention": ATTENTION, "position": "rope"}, "every_kernel_computes_the_same"),
    (bucket_of_the_next_distance_in_a_decoding_step, {"position": "t5", "stack": "decoder"}, DECODING),
    (tail_not_kept, {"feed_forward": "convolutional", "stack": "decoder"}, DECODING),
]


@pytest.mark.parametrize(("plant", "fixed", "statement"), BUGS, ids=[plant.__name__ for plant, _, _ in BUGS])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], fixed: dict[str, Any], statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert statement in failing(fixed)


def test_buckets_that_are_wrong_everywhere_alike_are_found_by_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement can tell which bucket is right, so this one is for transformers' own."""
    exact = t5._buckets
    offsets = torch.arange(300)
    expected = T5Attention._relative_position_bucket(-offsets, bidirectional=False)

    def found() -> bool:
        shape = StackShape("decoder", 16, n_layers=2, max_length=64)
        return not torch.equal(T5(T5Config().filled(shape), shape, 2).buckets(offsets), expected)

    assert not found()
    # The last bucket begins at max_distance, as one might think.
    wrong = [*exact(T5Config(bidirectional=False))[:113], *[30] * (128 - 113), 31]
    monkeypatch.setattr(t5, "_buckets", lambda config: wrong)
    assert found()
