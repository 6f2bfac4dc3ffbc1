"""Experts by the token's id.

Shapes: N tokens, E experts, K top_k.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sublayer.config import Whole
from sublayer.model.experts.router.base import Router, RouterConfig, Team
from sublayer.model.experts.routing import Places, Routing
from sublayer.model.part import StackShape


@RouterConfig.registry.register
class HashConfig(RouterConfig):
    """A token's id says its experts, by a random table that is never learned; each layer has another one."""

    paper: ClassVar[str] = "Roller et al. 2021, section 3.2"
    chooses: ClassVar[Literal["token", "expert", "none"]] = "token"

    kind: Literal["hash"] = "hash"
    seed: Whole = 0
    """Of the tables."""

    def build(self, shape: StackShape, team: Team) -> "Hash":
        # Of an encoder beside a decoder, the layers are numbered on behind the decoder's.
        before = shape.other_layers if shape.stack == "encoder" else 0
        return Hash(self, before + shape.layer, team)


class Hash(Router):
    """The K experts whose hash together with the token's id is highest, weighted alike."""

    def __init__(self, config: HashConfig, layer: int, team: Team) -> None:
        super().__init__(team)
        self._salt = int(_mixed(_mixed(torch.tensor(config.seed & _MOST, device="cpu")) + layer))

    def route(self, x_ND: Tensor, places: Places) -> Routing:
        assert places.tokens_BT is not None, "the tokens' ids must be given"
        token_N1 = places.tokens_BT.reshape(-1, 1)
        expert_E = torch.arange(self.team.n_experts, device=x_ND.device)
        hash_NE = _mixed(_mixed(token_N1 + self._salt) + _mixed(expert_E))
        expert_NK = hash_NE.topk(self.team.top_k, dim=-1).indices
        weight_NK = torch.full(expert_NK.shape, 1 / self.team.top_k, dtype=torch.float32, device=x_ND.device)
        return Routing.by_token(expert_NK, weight_NK)


def _mixed(x: Tensor) -> Tensor:
    """A hash of 64-bit integers in which every bit counts (the finaliser of splitmix64), wrapping around."""
    x = (x + 0x1E3779B97F4A7C15) & _MOST
    x = ((x ^ (x >> 30)) * 0x3F58476D1CE4E5B9) & _MOST
    x = ((x ^ (x >> 27)) * 0x14D049BB133111EB) & _MOST
    return x ^ (x >> 31)


_MOST = 2**63 - 1
"""Sets the sign bit to 0, so that shifts to the right fill up with zeros."""
