"""What a head is to the model that holds it."""

from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from sublayer.model.layout import Layout
from sublayer.model.norm import NormConfig
from sublayer.model.part import ModelPart, StackShape
from sublayer.registry import Registry


class HeadConfig(ModelPart):
    """Base of the heads."""

    registry: ClassVar[Registry[Any]] = Registry("head", default_kind="tokens")

    by_token: ClassVar[bool]
    """Whether there is something to predict at each token; if not, for each row."""

    @classmethod
    def abilities(cls) -> tuple[str, ...]:
        return (*super().abilities(), "a target for each token" if cls.by_token else "a target for each row")

    def build(self, shape: StackShape, vocab_size: int, norm: NormConfig, tied: bool) -> "Head":
        """The module.

        Args:
            shape: of the stack.
            vocab_size: number of tokens.
            norm: the one that the model uses.
            tied: whether tokens are scored by their own embeddings.
        """
        raise NotImplementedError


HeadChoice = Annotated[HeadConfig, HeadConfig.registry.choice()]


class Head(nn.Module):
    """Hidden states to logits, and to a loss.  Shapes: B batch, T tokens, D d_model, V vocabulary."""

    def forward(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor) -> Tensor:
        """The logits, [B, T, V] or [B, number of classes].

        Args:
            x_BTD: normalised hidden states.
            layout: of the tokens.
            embedding_VD: the token embeddings.
        """
        raise NotImplementedError

    def loss(self, x_BTD: Tensor, layout: Layout, embedding_VD: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy in nats over the targets that are not −100; [B, T], or [B] of classes."""
        raise NotImplementedError
