"""Attention: its modules, the patterns of what sees what, and the kernels that compute it."""
