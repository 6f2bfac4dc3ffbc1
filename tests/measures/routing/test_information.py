"""Mutual information: closed forms, and what stands beside it."""

import math

import numpy as np
import pytest

from sublayer.measures.routing.domains import domains, told_by_token
from sublayer.measures.routing.information import entropy, mutual_information
from sublayer.measures.routing.vocabulary import vocabulary

from .planted import decided, drawn, tokens


def test_of_small_tables() -> None:
    assert float(entropy(np.array([3, 3, 3, 3]))) == pytest.approx(math.log(4))
    assert float(mutual_information(np.eye(5) * 7)) == pytest.approx(math.log(5))
    assert float(mutual_information(np.outer([1, 2, 3], [4, 5]))) == pytest.approx(0.0, abs=1e-12)
    p = np.array([[0.4, 0.1], [0.2, 0.3]])
    by_hand = sum(p[i, j] * math.log(p[i, j] / p[i].sum() / p[:, j].sum()) for i in (0, 1) for j in (0, 1))
    both = mutual_information(np.stack([p * 1000, np.eye(2)]))
    assert both.tolist() == pytest.approx([by_hand, math.log(2)])
    assert float(mutual_information(np.zeros((2, 2)))) == 0.0


def test_experts_of_a_domain_each_tell_ln_2() -> None:
    domain_N = np.repeat([0, 1], 200)
    about = tokens(np.arange(400) % 7, domain_N, np.arange(400) // 10)
    told = domains(decided(domain_N[:, None], 2, about))
    information = told.information
    assert information is not None
    assert information.nats == pytest.approx(math.log(2))
    assert information.share == pytest.approx(1.0)
    assert information.p == pytest.approx(1 / 1001)
    assert information.above
    assert (told.unit, told.units) == ("document", 40)
    assert told.share_DE.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_documents_that_differ_by_themselves_are_no_domains() -> None:
    """All tokens of a document go to one expert, whatever its domain: shuffled over tokens, that would seem much."""
    draw = np.random.default_rng(3)
    document_N = np.repeat(np.arange(40), 50)
    expert_N = draw.integers(0, 4, 40)[document_N]
    about = tokens(document_N % 5, document_N % 2, document_N)
    information = domains(decided(expert_N[:, None], 4, about)).information
    assert information is not None
    assert information.low <= information.nats <= information.high
    assert not information.above
    by_tokens = tokens(document_N % 5, document_N % 2, np.arange(2000))
    wrong = domains(decided(expert_N[:, None], 4, by_tokens)).information
    assert wrong is not None
    assert wrong.baseline < information.baseline / 10


def test_random_routing_lies_within_its_baseline() -> None:
    inside = {"domains": 0, "vocabulary": 0}
    for seed in range(20):
        domain_N = np.repeat([0, 1, 2], 300)
        id_N = np.random.default_rng(100 + seed).integers(0, 40, 900)
        decisions = decided(drawn(900, 8, 2, seed), 8, tokens(id_N, domain_N, np.arange(900) // 10))
        by_domain, by_id = domains(decisions, 200).information, vocabulary(decisions, 50).information
        assert by_domain is not None
        inside["domains"] += by_domain.low <= by_domain.nats <= by_domain.high
        inside["vocabulary"] += by_id.low <= by_id.nats <= by_id.high
        assert by_id.baseline > 0.05  # biased upwards, which is why it stands there
    # 95 % of 20, less three standard deviations.
    assert min(inside.values()) >= 16


def test_one_domain_alone_has_no_information() -> None:
    assert domains(decided(drawn(50, 4, 1), 4)).information is None


def test_stretches_are_shuffled_where_a_domain_has_few_documents() -> None:
    domain_N = np.repeat([0, 1], 100)
    about = tokens(domain_N, domain_N, domain_N)
    stretched = type(about)(about.domains, about.id_N, domain_N, domain_N, np.arange(200) // 10)
    told = domains(decided(domain_N[:, None], 2, stretched))
    assert (told.unit, told.units) == ("stretch", 20)
    assert told.information is not None
    assert told.information.above


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_table_of_ids_tells_all_that_a_token_tells(top_k: int) -> None:
    """As a hash router does."""
    id_N = np.arange(3000) % 60
    table = drawn(60, 8, top_k, seed=5)
    decisions = decided(table[id_N], 8, tokens(id_N))
    told = vocabulary(decisions, 50)
    assert told.information.nats == pytest.approx(told_by_token(decisions))
    assert told.information.share == pytest.approx(1.0)
    assert told.information.above
    for expert, some in enumerate(told.specialised):
        assert all(one.share == 1.0 and one.times == 50 and expert in table[one.token] for one in some)
    load_E = np.bincount(table.flatten(), minlength=8) / 60
    assert told.share_E.tolist() == pytest.approx(load_E.tolist())


def test_seldom_tokens_are_not_named() -> None:
    id_N = np.array([0] * 30 + [1] * 3)
    told = vocabulary(decided((id_N == 1).astype(int)[:, None], 2, tokens(id_N)), 10)
    assert [[one.token for one in some] for some in told.specialised] == [[0], []]
