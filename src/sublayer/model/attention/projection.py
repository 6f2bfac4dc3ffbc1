"""The biases of an attention's projections, one by one or together."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from sublayer.config import Config, Flag


class Biases(Config):
    """Which projections add a learned bias."""

    query: Flag = False
    """To the queries."""
    key: Flag = False
    """To the keys, where only qk_norm and rotation keep the softmax from cancelling it."""
    value: Flag = False
    """To the values."""
    output: Flag = False
    """To what goes back into the stream."""


def _each(value: Any) -> Any:
    if isinstance(value, bool):
        return dict.fromkeys(Biases.model_fields, value)
    if not isinstance(value, Mapping | Biases):
        words = "must be true, false or a mapping of {names} to either, not {value}"
        raise PydanticCustomError(
            "flag_expected", words, {"names": ", ".join(Biases.model_fields), "value": repr(value)}
        )
    return value


BiasChoice = Annotated[Biases, BeforeValidator(_each, json_schema_input_type=bool | Biases)]
"""`true` and `false` stand for all four."""
