import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data import Batch, Corpus, DataConfig, prepare
from sublayer.data.objective.base import Stretch
from sublayer.data.objective.masked import CHOICE, FATE, OTHER, Masked, MaskedConfig
from sublayer.data.packing import NOT_SCORED
from sublayer.data.permutation import mixed, uniform
from sublayer.data.tokenizer import BytesConfig, Tokenizer
from sublayer.data.tokenizing import BEGINS, SCORED
from sublayer.errors import ConfigError, DataError

LENGTH = 24
BYTES = BytesConfig().build(lambda: iter(())).with_special(["<mask>"])
MASK = BYTES.vocab_size - 1


def corpus(notes: Path, objective: object = "masked", **data: object) -> Corpus:
    return prepare(
        DataConfig(
            **{"sources": [{"kind": "text", "path": str(notes)}], "tokenizer": "bytes", "sequence_length": 32}
            | {"objective": objective}
            | data
        )
    )


def by_loops(config: MaskedConfig, tokens: list[int], may: list[bool], key: int) -> tuple[list[int], list[int]]:
    """Inputs and targets of a row, drawn token by token."""
    draw = {
        place: [int(mixed(np.array([key], dtype=np.uint64), number + 3 * place)[0]) for number in (CHOICE, FATE, OTHER)]
        for place in range(len(tokens))
    }
    able = sorted((draw[place][0], place) for place in range(len(tokens)) if may[place])
    wanted = max(1, round(config.share * len(able))) if able else 0
    inputs, targets = list(tokens), [NOT_SCORED] * len(tokens)
    for _, place in able[:wanted]:
        targets[place] = tokens[place]
        fate = float(uniform(np.array([draw[place][1]], dtype=np.uint64))[0])
        if fate < config.replaced_by_mask:
            inputs[place] = MASK
        elif fate < config.replaced_by_mask + config.replaced_by_other:
            inputs[place] = 1 + draw[place][2] % 256
    return inputs, targets


ROWS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=LENGTH), min_size=1, max_size=4)


@given(rows=ROWS, share=st.floats(0.01, 0.99), seed=st.integers(0, 2**63), marked=st.booleans())
@settings(max_examples=150)
def test_batches_are_what_loops_would_draw(rows: list[list[int]], share: float, seed: int, marked: bool) -> None:
    config = MaskedConfig(share=share, replaced_by_mask=0.5, replaced_by_other=0.3)
    keys = mixed(seed, np.arange(len(rows), dtype=np.uint64))
    marks = [np.array([SCORED * (token % 2) | BEGINS * (place == 0) for place, token in enumerate(row)], dtype=np.uint8)
             for row in rows]  # fmt: skip
    stretches = [
        Stretch(np.array(row, dtype=np.uint16), mark if marked else None, -1)
        for row, mark in zip(rows, marks, strict=True)
    ]
    batch = Masked(config, BYTES, LENGTH, True).batch(stretches, keys)
    for number, row in enumerate(rows):
        may = [0 < token <= 256 and (not marked or token % 2 == 1) for token in row]
        inputs, targets = by_loops(config, row, may, int(keys[number]))
        assert batch.tokens_BT[number, : len(row)].tolist() == inputs
        assert batch.targets_BT[number, : len(row)].tolist() == targets
        assert (batch.targets_BT[number, len(row) :] == NOT_SCORED).all()
        assert any(target != NOT_SCORED for target in targets) == any(may)


def test_the_shares_are_those_asked_for(notes: Path) -> None:
    data = corpus(notes)
    mask = data.tokenizer.special_id(["<mask>"])
    batch = data.batch(0, 0, 500)
    plain = prepare(DataConfig.parse(data.config.tree() | {"objective": "causal"}))
    assert plain.shards.directory != data.shards.directory  # the tokenizer is another one
    special = torch.from_numpy(data.tokenizer.bytes_per_token == 0)
    chosen = batch.targets_BT != NOT_SCORED
    assert not special[batch.targets_BT[chosen]].any()
    eligible = (~special[batch.tokens_BT] | chosen).sum(1)
    assert (chosen.sum(1) == (0.15 * eligible).round().clamp(min=1)).all()
    hidden = batch.tokens_BT == mask
    assert (hidden <= chosen).all()
    same = chosen & (batch.tokens_BT == batch.targets_BT)
    shares = [float(some.sum() / chosen.sum()) for some in (hidden, same)]
    assert shares == pytest.approx([0.8, 0.1], abs=0.03)
    other = batch.tokens_BT[chosen & ~hidden & ~same]
    assert not special[other].any()
    assert len(other.unique()) > 100  # from all over the vocabulary


