"""What a router is told of a batch, and what it decides.

Shapes: B rows, T tokens, N = B·T, E experts, K experts of a token, M assignments of a token to an expert.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.model.layout import Layout


@dataclass(frozen=True)
class Places:
    """Where the tokens x_ND of a batch stand.

    Attributes:
        shape: (B, T).
        layout: resolved.
        tokens_BT: their ids; None where they are not known.
    """

    shape: tuple[int, int]
    layout: Layout
    tokens_BT: Tensor | None = None

    @property
    def valid_N(self) -> Tensor | None:
        """Which are no padding; None when all are."""
        return None if self.layout.valid_BT is None else self.layout.valid_BT.flatten()

    def documents_N(self) -> Tensor | None:
        """The number of each token's document among all of the batch, −1 for padding; None when each row is one."""
        layout = self.layout
        if layout.document_BT is None and layout.valid_BT is None:
            return None
        return layout.once("documents of experts", self._documents)

    def _documents(self) -> Tensor:
        n_rows, length = self.shape
        if self.layout.document_BT is None:
            assert self.layout.valid_BT is not None
            row_B1 = torch.arange(n_rows, device=self.layout.valid_BT.device)[:, None]
            document_N = row_B1.expand(n_rows, length).flatten()
        else:
            document_BT = self.layout.document_BT
            first_BT = F.pad(document_BT[:, 1:] != document_BT[:, :-1], (1, 0), value=True)
            document_N = first_BT.flatten().long().cumsum(0) - 1
        return document_N if self.valid_N is None else document_N.masked_fill(~self.valid_N, -1)


@dataclass(frozen=True)
class Noise:
    """The noise of a router in training.

    Attributes:
        clean_NE: the logits without it.
        std_NE: its standard deviation.
    """

    clean_NE: Tensor
    std_NE: Tensor


@dataclass(frozen=True)
class Routing:
    """Which experts compute which tokens.

    Attributes:
        token_M, expert_M: the assignments (int64), in the order of the tokens.
        weight_M: what the expert's output is multiplied with.
        top_k: assignments of each token, where all have as many: those of a token then stand together.
        logits_NE: the router's, with noise where there is some; None where it has none.
        probability_NE: the same as shares of 1.
        margin_N: how much the last chosen expert's score was above the first not chosen one's.
        noise: in the logits.
    """

    token_M: Tensor
    expert_M: Tensor
    weight_M: Tensor
    top_k: int | None = None
    logits_NE: Tensor | None = None
    probability_NE: Tensor | None = None
    margin_N: Tensor | None = None
    noise: Noise | None = None

    @classmethod
    def by_token(cls, expert_NK: Tensor, weight_NK: Tensor, **more: object) -> "Routing":
        """Where each token has K experts."""
        n_tokens, top_k = expert_NK.shape
        token_N = torch.arange(n_tokens, device=expert_NK.device)
        token_M = token_N[:, None].expand(n_tokens, top_k).flatten()
        return cls(token_M, expert_NK.flatten(), weight_NK.flatten(), top_k, **more)  # type: ignore[arg-type]

    def load_E(self, n_experts: int, valid_N: Tensor | None) -> Tensor:
        """Assignments of tokens that are no padding, by expert (int64)."""
        one_M = torch.ones_like(self.expert_M) if valid_N is None else valid_N.long()[self.token_M]
        return one_M.new_zeros(n_experts).scatter_add(0, self.expert_M, one_M)

    def decisions(self, places: Places, n_experts: int) -> Mapping[str, Tensor]:
        """For `want="routing"`: `chosen` (bool), `weight` and, where there is one, `probability`, [B, T, E] each."""
        n_tokens = places.shape[0] * places.shape[1]
        at = (self.token_M, self.expert_M)
        chosen_NE = self.expert_M.new_zeros(n_tokens, n_experts, dtype=torch.bool)
        told = {
            "chosen": chosen_NE.index_put(at, torch.ones_like(self.expert_M, dtype=torch.bool)),
            "weight": self.weight_M.new_zeros(n_tokens, n_experts).index_put(at, self.weight_M.detach()),
        }
        if self.probability_NE is not None:
            told["probability"] = self.probability_NE.detach()
        return {name: value.view(*places.shape, n_experts) for name, value in told.items()}


def summed(value_N: Tensor, valid_N: Tensor | None) -> Tensor:
    """The sum over tokens [N, …] that are no padding."""
    if valid_N is None:
        return value_N.sum(0)
    # Not multiplied by 0: what stands at padding may be no number.
    mask = valid_N.view(-1, *[1] * (value_N.dim() - 1))
    return value_N.where(mask, value_N.new_zeros(())).sum(0)
