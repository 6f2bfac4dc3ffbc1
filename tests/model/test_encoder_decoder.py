"""An encoder beside a decoder: what the decoder sees of it, and decoding with a source that is read once."""

from typing import Any

import pytest
import torch

from sublayer.errors import ConfigError
from sublayer.model import Encoded, Layout, ModelConfig, Source, Transformer

PAIR = {"stack": "encoder_decoder", "vocab_size": 13, "d_model": 16, "n_layers": 2, "attention": {"n_heads": 2}}


def model(**changes: Any) -> Transformer:
    config = ModelConfig(**PAIR | {"initialisation": {"std": None, "embedding_std": 1.0}} | changes)
    return Transformer(config).double().eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 13, shape, generator=torch.Generator().manual_seed(seed))


def test_the_encoder_has_layers_of_its_own() -> None:
    config = ModelConfig(
        **PAIR,
        encoder={"n_layers": 3, "feed_forward": "relu", "layers": [{}, {"attention": {"n_heads": 4}}]},
        layers=[{"cross_attention": {"n_heads": 1}}, {}],
    )
    assert [layer.feed_forward.kind_name() for layer in config.resolve_encoder()] == ["dense"] * 3
    assert [layer.attention.n_heads for layer in config.resolve_encoder()] == [2, 4, 2]
    assert [layer.cross_attention for layer in config.resolve_encoder()] == [None] * 3
    assert [layer.cross_attention.n_heads for layer in config.resolve()] == [1, 2]
    assert {layer.feed_forward.kind_name() for layer in config.resolve()} == {"gated"}
    again = ModelConfig.parse(config.tree())
    assert again == config
    assert again.all_layers() == config.all_layers()


def test_every_token_of_the_decoder_sees_the_whole_source_and_the_encoder_both_sides() -> None:
    net, target, source = model(), tokens(1, 4), tokens(1, 6, seed=1)
    base = net(target, source=source).logits
    for place in range(6):
        changed = source.clone()
        changed[0, place] = (changed[0, place] + 1) % 13
        other = net(target, source=changed).logits
        assert ((other - base).abs().amax(-1) > 1e-9).all()
        assert ((net.encode(changed).hidden_BSD - net.encode(source).hidden_BSD).abs().amax(-1) > 1e-9).all()


def test_the_decoder_stays_causal() -> None:
    net, target, source = model(), tokens(1, 5), tokens(1, 6, seed=1)
    base = net(target, source=source).logits
    target[0, 3] = (target[0, 3] + 1) % 13
    changed = net(target, source=source).logits
    torch.testing.assert_close(changed[:, :3], base[:, :3], rtol=0, atol=0)
    assert not torch.allclose(changed[:, 3:], base[:, 3:])


def test_padding_of_the_source_is_not_seen() -> None:
    net, target, source = model(), tokens(2, 4), tokens(2, 6, seed=1)
    ragged = Source(source, Layout.ragged([6, 3]))
    padded = net(target, source=ragged).logits
    torch.testing.assert_close(padded[0], net(target[:1], source=source[:1]).logits[0])
    torch.testing.assert_close(padded[1], net(target[1:], source=source[1:, :3]).logits[0])


def test_packed_pairs_are_separate_pairs() -> None:
    net, target, source = model(position="alibi"), tokens(1, 7), tokens(1, 9, seed=1)
    document, of_source = torch.tensor([[0] * 3 + [1] * 4]), torch.tensor([[0] * 5 + [1] * 4])
    packed = net(target, Layout(document_BT=document), source=Source(source, Layout(document_BT=of_source))).logits
    alone = [net(target[:, :3], source=source[:, :5]).logits, net(target[:, 3:], source=source[:, 5:]).logits]
    torch.testing.assert_close(packed, torch.cat(alone, 1))


@pytest.mark.parametrize("chunks", [[1] * 5, [3, 1, 1], [2, 3]])
def test_decoding_reads_the_source_once_and_equals_one_pass(chunks: list[int]) -> None:
    net, target, source = model(), tokens(3, 5), tokens(3, 6, seed=1)
    ragged = Source(source, Layout.ragged([6, 2, 4]))
    whole = net(target, source=ragged).logits
    state = net.init_state(3, 8, max_rewind=3)
    first, *others = torch.split(target, chunks, dim=1)
    parts = [net(first, source=ragged, state=state).logits]
    parts += [net(part, state=state).logits for part in others]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    # Rows in another order keep their sources, and so do tokens that are taken back.
    rows = [2, 0, 2]
    state.select(rows)
    state.rewind(1)
    again = net(target[rows][:, -1:], state=state).logits
    torch.testing.assert_close(again, whole[rows][:, -1:])


def test_what_was_encoded_stands_for_the_source() -> None:
    net, target, source = model(), tokens(2, 4), tokens(2, 6, seed=1)
    encoded = net.encode(source)
    assert isinstance(encoded, Encoded)
    torch.testing.assert_close(net(target, source=encoded).logits, net(target, source=source).logits)


def test_attention_of_all_three_kinds_is_reported() -> None:
    report = model()(tokens(1, 4), source=tokens(1, 6), want=["attention"]).report
    shapes = {name: tuple(weights.shape) for name, weights in report.attention.items()}
    assert shapes["encoder.layers.1.attention.weights"] == (1, 2, 6, 6)
    assert shapes["layers.0.attention.weights"] == (1, 2, 4, 4)
    assert shapes["layers.1.cross_attention.weights"] == (1, 2, 4, 6)


