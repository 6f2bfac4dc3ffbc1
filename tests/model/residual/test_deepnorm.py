"""DeepNorm against its formula and its table, and x-transformers' post-norm with a scaled residual."""

import pytest
import torch
from x_transformers import Decoder

from sublayer.model import Transformer
from sublayer.model.attention.multi_head import MultiHeadConfig
from sublayer.model.feed_forward.dense import DenseConfig
from sublayer.model.feed_forward.gated import GatedConfig
from sublayer.model.initialise import initialise
from sublayer.model.part import InitialisationConfig, StackShape
from sublayer.model.residual.deepnorm import DeepNormConfig, constants
from tests.model.residual.blocks import attention, built, feed_forward, logits, model, norm, wired


def test_the_stream_is_scaled_up_and_the_sum_normalised() -> None:
    transformer = model("deepnorm", n_layers=3)
    assert transformer.final_norm is None
    tokens = torch.randint(0, 7, (2, 5))
    x, alpha = torch.nn.functional.embedding(tokens, transformer.embedding.weight), 6**0.25
    for layer in range(3):
        x = norm(alpha * x + attention(transformer, layer, x))
        x = norm(alpha * x + feed_forward(transformer, layer, x))
    torch.testing.assert_close(transformer(tokens).logits, logits(transformer, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("stack", "n_layers", "other", "alpha", "beta"),
    [
        # The paper's table: of a decoder (or encoder) of 16 layers by itself, and of 6 layers beside 4, both ways.
        ("decoder", 16, 0, 32**0.25, 128**-0.25),
        ("encoder", 16, 0, 32**0.25, 128**-0.25),
        ("encoder", 6, 4, 0.81 * (6**4 * 4) ** 0.0625, 0.87 * (6**4 * 4) ** -0.0625),
        ("decoder", 6, 4, 18**0.25, 72**-0.25),
    ],
)
def test_constants(stack: str, n_layers: int, other: int, alpha: float, beta: float) -> None:
    shape = StackShape(stack, 8, n_layers, 16, other_layers=other)
    assert constants(shape) == pytest.approx((alpha, beta))
    assert DeepNormConfig().gain(shape) == pytest.approx(beta)


@pytest.mark.parametrize("depth_scaled", [False, True])
@pytest.mark.parametrize("feed_forward_", [DenseConfig(d_ff=256), GatedConfig(d_ff=256)])
def test_beta_scales_the_initial_values_of_all_that_is_written(
    feed_forward_: DenseConfig | GatedConfig, depth_scaled: bool
) -> None:
    transformer: Transformer = model(
        "deepnorm",
        n_layers=2,
        d_model=128,
        attention=MultiHeadConfig(n_heads=2),
        feed_forward=feed_forward_,
        initialisation=InitialisationConfig(std=0.02, depth_scaled=depth_scaled),
    )
    initialise(transformer, 1)
    beta = 16**-0.25
    for name, parameter in transformer.blocks.named_parameters():
        if parameter.ndim == 2:
            gain = 1 if name.rpartition(".weight")[0].endswith(("query", "key", "gate")) else beta
            assert parameter.std().item() == pytest.approx(0.02 * gain, rel=0.03), name


def test_only_layers_wired_so_start_smaller() -> None:
    transformer = model("post_norm", n_layers=2, d_model=64, layers=[{}, {"residual": "deepnorm"}])
    first, second = (block.attention.value.weight.std() for block in transformer.blocks)
    assert (second / first).item() == pytest.approx(16**-0.25, rel=0.1)


def test_each_half_of_an_encoder_decoder_has_constants_of_its_own() -> None:
    transformer = model("deepnorm", n_layers=4, stack="encoder_decoder", encoder={"n_layers": 6}, d_model=64)
    encoder, decoder = transformer.encoder.blocks, transformer.blocks
    assert [block.residual.alpha for block in encoder] == pytest.approx([0.81 * (6**4 * 4) ** 0.0625] * 6)
    assert [block.residual.alpha for block in decoder] == pytest.approx([12**0.25] * 4)
    for block in (*encoder, *decoder):
        beta = 0.87 * (6**4 * 4) ** -0.0625 if block in set(encoder) else 48**-0.25
        for box in (block.attention, block.cross_attention):
            if box is not None:
                assert (box.value.weight.std() / box.query.weight.std()).item() == pytest.approx(beta, rel=0.1)


def test_x_transformers_post_norm_with_the_residual_scaled_by_alpha() -> None:
    torch.manual_seed(0)
    alpha = 2**0.25
    peer = Decoder(dim=16, depth=1, heads=2, attn_dim_head=8, pre_norm=False, scale_residual_constant=alpha).eval()
    (_, attend, _), (_, feed, _) = peer.layers
    x = torch.randn(2, 5, 16)
    residual = built(DeepNormConfig(), 16, [torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)])
    torch.testing.assert_close(wired(residual, [attend, feed], x), peer(x), rtol=1e-5, atol=1e-5)
