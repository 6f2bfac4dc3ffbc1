"""What sublayers tell, added up and named by layer."""

import torch
import torch.utils._pytree as pytree

from sublayer.model.report import EMPTY, Report


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_losses_and_counts_of_the_same_name_are_summed_and_the_others_kept() -> None:
    one = Report(
        {"balance": scalar(1.0)},
        sums={"probability": scalar(0.25)},
        counts={"tokens": torch.tensor([1, 2])},
        attention={"weights": scalar(5.0)},
        routing={"chosen": scalar(6.0)},
    )
    tokens = {"tokens": torch.tensor([10, 20])}
    other = Report({"balance": scalar(2.0), "z": scalar(4.0)}, sums={"probability": scalar(0.5)}, counts=tokens)
    both = one + other
    assert {name: value.item() for name, value in both.losses.items()} == {"balance": 3.0, "z": 4.0}
    assert both.counts["tokens"].tolist() == [11, 22]
    assert both.sums["probability"].item() == 0.75
    assert both.attention["weights"].item() == 5.0
    assert both.routing["chosen"].item() == 6.0
    assert one.losses["balance"].item() == 1.0, "the terms are left as they were"


def test_nothing_added_changes_nothing() -> None:
    one = Report({"balance": scalar(1.0)})
    assert (one + EMPTY).losses == (EMPTY + one).losses == one.losses
    assert not EMPTY.losses
    assert not EMPTY.sums
    assert not EMPTY.routing
    assert not EMPTY.counts
    assert not EMPTY.attention


def test_under_a_layer_s_name_like_names_stay_apart() -> None:
    one = Report({"balance": scalar(1.0)}, counts={"tokens": scalar(2.0)}, attention={"weights": scalar(3.0)})
    both = one.under("layers.0.attention") + one.under("layers.1.attention")
    assert list(both.losses) == ["layers.0.attention.balance", "layers.1.attention.balance"]
    assert list(both.counts) == ["layers.0.attention.tokens", "layers.1.attention.tokens"]
    assert list(both.attention) == ["layers.0.attention.weights", "layers.1.attention.weights"]
    again = both.below("layers.1.attention")
    assert (again.losses, again.counts, again.attention) == (one.losses, one.counts, one.attention)


def test_it_is_a_tree_of_tensors_to_torch() -> None:
    report = Report({"balance": scalar(1.0)}, attention={"weights": scalar(3.0)})
    doubled = pytree.tree_map(lambda x: 2 * x, report)
    assert isinstance(doubled, Report)
    assert doubled.losses["balance"].item() == 2.0
    assert doubled.attention["weights"].item() == 6.0
