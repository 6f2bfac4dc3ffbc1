"""What is known in closed form, or has been measured, of models that have not been trained.

Alibi's turn from recency to primacy is in position/test_alibi.py, products of sinusoids in position/test_sinusoidal.py.
Shapes: B batch, T tokens, V vocabulary.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sublayer.model import ModelConfig, Transformer

N = 64
"""Tokens, and of attention alone the width of the model."""
INDEX = torch.arange(N, dtype=torch.float64)


def attention_only(residual: Any, n_layers: int, stack: str = "decoder", seed: int = 0) -> Transformer:
    """One head and no feed-forward, of float64, with weights that keep a vector's size; a rezero starts whole."""
    config = ModelConfig(
        stack=stack,
        vocab_size=N,
        d_model=N,
        n_layers=n_layers,
        max_length=N,
        position="none",
        attention={"n_heads": 1},
        feed_forward="none",
        residual=residual,
        norm="layer",
        final_norm=False,
        initialisation={"std": None, "embedding_std": 1.0, "depth_scaled": False},
    )
    model = Transformer(config, seed=seed).double()
    if residual == "rezero":  # x + Attention(x), with no norm
        for block in model.blocks:
            torch.nn.init.ones_(block.residual.alpha)
    return model


# --------------------------------------------------------------------------------------------- uniform causal attention


def rollout(residual: str, n_layers: int) -> Tensor:
    """How much of each token's vector stands in the last token's output, of uniform attention that copies values."""
    model = attention_only(residual, n_layers)
    torch.nn.init.eye_(model.embedding.weight.data)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.query.weight)
        torch.nn.init.eye_(block.attention.value.weight)
        torch.nn.init.eye_(block.attention.output.weight)
    with torch.no_grad():
        return model(torch.arange(N)[None]).logits[0, -1]


@pytest.mark.parametrize(
    ("n_layers", "mean", "first"), [(1, 31.5, 0.016), (2, 15.75, 0.074), (4, 3.94, 0.345), (8, 0.246, 0.866)]
)
def test_every_layer_halves_the_mean_index_that_is_read(n_layers: int, mean: float, first: float) -> None:
    """Wu et al. 2025: the causal mask by itself draws attention to the first token, the more so the deeper."""
    mass = rollout("none", n_layers)
    assert mass.sum().item() == pytest.approx(1)
    assert (mass @ INDEX).item() == pytest.approx(63 / 2**n_layers, rel=1e-12)
    assert (mass @ INDEX).item() == pytest.approx(mean, abs=5e-3)
    assert mass[0].item() == pytest.approx(first, abs=5e-4)
    if n_layers == 2:
        assert mass[0].item() == pytest.approx(sum(1 / i for i in range(1, N + 1)) / N, rel=1e-12)


def test_a_skip_slows_this() -> None:
    """Of half the input and half the attention the mean index is 3/4 of what it was."""
    mass = rollout("rezero", 16) / 2**16
    assert mass.sum().item() == pytest.approx(1)
    assert (mass @ INDEX).item() == pytest.approx(63 * 0.75**16, rel=1e-12)
    assert mass[0].item() == pytest.approx(0.814, abs=5e-4)


# -------------------------------------------------------------------------------------------------------- rank collapse


def apart(residual: Any, stack: str, seed: int) -> list[float]:
    """How far the tokens are from all being the same after each of 12 layers: ‖X − 1xᵀ‖/‖X‖ with their mean x."""
    model, outputs = attention_only(residual, 12, stack, seed), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output[0][0]))
    with torch.no_grad():
        model(torch.arange(N)[None])
    return [((x - x.mean(0)).norm() / x.norm()).item() for x in outputs]


def test_attention_alone_loses_rank_and_a_skip_keeps_it() -> None:
    """Dong et al. 2021, theorem 1: doubly exponentially fast; a causal mask is slower, and a skip slower than that."""
    seeds = range(3)
    alone, causal, skip = (
        torch.tensor([apart(residual, stack, seed) for seed in seeds])
        for residual, stack in (("none", "encoder"), ("none", "decoder"), ("rezero", "encoder"))
    )
    assert ((alone[:, 0] > 0.65) & (alone[:, 0] < 0.95)).all()
    assert (alone[:, 1] < 0.06).all()
    for layer in (1, 2):
        assert (alone[:, layer] < alone[:, layer - 1] ** 3).all()
    assert (alone[:, 2] < 1e-5).all()
    assert ((causal[:, 2] > 0.3) & (causal[:, 2] < 0.6)).all()
    assert ((causal[:, 11] > 0.002) & (causal[:, 11] < 0.02)).all()
    assert (skip[:, 1] > 0.9).all()
    assert ((skip[:, 11] > 0.1) & (skip[:, 11] < 0.6)).all()
    assert (causal[:, 1:] > alone[:, 1:]).all()
    assert (skip[:, 1:] > causal[:, 1:]).all()


