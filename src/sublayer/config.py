"""The base of every config: frozen, closed to unknown keys, and wrong in one sentence.

Pydantic validates the tree; this file turns its many-line report into a single sentence (`ConfigError`, a
`ValueError`), also when a config is built directly in Python.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from sublayer.errors import ConfigError

Place = tuple[str | int, ...]
"""Where in a tree: keys and indices from its root."""


def _number(value: Any) -> Any:
    # Pydantic would read `n_layers: true` as 1 and `n_layers: "6"` as 6.
    if isinstance(value, bool):
        raise PydanticCustomError("number_expected", "must be a number, not {value}", {"value": str(value).lower()})
    if isinstance(value, str):
        raise PydanticCustomError("number_expected", "must be a number, not {value}", {"value": repr(value)})
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, float) and not value.is_integer():  # 1e3 is a whole number
        raise PydanticCustomError("number_expected", "must be a whole number, not {value}", {"value": str(value)})
    return _number(value)


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise PydanticCustomError("flag_expected", "must be true or false, not {value}", {"value": repr(value)})
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
"""true or false."""
Count = Annotated[int, BeforeValidator(_integer), Field(ge=1)]
"""An integer of at least 1."""
Whole = Annotated[int, BeforeValidator(_integer), Field(ge=0)]
"""An integer of at least 0."""
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
"""A finite number of at least 0."""
Finite = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
"""A finite number."""
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
"""A share of a whole, from 0 to 1."""
Probability = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
"""A probability below 1, as dropout takes."""


def suggest(word: str, known: list[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, then all of them."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}choose from: {', '.join(known)}"


class Config(BaseModel):
    """A frozen, validated config.

    Raises:
        ConfigError: when a value is refused; the message is one sentence that names the key.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(sentence(error)) from None

        # Tells pydantic that this __init__ adds nothing to validation, so nested configs keep pydantic's own errors
        # and their location in the tree, and only the outermost call words the sentence.
        __init__.__pydantic_base_init__ = True

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """This config with some values replaced, validated anew (pydantic's own copy would not).

        Raises:
            ConfigError: as the constructor does.
        """
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**values | dict(update or {}))

    @classmethod
    def parse(cls, values: Any) -> Self:
        """Build from a mapping (as read from YAML or JSON).

        Raises:
            ConfigError: as the constructor does, and when `values` is not a mapping.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a mapping of keys to values was expected, not {_shown(values)}.")
        return cls(**{str(key): value for key, value in values.items()})

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'; {hint}",
                        {"key": str(key), "hint": suggest(str(key), list(cls.model_fields))},
                    )
        return values

    def tree(self) -> dict[str, Any]:
        """The config as plain YAML/JSON values, defaults included."""
        return self.model_dump(mode="json")


def located(where: Place, message: str) -> ValidationError:
    """An error that pydantic places below the key that is being validated."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    details: InitErrorDetails = {"type": error, "loc": where, "input": None}
    return ValidationError.from_exception_data("Config", [details])


def sentence(error: ValidationError) -> str:
    """One sentence for a pydantic error: where, what, and how many more problems follow."""
    problems = explained(error)
    more = len(problems) - 1
    tail = f" (and {more} more problem{'s' if more > 1 else ''} after it)" if more else ""
    where = ""
    (place, text), *_ = problems
    for step in place:
        where += f"[{step}]" if isinstance(step, int) else (f".{step}" if where else str(step))
    text = f"{where}: {text}" if where else text
    return " ".join(text.split()).rstrip(".") + tail + "."


def explained(error: ValidationError) -> list[tuple[Place, str]]:
    """What is wrong, each with its place in the tree."""
    problems = error.errors(include_url=False)
    # Of a value that may be one of several things, pydantic reports each of them by itself, with the thing's name as
    # the next step of the place; one of these names has brackets at least, as no key has.
    unions = {p["loc"][:n] for p in problems for n, step in enumerate(p["loc"]) if "[" in str(step)}
    groups: dict[Place, list[str]] = {}
    for problem in problems:
        whole = problem["loc"]
        place = next((whole[:n] for n in range(len(whole)) if whole[:n] in unions), whole)
        groups.setdefault(place, []).append(explain(problem))
    return [(place, _either(sentences)) for place, sentences in groups.items()]


def _either(sentences: list[str]) -> str:
    """`must be a, not c` and `must be b, not c` in one."""
    wanted = [sentence.removeprefix("must be ").rpartition(", not ")[0] for sentence in sentences[:-1]]
    return f"must be {' or '.join([*wanted, sentences[-1].removeprefix('must be ')])}" if wanted else sentences[0]


def explain(problem: ErrorDetails) -> str:
    """What is wrong with a value, in the words of one pydantic error, without its place."""
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "value_error" | "unknown_key" | "unknown_kind" | "number_expected" | "flag_expected":
            pass
        case "missing":
            message = "is required and was left out"
        case "literal_error" | "enum":
            expected = problem.get("ctx", {}).get("expected", "")
            message = f"must be {expected}, not {_shown(problem['input'])}"
        case "tuple_type" | "list_type":
            message = f"must be a list, not {_shown(problem['input'])}"
        case "dict_type" | "mapping_type" | "model_type":
            message = f"must be a mapping of keys to values, not {_shown(problem['input'])}"
        case _:
            message = message[0].lower() + message[1:].replace("Input should", "should")
            message = f"{message.replace('input should', 'must')}, not {_shown(problem['input'])}"
    return message


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
