"""How text is drawn from a model."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sublayer.config import Config, Count, Finite, Flag, NonNegative, Positive, Share, Whole

DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")
"""Options of drawing tokens, which beams do not."""

SEARCHING = ("length_penalty", "early_stopping", "n_best")
"""Options of beams."""


def _listed(value: Any) -> Any:
    # A string is a sequence of its letters, and one stop string is the usual case.
    return (value,) if isinstance(value, str) else value


class GenerationConfig(Config):
    """How text is drawn from a model."""

    max_tokens: Count = 128
    """Most tokens drawn after each prompt."""
    temperature: NonNegative = 0.8
    """Logits are divided by it: below 1 the likely gets likelier, and 0 always takes the most probable token."""
    top_k: Count | None = None
    """Draw from the k most probable tokens only (Fan et al. 2018); null: no limit."""
    top_p: Annotated[Share, Field(gt=0)] | None = None
    """Draw from the smallest set of most probable tokens that holds this share of the probability (Holtzman et al.
    2020, section 3.1); null: no limit."""
    min_p: Share | None = None
    """Draw from tokens with at least this share of the most probable one's probability (Nguyen et al. 2024); null: no
    limit."""
    repetition_penalty: Positive = 1.0
    """Divides the logit, or multiplies a negative one, of every token in the prompt or drawn before (Keskar et al.
    2019, section 4.1); 1: no penalty."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)] = ()
    """Texts before which a completion ends; they are not part of it."""
    special_tokens: Flag = False
    """Read the names of special tokens in prompts as these tokens, and write those that come, but for the end token:
    `<extra_id_0>`, as a model of span corruption needs them."""
    seed: Whole | None = None
    """Of the draws; null: a new one each time, which the completion names, so that it can be had again."""
    beams: Count = 1
    """Draw nothing, but go on with this many of the most probable texts at once and take the best that ends (Graves
    2012, algorithm 1; Sutskever et al. 2014, section 3.2); 1: no search."""
    length_penalty: Annotated[Finite, Field(ge=-10, le=10)] = 1.0
    """α of a text's score among beams, log-probability / length^α, with the end token in the length (Wu et al. 2016,
    section 7, before their equation 14): above 0 it favours long texts, and 0 is the log-probability itself."""
    early_stopping: Flag | Literal["never"] = False
    """When beams end: `true`: as soon as so many texts have; `false`: when none that goes on has a better score at its
    present length; `never`: when none can get one, up to the length that it may have at most."""
    n_best: Count = 1
    """How many of the beams' texts are told, the best one first; at most as many as there are beams."""

    @model_validator(mode="after")
    def _one_way_of_choosing(self) -> Self:
        if self.beams > 1:
            for name in DRAWING:
                value = getattr(self, name)
                if name in self.model_fields_set and value is not None and not (name == "temperature" and value == 0):
                    raise ValueError(
                        f"{name} has no effect with beams, which draw nothing; leave it out or set beams: 1"
                    )
        else:
            for name in SEARCHING:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect without beams; leave it out or set beams to 2 or more")
        if self.n_best > self.beams:
            raise ValueError(f"n_best ({self.n_best}) is more than there are beams ({self.beams}); raise beams")
        return self
