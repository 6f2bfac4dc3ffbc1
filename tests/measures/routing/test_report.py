"""The whole report, of models of every kind of router."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from sublayer.data import Batch, DataConfig, Tokenizer, prepare
from sublayer.data.packing import NOT_SCORED, SourceRows
from sublayer.data.sources import TextConfig
from sublayer.errors import ConfigError, DataError, RunError
from sublayer.measures.routing import (
    EarlierState,
    Reading,
    decisions_of,
    held_out_readings,
    measure_routing,
    mixtures,
    text_readings,
)
from sublayer.model.experts.router import Router, RouterConfig
from sublayer.model.experts.routing import Places, Routing

from .planted import V, model, reading


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return prepare_notes(tmp_path_factory.mktemp("data")).tokenizer


def prepare_notes(folder: Path, **more: Any) -> Any:
    notes = folder / "notes"
    notes.mkdir()
    for number in range(40):
        (notes / f"{number}.txt").write_text(
            f"a house of {number} rooms and of {7 * number} doors\n" * (1 + number % 3)
        )
    source = {"kind": "text", "path": str(notes)}
    values = {"sources": source, "tokenizer": "bytes", "sequence_length": 16, "validation_share": 0.5, **more}
    return prepare(DataConfig.parse(values), cache=folder / "cache")


def rows(seed: int, n_rows: int = 6, low: int = 0, step: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return low + step * torch.randint(0, V // step, (n_rows, 16), generator=draw)


def test_a_router_that_knows_the_domain(tokenizer: Tokenizer) -> None:
    """Even ids are of one domain and go to expert 0, odd ones of the other and go to expert 1."""

    class ParityConfig(RouterConfig):
        """Ids by turns."""

        chooses: ClassVar[Literal["token", "expert", "none"]] = "token"
        kind: Literal["parity"] = "parity"

        def build(self, shape: Any, team: Any) -> "Parity":
            return Parity(team)

    class Parity(Router):
        def route(self, x_ND: Tensor, places: Places) -> Routing:
            assert places.tokens_BT is not None
            expert_N1 = places.tokens_BT.reshape(-1, 1) % 2
            return Routing.by_token(expert_N1, torch.ones(expert_N1.shape))

    RouterConfig.registry.register(ParityConfig)
    planted = model({"n_experts": 2, "top_k": 1, "router": "parity"})
    readings = [reading("even", rows(1, 10, 0, 2)), reading("odd", rows(2, 10, 1, 2))]
    for layer in measure_routing(planted, tokenizer, readings).layers:
        information = layer.domains.information
        assert information is not None
        assert information.nats == pytest.approx(math.log(2))
        assert information.p < 0.01
        assert layer.load == (160, 160)
        assert layer.max_vio == 0.0
        assert layer.vocabulary.information.share == pytest.approx(1.0)
        assert layer.mean_entropy is layer.token_entropy is layer.margin is layer.coactivation is None


@pytest.mark.parametrize("what", ["router.weight", "router.balance_bias"])
def test_routers_without_numbers_are_no_routing(what: str, tokenizer: Tokenizer) -> None:
    net = model({"balance": "loss_free"})
    with torch.no_grad():
        net.state_dict()[f"blocks.1.feed_forward.{what}"].fill_(torch.nan)
    with pytest.raises(RunError, match=r"layers\.1\.feed_forward: .* no numbers?; its weights are damaged\."):
        measure_routing(net, tokenizer, [reading("notes", rows(1, 3))])


def test_the_figures_are_those_of_the_models_own_decisions(tokenizer: Tokenizer) -> None:
    net = model({"router": {"kind": "top_k", "scoring": "sigmoid"}})
    batch = reading("notes", rows(1, 3), valid=torch.arange(16) < torch.tensor([[16], [9], [4]]))
    told = measure_routing(net, tokenizer, [batch])
    assert told.tokens == {"notes": 29}
    with torch.no_grad():
        full = net(batch.batch.tokens_BT, want=["routing"]).report.routing
    for layer in told.layers:
        assert batch.batch.valid_BT is not None
        chosen_NE = full[f"{layer.name}.chosen"][batch.batch.valid_BT]
        probability_NE = full[f"{layer.name}.probability"][batch.batch.valid_BT].double()
        assert layer.load == tuple(chosen_NE.sum(0).tolist())
        assert layer.tokens == 29
        entropy_N = -(probability_NE * probability_NE.log()).sum(1)
        assert layer.token_entropy == pytest.approx(float(entropy_N.mean()))
        mean_E = probability_NE.mean(0)
        assert layer.mean_entropy == pytest.approx(float(-(mean_E * mean_E.log()).sum()))
        best_NE = probability_NE.sort(descending=True).values
        assert layer.margin == pytest.approx(float((best_NE[:, 1] - best_NE[:, 2]).mean()))
        assert layer.coactivation is not None
        both = int((chosen_NE[:, 0] & chosen_NE[:, 3]).sum())
        assert layer.coactivation.count_EE[0, 3] == both
        assert layer.sampling_floor > 0


@pytest.mark.parametrize(
    ("experts", "more"),
    [
        ({"router": "top_k"}, {}),
        ({"router": "noisy_top_k"}, {}),
        ({"router": "hash"}, {}),
        ({"router": "expert_choice"}, {"stack": "encoder"}),
        ({"router": "top_k", "every": 2}, {}),
        ({"router": "top_k", "top_k": 4}, {}),
        ({"router": "top_k", "n_experts": 1, "top_k": 1}, {}),
        ({"router": "top_k", "capacity": {"factor": 1.0, "evaluation_factor": 1.0}}, {}),
        ({"router": "top_k", "balance": {"kind": "loss_free"}}, {}),
    ],
)
def test_every_router(experts: dict[str, Any], more: dict[str, Any], tokenizer: Tokenizer) -> None:
    net = model(experts, **more)
    readings = [reading("a", rows(1)), reading("b", rows(2))]
    net.train()
    told = measure_routing(net, tokenizer, readings)
    assert net.training
    tree = json.loads(json.dumps(told.tree(), allow_nan=False))
    assert [layer["layer"] for layer in tree["layers"]] == list(mixtures(net))
    for layer in told.layers:
        assert sum(layer.load) == layer.tokens * layer.top_k
        assert bool(layer.decode_steps) == ("stack" not in more)
        if layer.router == "hash":
            assert layer.vocabulary.information.share == pytest.approx(1.0)
        if layer.router == "expert_choice":
            assert layer.max_vio == 0.0
    assert told.tree() == measure_routing(net, tokenizer, readings).tree()


def test_both_sides_of_an_encoder_decoder(tokenizer: Tokenizer) -> None:
    net = model(stack="encoder_decoder")
    decoder, encoder = rows(1, 2)[:, :5], rows(2, 2)
    valid_BS = torch.arange(16) < torch.tensor([[16], [7]])
    source = SourceRows(encoder, None, None, valid_BS)
    batch = Batch(decoder, torch.full_like(decoder, NOT_SCORED), None, None, None, source)
    told = measure_routing(net, tokenizer, [Reading("pairs", batch, np.arange(2))])
    assert {layer.label: layer.tokens for layer in told.layers} == {"encoder 0": 23, "encoder 1": 23, "0": 10, "1": 10}
    assert [bool(layer.decode_steps) for layer in told.layers] == [False, False, True, True]


def test_earlier_states_stand_beside_the_last(tokenizer: Tokenizer) -> None:
    net, other = model(), model()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("router.weight"):
                parameter.neg_()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    states = [EarlierState("step 9", 9, net.state_dict), EarlierState("step 3", 3, other.state_dict)]
    for layer in measure_routing(net, tokenizer, [reading("a", rows(1))], states, 10).layers:
        assert [(each.step, each.state) for each in layer.saturation] == [(3, "step 3"), (9, "step 9")]
        assert layer.saturation[1].share == 1.0
        assert layer.saturation[0].share < 0.5
        assert layer.saturation[0].even == 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_documents_go_on_from_row_to_row(tmp_path: Path) -> None:
    corpus = prepare_notes(tmp_path)
    readings = held_out_readings(corpus, 4)
    (decisions, *_) = decisions_of(model(vocab_size=corpus.tokenizer.vocab_size), readings).values()
    starts = int((decisions.tokens.id_N == corpus.tokenizer.end_id).sum())
    assert starts > 8
    assert decisions.tokens.document_N.max() + 1 == starts == corpus.describe()["notes"]["validation"]["documents"]
    first_N = decisions.tokens.id_N == corpus.tokenizer.end_id
    assert np.array_equal(decisions.tokens.document_N, first_N.cumsum() - 1)
    assert decisions.tokens.stretch_N.max() > starts
    fewer = held_out_readings(corpus, 4, max_tokens=64)
    assert sum(each.batch.tokens_BT.numel() for each in fewer) == 64


def test_text_of_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "one.txt").write_text("in the beginning " * 20)
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / f"{number}.md").write_text(f"number {number} " * 10)
    sources = [TextConfig(path=str(tmp_path / name)) for name in ("one.txt", "many")]
    readings = text_readings(sources, tokenizer, 32, 4)
    assert [each.domain for each in readings] == ["one"] * 3 + ["many"] * 3
    tokens_N = torch.cat([each.batch.tokens_BT.flatten() for each in readings if each.domain == "one"])
    assert tokenizer.decode(tokens_N.tolist()) == "in the beginning " * 20
    assert sum(int((each.batch.tokens_BT == tokenizer.end_id).sum()) for each in readings[3:-1]) <= 3
    many = readings[3:]
    assert many[0].document_B[0] == 0
    assert sum(each.batch.tokens_BT.shape[0] for each in text_readings(sources, tokenizer, 32, 4, 64)) == 4
    assert text_readings(sources, tokenizer, 32, 4, two_sided=True)[0].batch.source is not None
    with pytest.raises(ConfigError, match="two of them are called 'one'"):
        text_readings([sources[0], sources[0]], tokenizer, 32, 4)
    with pytest.raises(DataError, match="there is no file or folder"):
        text_readings([TextConfig(path=str(tmp_path / "none"))], tokenizer, 32, 4)


def test_words_that_cannot_be_seen_are_written_out(tokenizer: Tokenizer) -> None:
    told = measure_routing(model(vocab_size=tokenizer.vocab_size), tokenizer, [reading("a", rows(1, 1))])
    assert told.words(tokenizer.end_id) == "<|endoftext|>"
    assert told.words(tokenizer.encode("\n", start=False)[0]) == "\\n"
    assert told.words(tokenizer.encode("é", start=False)[0]) == "\\xc3"
