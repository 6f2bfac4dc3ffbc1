"""Generation: from a model and a prompt to text, or to the class of a text.

`generate(model, tokenizer, "def ")` gives a `Completion`.  Names are imported when first used, so that reading a config
does not wait for torch.
"""

from typing import TYPE_CHECKING

from sublayer.lazy import names_of

if TYPE_CHECKING:
    from sublayer.generation.classification import Classification as Classification
    from sublayer.generation.classification import classify as classify
    from sublayer.generation.completion import Completion as Completion
    from sublayer.generation.completion import generate as generate
    from sublayer.generation.config import GenerationConfig as GenerationConfig
    from sublayer.generation.decoding import Event as Event
    from sublayer.generation.decoding import decode as decode
    from sublayer.generation.defaults import generation_config as generation_config
    from sublayer.generation.gaps import Filled as Filled
    from sublayer.generation.gaps import Guess as Guess
    from sublayer.generation.gaps import fill_masks as fill_masks
    from sublayer.generation.written import Reason as Reason

# No file is named like a function in it: importing the file would put the module in the function's place here.
_HOMES = {
    "Classification": "classification",
    "Completion": "completion",
    "Event": "decoding",
    "Filled": "gaps",
    "GenerationConfig": "config",
    "Guess": "gaps",
    "Reason": "written",
    "classify": "classification",
    "decode": "decoding",
    "fill_masks": "gaps",
    "generate": "completion",
    "generation_config": "defaults",
}

__getattr__, __dir__ = names_of(__name__, _HOMES)
