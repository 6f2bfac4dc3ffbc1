"""Randomized positions (Ruoss et al. 2023, section 3)."""

from typing import Any

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import Layout, ModelConfig, Transformer
from sublayer.model.layout import Span
from sublayer.model.position.alibi import Alibi
from sublayer.model.position.randomized import Randomized

INSIDE: list[Any] = [
    "learned",
    "sinusoidal",
    "rope",
    "alibi",
    "t5",
    "kerple",
    "learned_bias",
    "transformer_xl",
    {"kind": "shaw", "max_distance": 9},
    {"kind": "rope", "scaling": {"kind": "dynamic_ntk", "original_length": 12}},
]


def model(inside: Any, **changes: object) -> Transformer:
    values: dict[str, object] = {
        "vocab_size": 11,
        "d_model": 16,
        "n_layers": 3,
        "max_length": 24,
        "attention": {"n_heads": 2},
        "position": {"kind": "randomized", "position": inside, "max_position": 100},
        "initialisation": {"std": None, "embedding_std": 1.0},
    }
    return Transformer(ModelConfig(**values | changes)).double()


TOKENS = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("inside", INSIDE, ids=str)
def test_training_sees_a_rising_draw_and_evaluation_places(inside: Any) -> None:
    transformer = model(inside)
    torch.manual_seed(3)
    trained = transformer(TOKENS).logits
    torch.manual_seed(3)
    drawn = torch.randperm(100)[:9].sort().values
    assert drawn[0] > 0
    transformer.eval()
    # Given the same positions, an encoding without a draw, to which the model in evaluation is equal, says the same.
    given = transformer(TOKENS, Layout(positions_BT=drawn.repeat(2, 1))).logits
    torch.testing.assert_close(trained, given)
    plain = transformer(TOKENS).logits
    assert not torch.allclose(plain, trained, atol=1e-3)
    state = torch.get_rng_state()
    assert torch.equal(transformer(TOKENS).logits, plain)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn in evaluation"


def test_every_pass_draws_anew_from_torch_s_generator_and_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = model("transformer_xl")
    assert len(transformer.positions) == 3
    draws = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **options: draws.append(1) or draw(*args, **options))
    torch.manual_seed(0)
    first = transformer(TOKENS).logits
    second = transformer(TOKENS).logits
    assert len(draws) == 2
    assert not torch.allclose(first, second, atol=1e-3)
    torch.manual_seed(0)
    assert torch.equal(transformer(TOKENS).logits, first)


@pytest.mark.parametrize("inside", ["rope", "t5", "learned", {"kind": "shaw", "max_distance": 9}], ids=str)
def test_patterns_and_documents_are_told_the_places_and_not_the_draw(inside: Any) -> None:
    """A document's token depends on it alone, and a window is as wide as ever."""
    transformer = model(inside, attention={"n_heads": 2, "pattern": {"kind": "window", "size": 2}}, n_layers=1)
    documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
    changed = TOKENS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return transformer(tokens, Layout(document_BT=documents)).logits

    moved = (logits(changed) - logits(TOKENS)).abs().amax((0, 2)) > 1e-9
    assert moved.tolist() == [False] * 5 + [True, True] + [False] * 2


def test_documents_of_a_row_share_the_draw_from_its_first_position_on() -> None:
    randomized = Randomized(Alibi(1), 100)
    layout = Layout(document_BT=torch.tensor([[0, 0, 1, 1, 1]])).resolved(5, torch.device("cpu"))
    drawn = randomized._layout(layout).positions_BT[0]
    assert (drawn[1:2] > drawn[0]).all() and (drawn[3:].diff() > 0).all()
    assert torch.equal(drawn[:2], drawn[2:4])
    span = Span.within(layout, plain=False)
    assert torch.equal(randomized._drawn_span(span).query_positions[0], drawn), "one draw for both"


def test_every_set_of_positions_is_as_likely_as_any_other() -> None:
    randomized, counts = Randomized(Alibi(1), 5), torch.zeros(5)
    torch.manual_seed(0)
    for _ in range(4000):
        layout = Layout().resolved(2, torch.device("cpu"))
        places = randomized._layout(layout).positions_BT[0]
        assert 0 <= places[0] < places[1] < 5
        counts[places] += 1
    assert (counts / 4000 - 2 / 5).abs().max() < 0.03


def test_the_encoding_inside_is_made_for_all_positions_that_may_be_drawn() -> None:
    assert model("learned").positions[0].inside.weight.shape == (100, 16)
    left_out = model("learned", position={"kind": "randomized", "position": "learned"})
    assert left_out.positions[0].inside.weight.shape == (4 * 24, 16)
    for inside in ("learned", "rope"):
        model(inside)(torch.zeros(1, 100, dtype=torch.int64))
        with pytest.raises(ValueError, match="101 tokens are given, but the model's positions end at 100"):
            model(inside)(torch.zeros(1, 101, dtype=torch.int64))
    assert str(model("learned").config.cache_exact()) == "until length 100"
    assert str(model("rope").config.cache_exact()) == "until length 100", "a full pass ends there too"


def test_weights_and_sharing_are_those_of_the_encoding_inside() -> None:
    def names(inside: Any) -> list[str]:
        return [name for name, _ in model(inside).named_parameters() if name.startswith("positions")]

    assert names("t5") == ["positions.0.inside.weight"]
    assert names("learned_bias") == [f"positions.{n}.inside.weight" for n in range(3)]
    assert names("rope") == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_position": 23}, r"max_position \(23\) is below max_length \(24\)"),
        ({"position": "randomized"}, "drawn once; choose another encoding inside"),
        ({"position": {"kind": "learned", "d_position": 3}}, "an added position is as wide as d_model"),
        ({"position": {"kind": "rope", "fraction": 0.1}}, "rope rotates pairs"),
    ],
)
def test_what_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        model("rope", position={"kind": "randomized"} | options)


def test_an_encoding_that_an_encoder_has_none_of_is_refused_inside_too() -> None:
    with pytest.raises(ConfigError, match="'fire' is not defined for an encoder; choose another inside"):
        model("fire", stack="encoder")


def test_it_is_chosen_for_the_whole_stack_where_the_encoding_inside_is() -> None:
    model("rope", layers=[{}, {"position": "none"}])
    with pytest.raises(ConfigError, match="'randomized' acts on the embeddings"):
        model("learned", layers=[{}, {"position": "none"}])


def test_a_layout_that_leaves_places_out_can_be_trained_on() -> None:
    places = torch.tensor([[0, 1, 2, 20, 21, 99]])
    net = model("learned").train()
    net(torch.zeros(1, 6, dtype=torch.int64), Layout(positions_BT=places))
    drawn = net.positions[0]._layout(Layout(positions_BT=places)).positions_BT
    assert torch.equal(drawn, places), "all 100 are drawn, so each place is its own"
    fewer = net.positions[0]._layout(Layout(positions_BT=places[:, :5])).positions_BT
    assert (fewer.diff() > 0).all()
    assert fewer.max() < 100
    assert (fewer >= places[:, :5]).all()
