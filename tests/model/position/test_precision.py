"""What positions add to scores is in float32 at least, whatever the model computes in."""

import copy

import pytest
import torch

from sublayer.model.attention.score import ScoreChange
from sublayer.model.layout import Layout, Span
from sublayer.model.part import Heads, StackShape
from sublayer.model.position import Position, PositionConfig

SHAPE = StackShape("decoder", 16, n_layers=1, max_length=64)
POSITIONS = torch.arange(40)[None]


def position(kind: str) -> Position:
    built: Position = PositionConfig.registry.parse(kind).filled(SHAPE).build(SHAPE, Heads(4, 8))
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return built.eval()


def change(built: Position, dtype: torch.dtype) -> tuple[ScoreChange | None, Span]:
    generator, span = torch.Generator().manual_seed(1), Span(POSITIONS, POSITIONS, aligned=True)
    q, k = torch.randn(1, 4, 40, 8, generator=generator), torch.randn(1, 2, 40, 8, generator=generator)
    q, k = built.rotate(q.bfloat16().to(dtype), k.bfloat16().to(dtype), Layout(POSITIONS))
    return built.prepare(q, k, span, 0.35), span


CHANGES = [part.kind_name() for part in PositionConfig.registry if change(position(part.kind_name()), torch.float32)[0]]


def test_the_encodings_that_change_scores() -> None:
    assert {"alibi", "t5", "shaw", "cope"} <= set(CHANGES)


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_bias_in_bfloat16_is_computed_and_kept_in_float32(kind: str, autocast: bool) -> None:
    """With weights of bfloat16, and with weights of float32 under autocast, which would round products."""
    built = position(kind).bfloat16()  # so that both models have the same numbers
    exact, span = change(copy.deepcopy(built).double(), torch.float64)
    rounded = built.float() if autocast else built
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = change(rounded, torch.bfloat16)[0].dense(span)
        values = torch.rand(1, 4, 40, 40).softmax(-1)
        beside = change(rounded, torch.bfloat16)[0].values(values, span) if exact.changes_values else None
    assert found.dtype == torch.float32
    visible = POSITIONS[0, :, None] >= POSITIONS[0]
    room = 3e-2 if kind in ("transformer_xl", "cope") else 2e-5  # its queries were rounded, or its keys count
    torch.testing.assert_close(
        found[..., visible].double(), exact.dense(span)[..., visible].double(), rtol=room, atol=room
    )
    if beside is not None:
        expected = exact.values(values.double(), span)
        torch.testing.assert_close(beside.double(), expected.double(), rtol=1e-5, atol=1e-5)
