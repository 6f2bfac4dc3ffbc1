"""Where text comes from: one file a source."""

from sublayer.data.sources.base import SOURCES, SourceConfig
from sublayer.data.sources.chat import ChatConfig
from sublayer.data.sources.embedded import EmbeddedConfig
from sublayer.data.sources.hf import HfConfig
from sublayer.data.sources.jsonl import JsonlConfig
from sublayer.data.sources.labelled import LabelledConfig
from sublayer.data.sources.pairs import PairsConfig
from sublayer.data.sources.parquet import ParquetConfig
from sublayer.data.sources.text import TextConfig

__all__ = [
    "SOURCES",
    "ChatConfig",
    "EmbeddedConfig",
    "HfConfig",
    "JsonlConfig",
    "LabelledConfig",
    "PairsConfig",
    "ParquetConfig",
    "SourceConfig",
    "TextConfig",
]
