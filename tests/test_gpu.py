"""What the CPU tests say of kernels, decoding and training, on a GPU: `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from sublayer.api import train
from sublayer.model import Layout, ModelConfig, Transformer

pytestmark = pytest.mark.gpu


def tokens_and_layout() -> tuple[torch.Tensor, Layout]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 64, (3, 40), generator=generator)
    document = (torch.arange(40) >= 17).long()[None].expand(3, -1)
    return tokens.cuda(), Layout(document_BT=document.cuda())


@pytest.mark.parametrize("position", ["rope", "alibi", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("pattern", ["full", {"kind": "window", "size": 5}])
def test_kernels_agree_forward_and_backward(position: str, pattern: object) -> None:
    tokens, layout = tokens_and_layout()
    results = {}
    for kernel in ("reference", "sdpa", "dense"):
        attention = {"n_heads": 4, "n_kv_heads": 2, "pattern": pattern, "kernel": kernel}
        config = ModelConfig(vocab_size=64, d_model=64, n_layers=2, position=position, attention=attention)
        model = Transformer(config).cuda()
        loss = model(tokens[:, :-1], Layout(document_BT=layout.document_BT[:, :-1]), targets=tokens[:, 1:]).loss
        loss.backward()
        results[kernel] = [loss.detach(), *(p.grad for p in model.parameters())]
    for kernel in ("sdpa", "dense"):
        torch.testing.assert_close(results[kernel], results["reference"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("position", ["rope", "alibi", "learned"])
def test_cached_decoding_is_one_full_pass(position: str) -> None:
    tokens, _ = tokens_and_layout()
    attention = {"n_heads": 4, "pattern": {"kind": "window", "size": 6}}
    config = ModelConfig(vocab_size=64, d_model=64, n_layers=2, position=position, attention=attention)
    model = Transformer(config).cuda().eval()
    with torch.no_grad():
        whole = model(tokens).logits
        state = model.init_state(3, 40)
        parts = [model(tokens[:, :9], state=state).logits]
        parts += [model(tokens[:, i : i + 1], state=state).logits for i in range(9, 40)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-4)


def test_a_run_trains_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number} of a small text\n" for number in range(400)))
    config = {
        "device": "cuda",
        "model": {"d_model": 64, "n_layers": 2, "max_length": 64, "attention": {"n_heads": 2}, "dropout": 0.1},
        "data": {
            "sources": {"kind": "text", "path": str(tmp_path / "a.txt")},
            "tokenizer": "bytes",
            "sequence_length": 64,
        },
        "training": {"steps": 40, "batch_size": 8, "optimizer": "muon", "evaluate_every": 20},
    }
    run = train(config, out=tmp_path / "run")
    assert run.model.device.type == "cuda"
    more = train(None, out=tmp_path / "run", resume=True, **{"training.steps": 80})
    assert more.held_out["a"].loss < run.held_out["a"].loss