def test_a_draw_depends_on_the_sample_alone(notes: Path) -> None:
    data = corpus(notes)
    whole, parts = data.batch(3, 10, 6), [data.batch(3, 10 + first, 2) for first in (0, 2, 4)]
    assert torch.equal(whole.tokens_BT, torch.cat([part.tokens_BT for part in parts]))
    assert torch.equal(whole.targets_BT, torch.cat([part.targets_BT for part in parts]))
    assert not torch.equal(whole.targets_BT, data.batch(4, 10, 6).targets_BT)


def restored(batch: Batch) -> list[tuple[int, ...]]:
    """The rows before anything was hidden."""
    return [tuple(row) for row in torch.where(batch.targets_BT >= 0, batch.targets_BT, batch.tokens_BT).tolist()]


def test_each_epoch_hides_other_tokens_and_the_held_out_text_always_the_same(notes: Path) -> None:
    data = corpus(notes)
    rows = -(-data.n_training_rows // 64) * 64  # the order is drawn in blocks of 64
    first, second = data.batch(0, 0, rows), data.batch(0, rows, rows)
    assert set(restored(first)) == set(restored(second))
    hidden = dict(zip(restored(first), (first.targets_BT >= 0).tolist(), strict=True))
    again = dict(zip(restored(second), (second.targets_BT >= 0).tolist(), strict=True))
    assert sum(hidden[row] == again[row] for row in hidden) < 0.05 * len(hidden)
    once, twice = (list(data.validation("notes", size)) for size in (4, 7))
    assert torch.equal(torch.cat([b.tokens_BT for b in once]), torch.cat([b.tokens_BT for b in twice]))
    assert torch.equal(torch.cat([b.targets_BT for b in once]), torch.cat([b.targets_BT for b in twice]))
    # Read in part only, the rows that are read hide the same tokens.
    few = next(iter(data.validation("notes", 1, max_tokens=32)))
    assert any(torch.equal(few.targets_BT[0], row) for batch in once for row in batch.targets_BT)


def test_every_token_is_read_once_an_epoch(notes: Path) -> None:
    data = corpus(notes, isolate_documents=False)
    (stream,) = (stream for stream in data.shards.streams if stream.side == "training")
    number = data.n_training_rows
    tokens = data.shards.tokens(stream)[: 32 * number].reshape(-1, 32).tolist()
    assert set(restored(data.batch(0, 0, number + 64))) == {tuple(row) for row in tokens}
    assert stream.tokens - 32 * number < 32


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_whole_words_are_hidden_whole(share: float) -> None:
    text = "one_2 naïve, two东京 three; x (fourteen) ninety-nine!"
    ids = BYTES.encode(text)
    pattern = rb"\xe4\xb8\x9c|\xe4\xba\xac|(?:[\w]|\xc3\xaf)+|."
    words = [found.span() for found in re.finditer(pattern, text.encode())]
    batch = of_one_text(ids, share, 80)
    chosen = (batch.targets_BT[:, 1 : len(ids)] >= 0).numpy()
    assert len({tuple(row) for row in chosen.tolist()}) > 32
    longest = max(end - begin for begin, end in words)
    wanted = round(share * (len(ids) - 1))
    assert wanted >= longest
    for row in chosen:
        taken = [row[begin:end] for begin, end in words if row[begin:end].any()]
        assert all(word.all() for word in taken)
        assert abs(row.sum() - wanted) <= longest / 2
    assert chosen.sum(1).mean() == pytest.approx(wanted, abs=1)


def of_one_text(ids: list[int], share: float, length: int) -> Batch:
    """64 rows of the same text, whole words hidden."""
    objective = MaskedConfig(share=share, whole_words=True).build(BYTES, length, False)
    keys = mixed(5, np.arange(64, dtype=np.uint64))
    return objective.batch([Stretch(np.array(ids, dtype=np.uint16), None, -1)] * 64, keys)


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("我们认为下面这些真理是不言而喻的人人", 1),  # without spaces: each letter is a word
        ("ที่นี่มีคนอยู่เต็มไปหมด", 1),
        ("x" * 60, 2),  # a word longer than what is to be hidden
        ("поэтому " * 8, 2),
    ],
)
def test_no_word_takes_much_more_than_the_share(text: str, off: int) -> None:
    ids = BYTES.encode(text)[:32]
    counts = (of_one_text(ids, 0.15, 32).targets_BT >= 0).sum(1)
    assert counts.min() >= 1
    assert (counts - round(0.15 * 31)).abs().max() <= off


