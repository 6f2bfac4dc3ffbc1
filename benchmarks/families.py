"""A training step on a CPU of four families of models, each beside transformers' own (extra `peers`), in bfloat16.

    python benchmarks/families.py [--compiled] [--rounds N] [--only llama,gpt2,bert,t5]

The same sizes, loss (of tokens, or of masked ones), optimizer and batch; dropout is off.  sublayer's step is the one
that `sublayer train` makes: the batch divided among threads, one a core.  Compiled, or for a peer, all cores work on
each operation.  Prints ratios of medians, each way's turn coming once a round.

Shapes: B batch, T tokens, V vocabulary.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peers import n_parameters, optimizer_of
from timing import medians, table
from torch import Tensor, nn
from torch.nn import functional as F

from sublayer.model import ModelConfig, Transformer
from sublayer.training.crew import Crew
from sublayer.training.device import autocast, choose_dtype

BATCH, LENGTH = 8, 256
WIDTH, LAYERS, HEADS, VOCABULARY = 384, 6, 6, 4096
CPU = torch.device("cpu")

Rows = tuple[Tensor, Tensor]
"""Tokens and targets, [B, T] each."""


@dataclass(frozen=True)
class Family:
    """A family in the same sizes from both packages.

    Attributes:
        ours: the choices of sublayer's config that make it.
        theirs: transformers' model.
        loss: of theirs, on (tokens, targets), as its users compute it.
    """

    ours: Mapping[str, Any]
    theirs: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]


def of_logits(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """The loss as the model returns its logits; targets stand at the places where they are predicted."""
    return F.cross_entropy(model(tokens).logits.flatten(0, 1).float(), targets.flatten())


def of_pairs(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """The loss of an encoder-decoder that reads `tokens` on both sides."""
    logits = model(input_ids=tokens, decoder_input_ids=tokens).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=1024,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=1024,
            attn_implementation="sdpa",
        )
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=1024,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="sdpa",
        )
    )


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
    )


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=4 * WIDTH,
            num_layers=LAYERS,
            num_heads=HEADS,
            dropout_rate=0.0,
        )
    )


BIASED = {"n_heads": HEADS, "bias": True}
FAMILIES = {
    "llama": Family(
        {
            "attention": {"n_heads": HEADS},
            "feed_forward": {"kind": "gated", "activation": "silu", "d_ff": 1024},
            "tied_embeddings": False,
        },
        llama,
        of_logits,
    ),
    "gpt2": Family(
        {
            "position": "learned",
            "attention": BIASED,
            "feed_forward": {"kind": "dense", "activation": "gelu_tanh", "bias": True},
            "norm": "layer",
        },
        gpt2,
        of_logits,
    ),
    "bert": Family(
        {
            "stack": "encoder",
            "max_length": 512,
            "position": "learned",
            "attention": BIASED,
            "feed_forward": {"kind": "dense", "activation": "gelu", "bias": True},
            "residual": "post_norm",
            "norm": "layer",
            "embedding": {"norm": "layer", "segments": 2},
            "head": {"transform": "gelu", "bias": True},
        },
        bert,
        of_logits,
    ),
    "t5": Family(
        {
            "stack": "encoder_decoder",
            "position": "t5",
            "attention": {"n_heads": HEADS, "scale": 1.0},
            "feed_forward": "relu",
            "head": {"scale": "1/sqrt_d_model"},
            "initialisation": {"std": None, "embedding_std": 1.0, "depth_scaled": False},
        },
        t5,
        of_pairs,
    ),
}


def ours(family: Family) -> Transformer:
    """sublayer's model."""
    sizes = {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": LAYERS, "max_length": 1024}
    return Transformer(ModelConfig.parse(sizes | family.ours)).train()


def our_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    config = getattr(model, "_orig_mod", model).config
    source = tokens if config.stack == "encoder_decoder" else None
    return model(tokens, source=source, targets=targets).loss


def rows(masked: bool) -> Rows:
    """Random tokens and targets; of a masked objective, every seventh place has one."""
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    targets = tokens[:, 1:].clone()
    if masked:
        targets[:, torch.arange(LENGTH) % 7 > 0] = -100
    return tokens[:, :-1].contiguous(), targets


def together(model: nn.Module, loss: Callable[[nn.Module, Tensor, Tensor], Tensor], data: Rows) -> Callable[[], None]:
    """A step in which all cores work on each operation."""
    optimizer = optimizer_of(model)

    def step() -> None:
        with autocast(CPU, choose_dtype("auto", CPU)):
            value = loss(model, *data)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_shares(model: nn.Module, crew: Crew, data: Rows) -> Callable[[], None]:
    """A step whose sequences are divided among threads, as `sublayer train` does it."""
    optimizer, parameters = optimizer_of(model), list(model.parameters())
    parts = [part.chunk(crew.threads) for part in data]

    def gradients(share: Rows) -> tuple[Tensor | None, ...]:
        with autocast(CPU, choose_dtype("auto", CPU)):
            value = our_loss(model, *share) / crew.threads
        return torch.autograd.grad(value, parameters, allow_unused=True)

    def step() -> None:
        for found in crew.map(gradients, zip(*parts, strict=True)):
            for parameter, part in zip(parameters, found, strict=True):
                if part is not None:
                    parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(name: str, compiled: bool, rounds: int, cores: int) -> list[str]:
    """One line of the table."""
    family = FAMILIES[name]
    data = rows(masked=name == "bert")
    mine, peer = ours(family), family.theirs().train()
    for model, loss in ((mine, our_loss), (peer, family.loss)):
        with torch.no_grad():
            value = float(loss(model, *data))
        assert 8 < value < 12, f"{name}: a loss of {value:.2f} where chance is 8.32, so something else is computed"
    crew = Crew(cores, 1)
    ways = {"ours": in_shares(mine, crew, data), "theirs": together(peer, family.loss, data)}
    if compiled:
        torch.compiler.reset()
        ways["ours, compiled"] = together(torch.compile(ours(family)), our_loss, data)
        ways["theirs, compiled"] = together(torch.compile(family.theirs().train()), family.loss, data)

    def on_cores(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(cores)
            step()

        return run

    with crew:
        times = medians({way: on_cores(step) for way, step in ways.items()}, rounds)
    speed = BATCH * LENGTH / times["ours"]
    line = [
        name,
        f"{n_parameters(mine) / 1e6:.2f}M / {n_parameters(peer) / 1e6:.2f}M",
        f"{speed:,.0f}",
        f"{times['theirs'] / times['ours']:.2f}×",
    ]
    if compiled:
        line += [f"{times[other] / times['ours, compiled']:.2f}×" for other in ("theirs", "theirs, compiled")]
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step of four families beside transformers' own.")
    parser.add_argument("--compiled", action="store_true", help="compile both as well")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default=",".join(FAMILIES))
    options = parser.parse_args()

    cores = torch.get_num_threads()
    lines = [measure(name, options.compiled, options.rounds, cores) for name in options.only.split(",")]
    print(f"torch {torch.__version__}, {cores} cores; {BATCH} sequences of {LENGTH} tokens a step, bfloat16, AdamW")
    header = ["family", "parameters", "tokens/s", "eager ÷ eager"]
    header += ["compiled ÷ eager", "compiled ÷ compiled"] if options.compiled else []
    print(table(header, lines))


if __name__ == "__main__":
    main()