def test_norms_slow_the_collapse_and_do_not_stop_it() -> None:
    alone, normed = (apart(residual, "encoder", seed=0) for residual in ("none", {"kind": "none", "norm": True}))
    assert normed[1] > 10 * alone[1]
    assert normed[2] > 1000 * alone[2]
    assert normed[4] < 1e-12
    assert apart("pre_norm", "encoder", seed=0)[11] > 0.4
    assert apart("post_norm", "encoder", seed=0)[11] > 0.1


# ------------------------------------------------------------------------------------------ gradients at initialisation


def gradients(residual: str, n_layers: int) -> tuple[list[float], list[float]]:
    """Norms of the gradients of the feed-forwards' last matrices, and mean squares of the stream, by layer.

    The loss is linear in the logits, so that neither the softmax nor the depth changes what comes down to the stack.
    """
    config = ModelConfig(
        stack="encoder",
        vocab_size=50,
        d_model=64,
        n_layers=n_layers,
        max_length=32,
        position="learned",
        attention={"n_heads": 4},
        feed_forward="relu",
        residual=residual,
        norm="layer",
        tied_embeddings=False,
        initialisation={"std": None, "embedding_std": 1.0, "depth_scaled": False},
    )
    model, generator, power = Transformer(config), torch.Generator().manual_seed(0), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: power.append(output[0].square().mean().item()))
    logits_BTV = model(torch.randint(0, 50, (8, 32), generator=generator)).logits
    (logits_BTV * torch.randn(logits_BTV.shape, generator=generator)).mean().backward()
    return [block.feed_forward.down.weight.grad.norm().item() for block in model.blocks], power


def test_gradients_by_depth() -> None:
    """Xiong et al. 2020, theorem 1: the last layer's fall with the root of depth in pre-norm, and not in post-norm."""
    depths = (2, 6, 12, 24)
    pre, post = ({n: gradients(residual, n) for n in depths} for residual in ("pre_norm", "post_norm"))
    last_pre, last_post = ({n: found[n][0][-1] for n in depths} for found in (pre, post))
    rooted = [last_pre[n] * n**0.5 for n in depths]
    assert max(rooted) < 1.5 * min(rooted)
    assert last_pre[2] > 2 * last_pre[24]
    assert max(last_post.values()) < 1.3 * min(last_post.values())
    # What the final norm divides by is what does it.
    whole = [last_pre[n] * pre[n][1][-1] ** 0.5 for n in depths]
    assert max(whole) < 1.15 * min(whole)

    skews = [pre[n][0][0] / pre[n][0][-1] for n in depths]
    assert skews == sorted(skews)
    assert skews[0] == pytest.approx(1.2, abs=0.3)
    assert 2.5 < skews[-1] < 6
    assert all(0.4 < post[n][0][0] / post[n][0][-1] < 1.6 for n in depths)

    # The stream's power grows by as much with each layer in pre-norm, and is always the same in post-norm.
    growth = torch.tensor(pre[24][1])
    assert growth[-1] > 7 * growth[0]
    line = torch.linspace(float(growth[0]), float(growth[-1]), 24)
    assert ((growth - line).abs() < 0.3 * line).all()
    assert post[24][1] == pytest.approx([1.0] * 24, abs=1e-3)


# ----------------------------------------------------------------------------------------------------------------- rank


@pytest.mark.parametrize(("n_tokens", "d_head"), [(6, 16), (16, 16), (17, 16), (40, 16), (40, 3), (3, 4)])
def test_a_head_has_no_more_rank_than_width(n_tokens: int, d_head: int) -> None:
    """Bhojanapalli et al. 2020, theorem 1: n × n products of queries and keys have rank min(n, d_head)."""
    config = ModelConfig(
        stack="encoder",
        vocab_size=50,
        d_model=64,
        n_layers=1,
        position="none",
        attention={"n_heads": 2, "d_head": d_head},
        initialisation={"std": None, "embedding_std": 1.0},
    )
    model, seen = Transformer(config).double(), {}
    for name in ("query", "key"):
        module = getattr(model.blocks[0].attention, name)
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output[0].view(n_tokens, 2, d_head)})
        )
    with torch.no_grad():
        report = model(torch.randperm(50)[None, :n_tokens], want=["attention"]).report
    weights = report.attention["layers.0.attention.weights"][0]
    products = torch.einsum("thk,shk->hts", seen["query"], seen["key"])
    assert torch.linalg.matrix_rank(products, rtol=1e-9).tolist() == [min(n_tokens, d_head)] * 2
    # The same of what attention makes of them, but for what the softmax takes from each row.
    scores = weights.log() - weights.log().mean(-1, keepdim=True)
    assert torch.linalg.matrix_rank(scores, rtol=1e-9).tolist() == [min(n_tokens - 1, d_head)] * 2
    torch.testing.assert_close(scores, (products - products.mean(-1, keepdim=True)) * d_head**-0.5)