@given(rows=ROWS, share=st.floats(0.01, 0.99), seed=st.integers(0, 2**63))
@settings(max_examples=100)
def test_of_whole_words_a_row_has_about_its_share(rows: list[list[int]], share: float, seed: int) -> None:
    keys = mixed(seed, np.arange(len(rows), dtype=np.uint64))
    rows = [[0, *(97 * (token % 5 > 0) for token in row)][:LENGTH] for row in rows]
    stretches = [Stretch(np.array(row, dtype=np.uint16), None, -1) for row in rows]
    batch = MaskedConfig(share=share, whole_words=True).build(BYTES, LENGTH, True).batch(stretches, keys)
    for row, count in zip(rows, (batch.targets_BT >= 0).sum(1).tolist(), strict=True):
        able = sum(token > 0 for token in row)
        wanted = max(1, round(share * able)) if able else 0
        assert wanted / 2 <= count <= 1.5 * wanted


def test_a_row_of_special_tokens_alone_asks_nothing() -> None:
    objective = MaskedConfig().build(BYTES, 4, True)
    batch = objective.batch([Stretch(np.array([0, 0], dtype=np.uint16), None, -1)], mixed(0))
    assert (batch.targets_BT == NOT_SCORED).all()


def test_the_learnt_tokenizer_has_the_mask_and_says_so(notes: Path, tmp_path: Path) -> None:
    learnt = corpus(notes, tokenizer={"kind": "bpe", "vocab_size": 300}).tokenizer
    assert learnt.vocab_size == 301
    assert learnt.name(learnt.special_id(["<mask>"])) == "<mask>"
    learnt.save(tmp_path / "saved")
    assert '"mask_token": "<mask>"' in (tmp_path / "saved" / "tokenizer_config.json").read_text()
    # Text that holds the letters holds letters.
    assert learnt.special_id(["<mask>"]) not in learnt.encode("a <mask> b")
    given = corpus(notes, tokenizer={"kind": "file", "path": str(tmp_path / "saved")})
    assert given.tokenizer.same_vocabulary(learnt)
    bert = Tokenizer.load(tmp_path / "saved").with_special(["[MASK]"])
    assert bert.special_id(["[MASK]", "<mask>"]) == 301


def test_an_existing_tokenizer_without_a_mask_is_refused(notes: Path, tmp_path: Path) -> None:
    BytesConfig().build(lambda: iter(())).save(tmp_path / "plain")
    tokenizer = {"kind": "file", "path": str(tmp_path / "plain")}
    corpus(notes, "causal", tokenizer=tokenizer)  # it is in the cache from here on
    with pytest.raises(
        DataError, match=r"^data\.tokenizer: it has no token <mask> or \[MASK\], which .* masked needs; .*anew"
    ):
        corpus(notes, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "masked", "share": 0}, "objective.share: must be greater than 0"),
        ({"kind": "masked", "replaced_by_mask": 0.8, "replaced_by_other": 0.3}, "come to more than 1; lower one"),
        ("maskd", "objective: 'maskd' is not an objective; did you mean 'masked'?"),
    ],
)
def test_what_is_wrong_is_one_sentence(objective: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataConfig(objective=objective)
