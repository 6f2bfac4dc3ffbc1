"""Held-out loss, and bits per byte, which do not depend on the tokenizer.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable, Iterable, Mapping

import torch

from sublayer.data import Batch, Corpus
from sublayer.measures.score import Score, total
from sublayer.model import Layout, Transformer
from sublayer.model.loss import IGNORED

Run = Callable[[Callable[[Batch], Score], Iterable[Batch]], Iterable[Score]]


def held_out(
    model: Transformer, corpus: Corpus, batch_size: int, max_tokens: int | None = None, run: Run = map
) -> Mapping[str, Score]:
    """The held-out loss by domain.

    Args:
        model: read in evaluation mode, and left in the mode it was in.
        corpus: whose held-out side is read.
        batch_size: rows at once.
        max_tokens: tokens read a domain, spread evenly over it; None for all.
        run: like `map`, over batches; another one may work on several at once.
    """
    was_training = model.training
    model.eval()
    bytes_per_token = torch.from_numpy(corpus.tokenizer.bytes_per_token)

    def score(batch: Batch) -> Score:
        scored = batch.targets_BT[batch.targets_BT != IGNORED]
        with torch.no_grad():
            out = model(
                batch.tokens_BT.to(model.device),
                layout_of(batch, model.device),
                targets=batch.targets_BT.to(model.device),
            )
        nats = float(out.losses["cross_entropy"]) * scored.numel()
        return Score(nats, scored.numel(), int(bytes_per_token[scored].sum()))

    results = {
        domain: total(run(score, corpus.validation(domain, batch_size, max_tokens))) for domain in corpus.domains
    }
    model.train(was_training)
    return results


def layout_of(batch: Batch, device: torch.device) -> Layout:
    """The layout of a batch, on a device."""
    positions, document, valid = (
        None if value is None else value.to(device) for value in (batch.positions_BT, batch.document_BT, batch.valid_BT)
    )
    return Layout(positions, document, valid)