def test_gradients_reach_the_encoder() -> None:
    net = model()
    net(tokens(2, 4), source=tokens(2, 6), targets=tokens(2, 4, seed=2)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.encoder.parameters())


def test_packing_changes_no_result() -> None:
    net = Transformer(ModelConfig(**PAIR)).eval()
    target, source = tokens(1, 4), tokens(1, 6, seed=1)
    with torch.no_grad():
        expected = net(target, source=source).logits
        torch.testing.assert_close(net.pack()(target, source=source).logits, expected)


def test_a_source_is_asked_for_and_refused_in_a_sentence() -> None:
    pair, alone = model(), Transformer(ModelConfig(vocab_size=13, d_model=16, n_layers=1))
    with pytest.raises(ValueError, match=r"^source: an encoder_decoder needs one"):
        pair(tokens(1, 4))
    with pytest.raises(ValueError, match=r"^source: a decoder reads its tokens alone"):
        alone(tokens(1, 4), source=tokens(1, 4))
    state = pair.init_state(1, 8)
    pair(tokens(1, 1), source=tokens(1, 4), state=state)
    with pytest.raises(ValueError, match="the state remembers one already"):
        pair(tokens(1, 1), source=tokens(1, 4), state=state)
    with pytest.raises(ValueError, match="must both say which documents"):
        pair(tokens(1, 4), source=Source(tokens(1, 4), Layout(document_BT=torch.zeros(1, 4, dtype=torch.int64))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": {"d_model": 3}},
            r"^encoder.d_model: an encoder cannot choose 'd_model' for itself",
        ),
        ({"encoder": {"n_layers": 0}}, r"^encoder.n_layers: must be an integer from 1 to"),
        ({"encoder": {"n_layers": True}}, r"^encoder.n_layers: must be an integer"),
        ({"encoder": {"layers": {"norm": "rms"}}}, r"^encoder.layers: must be a list"),
        ({"encoder": {"layers": [{"cross_attention": {}}]}}, r"^encoder.layers\[0\].cross_attention: a layer cannot"),
        ({"encoder": {"position": "alibbi"}}, r"^encoder.position: 'alibbi' is not a position; did you mean 'alibi'"),
        ({"encoder": {"attention": {"n_heads": 3}}}, r"^encoder.attention: n_heads \(3\) does not divide"),
        ({"cross_attention": {"pattern": "window"}}, r"^cross_attention: a cross-attention sees the whole source"),
        (
            {"cross_attention": {"kernel": "sdpa", "soft_cap": 5.0}},
            r"^cross_attention: the kernel 'sdpa' cannot carry soft_cap",
        ),
        ({"stack": "decoder", "encoder": {"n_layers": 1}}, r"^encoder: has no effect, as stack is decoder"),
        ({"stack": "encoder", "cross_attention": "multi_head"}, r"^cross_attention: has no effect, as stack is enc"),
        (
            {"position": "sinusoidal", "tied_embeddings": False, "encoder": {"position": {"combine": "concatenate"}}},
            r"^encoder.position: encoder and decoder read the same token embeddings",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**PAIR | changes)


@pytest.mark.parametrize("before", [[0, 1], [1, 1]])
def test_rows_that_change_places_keep_their_source(before: list[int]) -> None:
    """Also where nothing of the source needs to move, as its rows have the same one."""
    net, source = model(), tokens(2, 6, seed=1)
    state = net.init_state(2, 8)
    state.select(before)  # of rows that have no source yet
    seen, read = tokens(2, 2), source
    net(seen, source=source, state=state)
    memory = state.layers[0][1]
    for step, rows in enumerate(([1, 0], [0, 0, 0, 1, 1], [2, 1, 0, 4, 3], [0, 1, 3, 2, 4], [3, 4, 0], [2, 1, 0])):
        moved = memory.k_BGSK.data_ptr()
        state.select(rows)
        assert (memory.k_BGSK.data_ptr() == moved) == (rows in ([2, 1, 0, 4, 3], [2, 1, 0]))
        seen, read = seen[rows], read[rows]
        new = tokens(len(rows), 1, seed=10 + step)
        seen = torch.cat([seen, new], 1)
        logits = net(new, state=state).logits
        torch.testing.assert_close(logits[:, 0], net(seen, source=read).logits[:, -1], rtol=1e-9, atol=1e-9)


def test_it_compiles_as_one_graph() -> None:
    net, target, source = model(position="t5", n_layers=1), tokens(2, 4), tokens(2, 6, seed=1)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(target, source=source, targets=target).loss, net(target, source=source, targets=target).loss
    )


def test_a_call_that_is_refused_leaves_the_state_as_it_was() -> None:
    net, source, target = model(), torch.arange(5)[None], torch.arange(6)[None]
    state = net.init_state(1, 4)
    with pytest.raises(ValueError, match="room for 4"):
        net(target, source=source, state=state)
    with torch.no_grad():
        torch.testing.assert_close(
            net(target[:, :3], source=source, state=state).logits, net(target[:, :3], source=source).logits
        )
