import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sublayer.data import Corpus, DataConfig, prepare
from sublayer.errors import DataError

from .conftest import prose

LENGTH = 32


def corpus(sources: object, **values: object) -> Corpus:
    given: dict[str, object] = {"tokenizer": {"kind": "bpe", "vocab_size": 300}, "sequence_length": LENGTH}
    return prepare(DataConfig(sources=sources, **(given | values)))


def text(path: Path, **values: object) -> dict[str, object]:
    return {"kind": "text", "path": str(path), **values}


def test_batches_are_rows_of_the_training_side(notes: Path) -> None:
    made = corpus(text(notes))
    (stream,) = made.training_tokens()
    batch = made.batch(seed=3, first_sample=0, count=16)
    assert batch.tokens_BT.shape == batch.targets_BT.shape == (16, LENGTH)
    assert batch.valid_BT is None
    rows = {
        tuple(stream[row * LENGTH : row * LENGTH + LENGTH + 1].tolist()) for row in range((len(stream) - 1) // LENGTH)
    }
    for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        assert tokens[1:] == targets[:-1]
        assert (*tokens, targets[-1]) in rows


def test_a_sample_does_not_depend_on_its_batch(notes: Path) -> None:
    made = corpus(text(notes))
    whole = made.batch(7, 0, 48)
    parts = [made.batch(7, first, 12) for first in (0, 12, 24, 36)]
    assert torch.equal(whole.tokens_BT, torch.cat([part.tokens_BT for part in parts]))
    assert not torch.equal(whole.tokens_BT, made.batch(8, 0, 48).tokens_BT)


def test_nothing_held_out_is_trained_on(library: Path) -> None:
    made = corpus("embedded")
    assert made.domains == ["code", "prose"]
    training = {domain: b"".join(made.training_text(domain)).decode() for domain in made.domains}
    held_out = {domain: b"".join(made.validation_text(domain)).decode() for domain in made.domains}
    modules = {side: {number for number in range(80) if f"Module {number} speaks" in texts["prose"]}
               for side, texts in (("training", training), ("held out", held_out))}  # fmt: skip
    assert modules["held out"]
    assert modules["training"] | modules["held out"] == set(range(80))
    assert not modules["training"] & modules["held out"]
    for number in range(1, 80):
        line = f"return x + {11 * number}\n\n"
        assert (line in held_out["code"]) >= (number in modules["held out"])
    assert ("Module" in training["code"]) is False


def test_validation_scores_every_held_out_token_once(notes: Path) -> None:
    for isolate in (True, False):
        made = corpus([text(notes, domain="a"), text(notes / "deeper", domain="a")], isolate_documents=isolate)
        batches = list(made.validation("a", batch_size=5))
        assert all(len(batch.tokens_BT) == 5 for batch in batches[:-1])
        scored = torch.cat([batch.targets_BT[batch.targets_BT != -100] for batch in batches])
        size = made.tokenizer.bytes_per_token[scored.numpy()].sum()
        assert size == made.describe()["a"]["validation"]["bytes"]
        ids = made.tokenizer.decode_bytes(scored.tolist())
        assert ids == b"".join(made.validation_text("a"))
        assert (
            len(scored) == made.describe()["a"]["validation"]["tokens"] - 2
        )  # the first of each stream has no history
        assert (batches[0].document_BT is not None) == isolate


def test_a_part_of_validation_is_spread_over_the_whole(notes: Path) -> None:
    made = corpus(text(notes), validation_share=0.3)
    rows = torch.cat([batch.tokens_BT for batch in made.validation("notes", 4)]).tolist()
    some = torch.cat([batch.tokens_BT for batch in made.validation("notes", 4, max_tokens=8 * LENGTH)]).tolist()
    places = [rows.index(row) for row in some]
    assert len(some) == 8
    assert places == sorted(set(places))
    assert places[-1] > 0.8 * len(rows)
    assert sum(len(batch.tokens_BT) for batch in made.validation("notes", 4, max_tokens=10**9)) == len(rows)
    assert sum(len(batch.tokens_BT) for batch in made.validation("notes", 4, max_tokens=1)) == 1


def test_weights_are_shares_of_the_training(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("capital letters ARE HERE\n" * 2000)
    made = corpus([text(notes, weight=1.0), text(tmp_path / "large.txt", weight=3.0)])
    large = {
        tuple(row)
        for row in np.lib.stride_tricks.sliding_window_view(made.training_tokens()[1], LENGTH)[::LENGTH].tolist()
    }
    drawn = made.batch(0, 0, 256).tokens_BT.tolist()
    assert sum(tuple(row) in large for row in drawn) == 192


def test_inside_a_source_domains_share_by_their_tokens(library: Path) -> None:
    made = corpus("embedded")
    sizes = {domain: sides["training"]["tokens"] for domain, sides in made.describe().items()}
    ids = {
        tuple(row)
        for row in np.lib.stride_tricks.sliding_window_view(made.training_tokens()[0], LENGTH)[::LENGTH].tolist()
    }
    drawn = sum(tuple(row) in ids for row in made.batch(0, 0, 640).tokens_BT.tolist())
    assert abs(drawn - 640 * sizes["code"] / sum(sizes.values())) < 3


def test_validation_can_have_its_own_sources(notes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(prose(999, 200), encoding="utf-8")
    made = corpus(text(notes), validation=text(other))
    assert made.domains == ["other"]
    assert b"".join(made.validation_text("other")) == other.read_bytes()
    assert set(made.describe()["notes"]) == {"training"}
    assert made.describe()["notes"]["training"]["bytes"] == sum(file.stat().st_size for file in notes.rglob("*.txt"))


def test_the_end_of_the_training_text(notes: Path) -> None:
    made = corpus([text(notes, domain="a"), text(notes / "deeper", domain="a")])
    whole = b"".join(made.training_text("a"))
    for size in (0, 1, 1000, len(whole) - 1, len(whole), len(whole) + 1):
        part = b"".join(made.training_text("a", last_bytes=size))
        assert whole.endswith(part)
        assert len(part) >= min(size, len(whole))
    assert b"".join(made.training_text("a", last_bytes=0)) == b""


def test_the_end_of_a_long_text_is_not_all_of_it(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = corpus(text(notes))
    whole = b"".join(made.training_text("notes"))
    monkeypatch.setattr("sublayer.data.shards.PIECE", 100)
    assert b"".join(made.training_text("notes")) == whole
    part = b"".join(made.training_text("notes", last_bytes=1000))
    assert whole.endswith(part)
    assert 1000 <= len(part) < 2000


def test_the_fingerprint_names_the_content(notes: Path) -> None:
    made = corpus(text(notes))
    assert corpus(text(notes), sequence_length=16).fingerprint == made.fingerprint
    # Options that leave the tokens as they are may come and go, and so may places.
    assert corpus(text(notes) | {"damaged": "skip"}).fingerprint == made.fingerprint
    elsewhere = notes.rename(notes.with_name("elsewhere"))
    assert corpus(text(elsewhere) | {"domain": "notes"}).fingerprint == made.fingerprint
    assert corpus(text(elsewhere) | {"domain": "other"}).fingerprint != made.fingerprint
    assert corpus(text(elsewhere) | {"domain": "notes"}, validation_share=0.1).fingerprint != made.fingerprint
    elsewhere.rename(notes)
    (notes / "00.txt").write_text("another text\n" * 50)
    assert corpus(text(notes)).fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("lines", "length", "message"),
    [
        (1, 1024, r"data\.sources\[0\]: 'tiny' has \d+ tokens to train on where a row needs 1025; give more text or a"),
        (200, 1024, r"data: 'tiny' has \d+ tokens to validate on where a row needs 1025; give more text, a larger"),
    ],
)
def test_too_little_text_says_how_much_is_needed(tmp_path: Path, lines: int, length: int, message: str) -> None:
    (tmp_path / "tiny.txt").write_text(prose(0, lines), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        corpus(text(tmp_path / "tiny.txt"), sequence_length=length)


def test_a_text_that_cannot_be_split_has_nothing_to_validate_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("x")
    with pytest.raises(DataError, match="there is no text to validate on where a row needs 2 tokens"):
        corpus(text(tmp_path / "tiny.txt"), sequence_length=1)


def test_an_unknown_domain_is_named_with_the_known(notes: Path) -> None:
    made = corpus(text(notes))
    with pytest.raises(DataError, match=r"there is no domain 'code' for validation; choose from: notes\."):
        list(made.validation("code", 4))


def test_reading_a_batch_is_fast(tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("capital letters ARE HERE\n" * 20_000)
    made = corpus(text(tmp_path / "large.txt"), sequence_length=256, tokenizer="bytes")
    made.batch(0, 0, 16)
    times = []
    for number in range(30):
        started = time.perf_counter()
        made.batch(0, 16 * number, 16)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.005


def test_words_that_spell_the_special_token_do_not_split_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before <|endoftext|> after\n" * 200)
    made = corpus(text(tmp_path / "a.txt"))
    assert made.describe()["a"]["training"]["documents"] == 1
    assert (made.training_tokens()[0] == made.tokenizer.end_id).sum() == 1
    assert b"before <|endoftext|> after\n" in b"".join(made.training_text("a"))


def test_a_config_is_read_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sublayer.data.config, sublayer.data.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
