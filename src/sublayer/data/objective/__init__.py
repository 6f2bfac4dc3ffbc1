"""What is asked of a model: one file an objective, which makes rows of inputs and targets from tokens."""

from sublayer.data.objective.base import OBJECTIVES, Objective, ObjectiveConfig, RowShape, Stretch
from sublayer.data.objective.causal import CausalConfig
from sublayer.data.objective.classify import ClassifyConfig
from sublayer.data.objective.masked import MaskedConfig
from sublayer.data.objective.seq2seq import Seq2SeqConfig
from sublayer.data.objective.span_corruption import SpanCorruptionConfig

__all__ = [
    "OBJECTIVES",
    "CausalConfig",
    "ClassifyConfig",
    "MaskedConfig",
    "Objective",
    "ObjectiveConfig",
    "RowShape",
    "Seq2SeqConfig",
    "SpanCorruptionConfig",
    "Stretch",
]
