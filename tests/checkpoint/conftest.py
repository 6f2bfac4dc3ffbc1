from tests.training.conftest import cache, no_curve, notes, own_cache

__all__ = ["cache", "no_curve", "notes", "own_cache"]
