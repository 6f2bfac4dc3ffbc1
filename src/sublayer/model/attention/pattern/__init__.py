"""Attention patterns, one a file; each is one predicate over positions."""

from sublayer.model.attention.pattern import full, window
from sublayer.model.attention.pattern.base import Pattern, PatternChoice, PatternConfig, Reach

__all__ = ["Pattern", "PatternChoice", "PatternConfig", "Reach", "full", "window"]
