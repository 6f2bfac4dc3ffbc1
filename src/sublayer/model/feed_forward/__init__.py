"""Position-wise feed-forward networks, one a file."""

from sublayer.model.feed_forward import convolutional, dense, gated, none
from sublayer.model.feed_forward.base import FeedForwardChoice, FeedForwardConfig

__all__ = ["FeedForwardChoice", "FeedForwardConfig", "convolutional", "dense", "gated", "none"]
