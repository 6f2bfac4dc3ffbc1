"""What it costs that everything is a choice: sublayer's model beside a module written by hand for one composition.

    python benchmarks/generality.py [--rounds N]

Both compute the same, number by number: a Llama-shaped decoder with the same weights, in bfloat16 on a CPU, attention
by two products with a softmax between them, and the same chunked loss, in a forward and a backward pass.  Prints the
ratio of medians, each one's turn coming once a round.

Shapes: B batch, T tokens, D d_model, H heads, K head width, V vocabulary.
"""

import argparse
from collections.abc import Callable

import torch
from peers import SMALL, Shape, ours, seeded_tokens
from timing import medians, table
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model import Transformer
from sublayer.model.loss import cross_entropy
from sublayer.training.device import autocast

BATCH, LENGTH = 8, 256
CPU = torch.device("cpu")
EPSILON, THETA = 1e-6, 10000.0


class HandWritten(nn.Module):
    """The composition as one would write it who needs no other."""

    def __init__(self, shape: Shape, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.shape = shape
        self.weights = nn.ParameterDict({name.replace(".", "/"): nn.Parameter(w) for name, w in weights.items()})

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        weight = {name.replace("/", "."): w for name, w in self.weights.items()}
        length, n_heads = tokens_BT.shape[1], self.shape.n_heads
        even = torch.arange(0, self.shape.d_head, 2)
        angles = torch.arange(length)[:, None].float() * THETA ** (-even.float() / self.shape.d_head)
        cos, sin = angles.cos(), angles.sin()
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        hidden = torch.zeros(length, length, dtype=torch.bfloat16)
        hidden.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu(1), torch.finfo(torch.bfloat16).min)

        def rotated(x_BHTK: Tensor) -> Tensor:
            x = x_BHTK.float()
            return (x * cos + x.roll(self.shape.d_head // 2, -1) * sin).to(x_BHTK.dtype)

        x_BTD = F.embedding(tokens_BT, weight["embedding.weight"])
        for layer in range(self.shape.n_layers):
            at = f"blocks.{layer}."
            normed = F.rms_norm(x_BTD, x_BTD.shape[-1:], weight[at + "residual.norms.0.weight"], EPSILON).bfloat16()
            q, k, v = (
                F.linear(normed, weight[f"{at}attention.{name}.weight"]).unflatten(-1, (n_heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            q, k = rotated(q) * self.shape.d_head**-0.5, rotated(k)
            with torch.autocast("cpu", enabled=False):
                scores_BHTT = (q @ k.transpose(-1, -2)).add_(hidden)
                out_BHTK = scores_BHTT.softmax(-1) @ v
            x_BTD = x_BTD + F.linear(out_BHTK.transpose(1, 2).flatten(2), weight[at + "attention.output.weight"])
            normed = F.rms_norm(x_BTD, x_BTD.shape[-1:], weight[at + "residual.norms.1.weight"], EPSILON).bfloat16()
            gate, up = (F.linear(normed, weight[f"{at}feed_forward.{name}.weight"]) for name in ("gate", "up"))
            x_BTD = x_BTD + F.linear(F.silu(gate) * up, weight[at + "feed_forward.down.weight"])
        x_BTD = F.rms_norm(x_BTD, x_BTD.shape[-1:], weight["final_norm.weight"], EPSILON)
        return cross_entropy(x_BTD.flatten(0, 1), weight["head.output.weight"], targets_BT.flatten())


def passes(loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> Callable[[], None]:
    """A forward and a backward pass."""
    data = seeded_tokens(BATCH, LENGTH, SMALL.vocab_size)

    def run() -> None:
        with autocast(CPU, torch.bfloat16):
            value = loss(*data)
        torch.autograd.grad(value, list(model.parameters()))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="What generality costs.")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    general: Transformer = ours(SMALL).train()
    special = HandWritten(SMALL, {name: w.detach().clone() for name, w in general.named_parameters()})

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return general(tokens, targets=targets).loss

    data = seeded_tokens(BATCH, LENGTH, SMALL.vocab_size)
    with autocast(CPU, torch.bfloat16), torch.no_grad():
        one, other = float(loss(*data)), float(special(*data))
    assert abs(one - other) < 1e-4, f"losses of {one} and {other}: not the same arithmetic"
    times = medians({"sublayer": passes(loss, general), "by hand": passes(special, special)}, options.rounds)
    cores = torch.get_num_threads()
    print(f"torch {torch.__version__}, {cores} cores; {BATCH} sequences of {LENGTH} tokens, bfloat16; losses {one:.5f}")
    ratio = times["sublayer"] / times["by hand"]
    print(
        table(
            ["forward and backward", "tokens/s", "time ÷ by hand"],
            [
                [name, f"{BATCH * LENGTH / seconds:,.0f}", f"{ratio if name == 'sublayer' else 1:.3f}"]
                for name, seconds in times.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
