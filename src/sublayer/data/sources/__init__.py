"""Where text comes from: one file a source."""

from sublayer.data.sources.base import SOURCES, SourceConfig
from sublayer.data.sources.embedded import EmbeddedConfig
from sublayer.data.sources.text import TextConfig

__all__ = ["SOURCES", "EmbeddedConfig", "SourceConfig", "TextConfig"]
