"""What is made of the last hidden states, one kind a file."""

from sublayer.model.head.base import Head, HeadChoice, HeadConfig
from sublayer.model.head.classes import ClassHeadConfig
from sublayer.model.head.tokens import TokenHeadConfig

__all__ = ["ClassHeadConfig", "Head", "HeadChoice", "HeadConfig", "TokenHeadConfig"]
