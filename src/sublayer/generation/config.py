"""How text is drawn from a model."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sublayer.config import Config, Count, NonNegative, Positive, Share, Whole


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
    seed: Whole | None = None
    """Of the draws; null: a new one each time, which the completion names, so that it can be had again."""
