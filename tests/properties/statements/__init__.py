"""The statements, by what they are about; importing this package lists them all."""

from tests.properties.statements import (
    causality,
    configs,
    costs,
    decoding,
    documents,
    files,
    kernels,
    padding,
    parameters,
    symmetries,
    training,
)

__all__ = [
    "causality",
    "configs",
    "costs",
    "decoding",
    "documents",
    "files",
    "kernels",
    "padding",
    "parameters",
    "symmetries",
    "training",
]
