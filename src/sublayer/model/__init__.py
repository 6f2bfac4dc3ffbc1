"""The Transformer: pure PyTorch; no files, no network, no printing."""

from sublayer.model.config import LayerConfig, ModelConfig
from sublayer.model.layout import Layout
from sublayer.model.report import Report
from sublayer.model.state import State
from sublayer.model.transformer import Output, Transformer

__all__ = ["LayerConfig", "Layout", "ModelConfig", "Output", "Report", "State", "Transformer"]
