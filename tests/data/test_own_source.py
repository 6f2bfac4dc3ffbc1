"""A source that a user registers is a source like any other."""

from collections.abc import Iterator
from typing import Literal

import pytest

from sublayer.data import DataConfig, Document, SourceConfig, prepare
from sublayer.data.skipped import Skipped
from sublayer.errors import DataError
from sublayer.registry import register

from .conftest import prose


class CountedConfig(SourceConfig):
    """Documents made on the spot."""

    kind: Literal["counted"] = "counted"
    n_documents: int = 3

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        for number in range(self.n_documents):
            for piece in range(3):
                yield Document(f"{number}", "made", prose(10 * number + piece, 30), continues=piece > 0)

    def fingerprint(self) -> str:
        return str(self.n_documents)


@pytest.fixture(autouse=True)
def registered(registries: None) -> None:
    register(CountedConfig)


def test_it_is_named_split_and_read_like_the_others() -> None:
    config = DataConfig(sources=["counted"], tokenizer={"kind": "bpe", "vocab_size": 300}, sequence_length=32)
    assert DataConfig.parse(config.tree()) == config
    corpus = prepare(config)
    sides = corpus.describe()["made"]
    assert sides["training"]["documents"] == sides["validation"]["documents"] == 3
    whole = sum(len((prose(10 * number + piece, 30)).encode()) for number in range(3) for piece in range(3))
    assert sides["training"]["bytes"] + sides["validation"]["bytes"] == whole
    assert corpus.batch(0, 0, 4).tokens_BT.shape == (4, 32)


def test_one_without_text_is_named() -> None:
    with pytest.raises(DataError, match="the counted source holds no text"):
        prepare(DataConfig(sources={"kind": "counted", "n_documents": 0}))
