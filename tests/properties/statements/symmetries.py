"""What a composition is blind to: the origin of relative positions, the order of tokens, its batch-mates."""

import random

import torch

from sublayer.model import Layout, ModelConfig, Source
from sublayer.model.attention.pattern.base import Everything
from sublayer.model.resolution import LayerConfig
from tests.properties.composition import assert_equal_logits, random_tokens
from tests.properties.statement import Subject, alone, statement


def shift_invariant(config: ModelConfig) -> bool:
    """Whether every position says so, and no pattern keeps single positions in view."""
    parts = [part for layer in config.all_layers() for _, part in layer.parts()]
    directions = {"decoder": "causal", "encoder": "bidirectional", "encoder_decoder": "causal"}
    seen = [layer.attention.seen(directions[config.stack]) for layer in config.resolve()]
    seen += [layer.attention.seen("bidirectional") for layer in config.resolve_encoder()]
    return all(getattr(part, "shift_invariant", True) for part in parts) and not any(
        pattern.reach.pinned for pattern in seen
    )


@statement(shift_invariant)
def shifting_all_positions_changes_nothing(subject: Subject, dice: random.Random) -> None:
    tokens, read = random_tokens(dice.randrange(99), 2, 9), subject.source(2)
    positions, of_source = torch.arange(9).repeat(2, 1), torch.arange(5).repeat(2, 1)
    if dice.random() < 0.5:  # steps of more than one
        positions = positions + torch.tensor([[0, 0, 3, 3, 3, 7, 7, 7, 7]])
    shift, other_shift = dice.randint(1, 100), dice.randint(1, 100)

    def at(shift: int, other_shift: int) -> torch.Tensor:
        source = None if read is None else Source(read, Layout(positions_BT=of_source + other_shift))
        return subject.logits(tokens, Layout(positions_BT=positions + shift), source)

    with torch.no_grad():
        base = at(0, 0)
        # Rope's angles are in float32.  Where nothing is normalised, values grow by powers from layer to layer, and
        # that rounding with them.
        largest = float(base.abs().max())
        assert_equal_logits(at(shift, other_shift), base, atol=1e-3 if largest < 1e3 else 1e-2 * largest)


def blind_to_order(layers: tuple[LayerConfig, ...]) -> bool:
    """Whether an encoder of these layers cannot know in which order its tokens stand.

    (Of equal tokens an expert that chooses some takes the first.)
    """
    return not any(
        getattr(layer.feed_forward, "router", None) and layer.feed_forward.router.chooses == "expert"
        for layer in layers
    ) and all(
        layer.position.kind_name() == "none"
        and layer.attention.seen("bidirectional") == Everything()
        and layer.feed_forward.position_wise
        for layer in layers
    )


@statement(lambda config: config.stack == "encoder" and blind_to_order(config.resolve()) and alone(config))
def without_positions_an_encoder_is_permutation_equivariant(subject: Subject, dice: random.Random) -> None:
    order = dice.sample(range(8), 8)
    tokens, head = random_tokens(dice.randrange(99), 2, 8), subject.config.head
    if not head.by_token and head.pooling != "mean":
        place = 0 if head.pooling == "first" else 7  # what the class is read from stays where it is
        others = [i for i in order if i != place]
        order = [place, *others] if place == 0 else [*others, place]
    with torch.no_grad():
        changed, base = subject.logits(tokens[:, order]), subject.logits(tokens)
    assert_equal_logits(changed, base[:, order] if head.by_token else base)


@statement(
    lambda config: config.stack == "encoder_decoder" and blind_to_order(config.resolve_encoder()) and alone(config)
)
def a_source_without_positions_may_stand_in_any_order(subject: Subject, dice: random.Random) -> None:
    tokens, source = random_tokens(1, 2, 5), subject.source(2, 6)
    assert source is not None
    with torch.no_grad():
        changed = subject.logits(tokens, source=source[:, dice.sample(range(6), 6)])
        assert_equal_logits(changed, subject.logits(tokens, source=source))


@statement(alone)
def batch_mates_do_not_change_an_output(subject: Subject, dice: random.Random) -> None:
    n_rows = dice.randint(2, 4)
    tokens, read = random_tokens(dice.randrange(99), n_rows, 7), subject.source(n_rows)
    with torch.no_grad():
        together = subject.logits(tokens)
        row = dice.randrange(n_rows)
        alone = subject.logits(tokens[row : row + 1], source=None if read is None else read[row : row + 1])
    assert_equal_logits(together[row], alone[0], atol=1e-9)


@statement(share=0.2)
def a_batch_of_no_rows_has_no_logits_and_a_loss_of_0(subject: Subject, dice: random.Random) -> None:
    n_tokens = dice.randint(1, 9)
    tokens, source = random_tokens(0, 0, n_tokens), subject.source(0)
    subject.model.train(dice.random() < 0.5)
    out = subject.model(tokens, source=source, targets=subject.targets(0, n_tokens), want=("logits",))
    subject.model.eval()
    assert out.logits is not None and out.logits.shape[0] == 0
    assert out.loss == 0
