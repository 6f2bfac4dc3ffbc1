"""A dense model as one with experts that computes the same.

Shapes: E copies of a feed-forward, G parts of each, F d_ff, D d_model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sublayer.errors import ConfigError
from sublayer.model.config import ModelConfig
from sublayer.model.experts.bank import KINDS
from sublayer.model.experts.mixture import Mixture
from sublayer.model.feed_forward.base import FeedForwardConfig
from sublayer.model.transformer import Transformer

FIELD = "feed_forward"


def upcycled(
    model: Transformer,
    n_experts: int = 8,
    top_k: int = 2,
    granularity: int = 1,
    *,
    first_dense: int = 0,
    every: int = 1,
    seed: int = 0,
) -> Transformer:
    """The same model with each feed-forward copied into experts (Komatsuzaki et al. 2023, section 3).

    All experts start alike and the weights of the chosen ones add up to 1, so the output is the dense model's; they
    come apart in training, as each sees other tokens.

    With a granularity of G, each copy is cut into G experts of d_ff / G hidden units.  The router's rows of a copy
    start alike, so that a token chooses whole copies, and weights are scaled by G (He et al. 2024, virtual groups).

    Args:
        model: whose feed-forwards are all dense or gated, of one kind and size.
        n_experts: copies, E.
        top_k: copies that compute a token.
        granularity: parts that each copy is cut into, G.
        first_dense, every: which layers get experts, as in `ExpertsConfig`.
        seed: of the routers' initial values.

    Returns:
        A new model, in evaluation mode, on the CPU, in float32 or the model's dtype.

    Raises:
        ConfigError: when the model cannot be upcycled so.
    """
    config = upcycled_config(model.config, n_experts, top_k, granularity, first_dense, every)
    grown = Transformer(config, seed).to(model.embedding.weight.dtype).eval()
    state = dict(model.state_dict())
    for path, box in grown.named_modules():
        if isinstance(box, Mixture):
            weights = _taken(f"{path}.", state)
            state |= {f"{path}.{name}": value for name, value in _experts(weights, box, n_experts, granularity).items()}
    grown.load_state_dict(state)
    return grown


def upcycled_config(
    config: ModelConfig, n_experts: int, top_k: int, granularity: int, first_dense: int = 0, every: int = 1
) -> ModelConfig:
    """The config of the upcycled model.

    Raises:
        ConfigError: when the model cannot be upcycled so.
    """
    expert = _feed_forward(config)
    d_ff = expert.tree()["d_ff"]
    for name, value in (("experts", n_experts), ("top_k", top_k), ("granularity", granularity)):
        if value < 1:
            raise ConfigError(f"{name}: is {value}, and must be at least 1.")
    if top_k < 2 and n_experts > 1:
        raise ConfigError(
            "top_k: must be at least 2: a single expert is weighted by its probability, which is below 1, and so the "
            "model would not begin with what the dense one computes."
        )
    if d_ff % granularity:
        raise ConfigError(f"granularity: {granularity} does not divide d_ff ({d_ff}); choose a divisor.")
    tree = config.tree()
    tree[FIELD] = {
        "kind": "experts",
        "n_experts": n_experts * granularity,
        "top_k": top_k * granularity,
        "router": {"kind": "top_k", "renormalise": True, "scale": float(granularity)},
        "expert": {**expert.tree(), "d_ff": d_ff // granularity},
    }
    if first_dense or every > 1:
        tree[FIELD] |= {"first_dense": first_dense, "every": every, "dense": expert.tree()}
    return ModelConfig.parse(tree)


def _feed_forward(config: ModelConfig) -> FeedForwardConfig:
    """The feed-forward that all layers have, complete.

    Raises:
        ConfigError: when they have several, or one that cannot be an expert.
    """
    changes = [*config.layers, *config.encoder.get("layers", ()), config.encoder]
    layers = config.all_layers()
    if any(FIELD in change for change in changes) or any(
        layer.feed_forward != layers[0].feed_forward for layer in layers
    ):
        raise ConfigError("its layers have different feed-forwards, and only equal ones can be upcycled.")
    expert = layers[0].feed_forward
    if not isinstance(expert, KINDS):
        names = " or ".join(kind.kind_name() for kind in KINDS)
        raise ConfigError(f"its feed-forward is '{expert.kind_name()}', and only {names} ones can become experts.")
    return expert


def _taken(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below a name, taken out."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}


def _experts(dense: Mapping[str, Tensor], box: Mixture, n_copies: int, n_parts: int) -> dict[str, Tensor]:
    """The state of a mixture, from that of a feed-forward."""
    state: dict[str, Tensor] = {}
    for name, value in dense.items():
        matrix, kind = name.split(".")
        # Hidden units stand in the rows of all but the last matrix, whose bias is added by every part.
        if matrix == "down":
            parts = value.chunk(n_parts, dim=1) if kind == "weight" else [value / n_parts] * n_parts
        else:
            parts = value.chunk(n_parts, dim=0)
        state[f"experts.{matrix}" + ("_bias" if kind == "bias" else "")] = torch.stack([*parts] * n_copies)
    weight = box.router.get_parameter("weight").detach()
    state["router.weight"] = weight[::n_parts].repeat_interleave(n_parts, dim=0)
    return state
