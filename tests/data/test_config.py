import re

import pytest

from sublayer.data.config import DataConfig
from sublayer.data.sources import EmbeddedConfig, TextConfig
from sublayer.data.tokenizer import BpeConfig, BytesConfig
from sublayer.errors import ConfigError


def test_the_default_is_the_embedded_corpus() -> None:
    assert DataConfig() == DataConfig(sources="embedded", tokenizer={"kind": "bpe", "vocab_size": 4096})
    assert DataConfig().sources == (EmbeddedConfig(),)


def test_one_source_needs_no_list() -> None:
    config = DataConfig(sources={"kind": "text", "path": "notes"}, validation=TextConfig(path="other"))
    assert config.sources == (TextConfig(path="notes"),)
    assert config.validation == (TextConfig(path="other"),)


def test_what_is_written_out_reads_back() -> None:
    config = DataConfig(
        sources=["embedded", {"kind": "text", "path": "x", "weight": 2}],
        validation=["embedded"],
        tokenizer="bytes",
        isolate_documents=False,
    )
    assert DataConfig.parse(config.tree()) == config
    assert isinstance(config.tokenizer, BytesConfig)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": []}, "sources: "),
        ({"sources": "embeded"}, "sources[0]: 'embeded' is not a source; did you mean 'embedded'?"),
        ({"sources": [{"kind": "text"}]}, "sources[0].path: is required"),
        ({"sources": [{"kind": "text", "path": "x", "weight": 0}]}, "sources[0].weight: must be greater than 0"),
        ({"sources": [{"kind": "embedded", "path": "x"}]}, "sources[0]: unknown key 'path'"),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 256}}, "tokenizer.vocab_size: must be at least 257"),
        ({"tokenizer": "words"}, "tokenizer: 'words' is not a tokenizer"),
        ({"validation_share": 0}, "validation_share: must be greater than 0"),
        ({"validation_share": 0.6}, "validation_share: must be less than or equal to 0.5"),
        ({"validation_share": True}, "validation_share: must be a number, not true"),
        ({"sequence_length": 0}, "sequence_length: must be greater than or equal to 1"),
        ({"validation": ["embedded"], "validation_share": 0.1}, "validation_share has no effect"),
        ({"validation": [{"kind": "embedded", "weight": 2}]}, "validation[0].weight has no effect"),
    ],
)
def test_what_is_wrong_is_one_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        DataConfig(**values)
    assert "\n" not in str(caught.value)


def test_the_smallest_vocabulary_is_every_byte_and_one() -> None:
    assert BpeConfig(vocab_size=257).vocab_size == 257
