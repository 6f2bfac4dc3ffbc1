"""The Transformer: pure PyTorch; no files, no network, no printing."""

from sublayer.model.config import ModelConfig
from sublayer.model.layout import Layout
from sublayer.model.report import Report
from sublayer.model.resolution import LayerConfig
from sublayer.model.source import Encoded, Source
from sublayer.model.state import State
from sublayer.model.transformer import Output, Transformer

__all__ = ["Encoded", "LayerConfig", "Layout", "ModelConfig", "Output", "Report", "Source", "State", "Transformer"]
