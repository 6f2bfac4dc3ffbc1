"""The same Llama-shaped decoder from sublayer and from its peers (extra `peers`), for side-by-side figures.

Each peer is built by its own public means, with random weights: nothing is downloaded.
Shapes: B batch, T tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model import ModelConfig, Transformer

Loss = Callable[[Tensor, Tensor], Tensor]
"""(tokens [B, T], targets [B, T]) → mean cross-entropy."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama: rotary positions, RMS norms, SwiGLU, no biases, an output matrix of its own.

    With experts, those of a Mixtral, each of whose experts is `d_ff` wide.
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    vocab_size: int
    max_length: int
    n_experts: int = 0
    top_k: int = 0

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


SMALL = Shape(d_model=384, n_layers=6, n_heads=6, d_ff=1024, vocab_size=4096, max_length=1024)
"""13.8M parameters: the training step on a CPU."""
MIDDLE = Shape(d_model=768, n_layers=12, n_heads=12, d_ff=2048, vocab_size=32000, max_length=1024)
"""134M parameters, 110M of them beside the embedding: decoding on a CPU."""
GPU_SMALL = Shape(d_model=768, n_layers=12, n_heads=12, d_ff=2048, vocab_size=50304, max_length=1024)
"""GPT-2 small's sizes (124M with tied embeddings) as a Llama: the training step on a GPU."""
GPU_MEDIUM = Shape(d_model=1024, n_layers=24, n_heads=16, d_ff=2816, vocab_size=50304, max_length=1024)
"""GPT-2 medium's (350M)."""
SMALL_EXPERTS = replace(SMALL, d_ff=512, n_experts=8, top_k=2)
"""35M parameters, of which a token uses as many as SMALL has."""
MIDDLE_EXPERTS = replace(MIDDLE, d_ff=1024, n_experts=8, top_k=2)
"""304M parameters, of which a token uses as many as MIDDLE has."""
GPU_EXPERTS = replace(GPU_MEDIUM, d_ff=1408, n_experts=8, top_k=2)
"""1.1 billion parameters, of which a token uses as many as GPU_MEDIUM has."""


def ours(shape: Shape) -> Transformer:
    """sublayer's."""
    return Transformer(
        ModelConfig(
            vocab_size=shape.vocab_size,
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            max_length=shape.max_length,
            attention={"n_heads": shape.n_heads},
            feed_forward=feed_forward(shape),
            tied_embeddings=False,
        )
    )


def feed_forward(shape: Shape) -> dict[str, object]:
    """The same in sublayer's config."""
    gated: dict[str, object] = {"kind": "gated", "activation": "silu", "d_ff": shape.d_ff}
    if not shape.n_experts:
        return gated
    router = {"kind": "top_k", "scoring": "softmax_after"}
    return {"kind": "experts", "n_experts": shape.n_experts, "top_k": shape.top_k, "router": router, "expert": gated}


def hugging_face(shape: Shape) -> nn.Module:
    """`transformers`' Llama, with PyTorch's fused attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            max_position_embeddings=shape.max_length,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    )


def hugging_face_experts(shape: Shape, implementation: str = "grouped_mm") -> nn.Module:
    """`transformers`' Mixtral, with one of its ways to compute experts: eager (a loop), grouped_mm (its default) or
    batched_mm."""
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_heads,
            max_position_embeddings=shape.max_length,
            num_local_experts=shape.n_experts,
            num_experts_per_tok=shape.top_k,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
            attn_implementation="sdpa",
            experts_implementation=implementation,
        )
    )


def x_transformers(shape: Shape) -> nn.Module:
    """x-transformers' decoder with the same choices."""
    from x_transformers import Decoder, TransformerWrapper

    return TransformerWrapper(
        num_tokens=shape.vocab_size,
        max_seq_len=shape.max_length,
        use_abs_pos_emb=False,
        attn_layers=Decoder(
            dim=shape.d_model,
            depth=shape.n_layers,
            heads=shape.n_heads,
            attn_dim_head=shape.d_head,
            attn_flash=True,
            rotary_pos_emb=True,
            rotary_emb_dim=shape.d_head,
            use_rmsnorm=True,
            ff_glu=True,
            ff_swish=True,
            ff_mult=shape.d_ff / shape.d_model,
            ff_no_bias=True,
        ),
    )


def litgpt(shape: Shape) -> nn.Module:
    """litgpt's GPT in its Llama configuration."""
    from litgpt import GPT, Config

    return GPT(
        Config(
            block_size=shape.max_length,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_embd=shape.d_model,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=shape.d_ff,
        )
    )


def loss_of(model: nn.Module) -> Loss:
    """The training loss of a model of any of these packages, on what it returns for plain tokens."""
    if isinstance(unwrapped(model), Transformer):
        return lambda tokens, targets: model(tokens, targets=targets).loss

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        out = model(tokens)
        logits = out if isinstance(out, Tensor) else out.logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return loss


def unwrapped(model: nn.Module) -> nn.Module:
    """A compiled model's own module."""
    return getattr(model, "_orig_mod", model)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The same for all."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def n_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def seeded_tokens(batch: int, length: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Random tokens and their targets, [B, T] each."""
    rows = torch.randint(0, vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
