"""The loss on held-out rows, and with it bits per byte, which do not depend on the tokenizer, or accuracy.

Shapes: B batch, T tokens, V vocabulary or classes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sublayer.data import Batch, Corpus
from sublayer.data.packing import SourceRows
from sublayer.measures.score import Score, total
from sublayer.model import Layout, Transformer
from sublayer.model.loss import IGNORED
from sublayer.model.source import Source

Run = Callable[[Callable[[Batch], Score], Iterable[Batch]], Iterable[Score]]

MOST_LOGITS = 64 * 2**20
"""Bytes of logits that stand in memory at once, where the likeliest answers are looked at."""


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
    objective = corpus.config.objective
    bytes_per_token = torch.from_numpy(corpus.tokenizer.bytes_per_token)

    def score(batch: Batch) -> Score:
        target = batch.targets_BT[batch.targets_BT != IGNORED]
        with torch.no_grad():
            out = model(**inputs_of(batch, model.device), targets=batch.targets_BT.to(model.device))
        nats = float(out.losses["cross_entropy"]) * target.numel()
        size = int(bytes_per_token[target].sum()) if objective.tells_bits else None
        return Score(nats, target.numel(), size)

    def score_answers(batch: Batch) -> Score:
        with torch.no_grad():
            logits = model(**inputs_of(batch, model.device)).logits
        assert logits is not None
        targets = batch.targets_BT.to(model.device)
        logits_NV, target_N = logits[targets != IGNORED], targets[targets != IGNORED]
        nats = float(F.cross_entropy(logits_NV, target_N, reduction="sum"))
        return Score(nats, len(target_N), correct=int((logits_NV.argmax(-1) == target_N).sum()))

    ask = score_answers if objective.tells_accuracy else score
    if objective.tells_accuracy:
        row = 4 * (1 if objective.classifies else corpus.config.sequence_length * corpus.tokenizer.vocab_size)
        batch_size = max(1, min(batch_size, MOST_LOGITS // row))
    results = {domain: total(run(ask, corpus.validation(domain, batch_size, max_tokens))) for domain in corpus.domains}
    model.train(was_training)
    return results


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Any]:
    """What a model reads of a batch, on a device: the arguments of its `forward`, less the targets."""
    inputs: dict[str, Any] = {"tokens_BT": batch.tokens_BT.to(device), "layout": layout_of(batch, device)}
    if batch.source is not None:
        inputs["source"] = source_of(batch.source, device)
    return inputs


def layout_of(batch: Batch, device: torch.device) -> Layout:
    """The layout of a batch, on a device."""
    return _layout(batch.positions_BT, batch.document_BT, batch.valid_BT, batch.segment_BT, device)


def source_of(rows: SourceRows, device: torch.device) -> Source:
    """What an encoder reads of a batch, on a device."""
    layout = _layout(rows.positions_BS, rows.document_BS, rows.valid_BS, None, device)
    return Source(rows.tokens_BS.to(device), layout)


def _layout(
    positions: Tensor | None,
    document: Tensor | None,
    valid: Tensor | None,
    segment: Tensor | None,
    device: torch.device,
) -> Layout:
    positions, document, valid, segment = (
        None if value is None else value.to(device) for value in (positions, document, valid, segment)
    )
    return Layout(positions, document, valid, segment)
