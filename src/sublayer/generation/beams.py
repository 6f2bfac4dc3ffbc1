"""Beam search: the most probable texts, several at once.

Each prompt has up to K hypotheses, each a row of the batch.  In a step each of them grows by its 2K most probable
tokens; of all that come of it the 2K with the highest log-probability are looked at, since half of them may end there.
Those that end are finished, if they are among the first K, and the first K of the others go on.  That is the search of
Hugging Face's `generate`, whose texts it gives, but for sums in float64.

Shapes: N hypotheses of all prompts, V vocabulary, C candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from sublayer.data import Tokenizer
from sublayer.generation.config import GenerationConfig
from sublayer.generation.prompts import begin, usable
from sublayer.generation.sampling import penalised
from sublayer.generation.written import Reason, Written
from sublayer.model import Transformer


@dataclass(frozen=True)
class Hypothesis:
    """A text that may be among the best.

    Attributes:
        parent: the place in the batch of the hypothesis that it grew from.
        tokens: every token of it.
        text: what they read.
        reason: why it ends; None while it goes on.
        total: the sum that the search is for: its log-probability, after the repetition penalty.
        log_probability: as the model has it, without the penalty; in nats.
        written: what the next token is written to.
    """

    parent: int
    tokens: tuple[int, ...]
    text: str
    reason: Reason | None
    total: float
    log_probability: float
    written: Written

    def grown(self, parent: int, candidate: "Candidate") -> "Hypothesis":
        """With one token more."""
        written = self.written.copy()
        text, reason = written.take(candidate.token)
        return Hypothesis(
            parent,
            (*self.tokens, candidate.token),
            self.text + text,
            reason,
            self.total + candidate.gain,
            self.log_probability + candidate.log_probability,
            written,
        )


class Candidate(NamedTuple):
    """A token that a hypothesis may grow by: what the search's sum and the log-probability change by."""

    token: int
    gain: float
    log_probability: float


class Search:
    """The search for what follows one prompt.

    Args:
        row: which prompt it is.
        config: how it is searched.
        longest: tokens that may follow it at most.
        written: nothing yet.

    Attributes:
        going: hypotheses that go on, the most probable first.
        finished: those that have ended, the best score first.
    """

    def __init__(self, row: int, config: GenerationConfig, longest: int, written: Written) -> None:
        self.row = row
        self._config = config
        self._longest = longest
        self.going = [Hypothesis(0, (), "", None, 0.0, 0.0, written)]
        self.finished: list[Hypothesis] = []

    def step(self, first: int, table: Sequence[Sequence[Candidate]]) -> None:
        """Grow by one token.

        Args:
            first: the place in the batch of the first that goes on; the others stand behind it.
            table: of each place in the batch, the candidates.
        """
        beams = self._config.beams
        pairs = [
            (place, hypothesis, candidate)
            for place, hypothesis in enumerate(self.going, start=first)
            for candidate in table[place]
            if candidate.gain > -inf
        ]
        pairs.sort(key=lambda pair: pair[1].total + pair[2].gain, reverse=True)
        self.going = []
        for rank, (place, hypothesis, candidate) in enumerate(pairs[: 2 * beams]):
            grown = hypothesis.grown(place, candidate)
            if grown.reason is None and len(self.going) < beams:
                self.going.append(grown)
            elif grown.reason is not None and rank < beams:
                self.finished.append(grown)
        self.finished.sort(key=lambda one: self._score(one.total, len(one.tokens)), reverse=True)
        del self.finished[beams:]

    @property
    def ended(self) -> bool:
        """Whether nothing that could still come would be taken, or is waited for."""
        if not self.going:
            return True
        if len(self.finished) < self._config.beams:
            return False
        if self._config.early_stopping is True:
            return True
        best, worst = self.going[0], self.finished[-1]
        # Growing makes the sum less; the length that makes the most of it is the longest one or the present one.
        lengthens = self._config.early_stopping == "never" and self._config.length_penalty > 0
        length = self._longest if lengthens else len(best.tokens)
        return self._score(best.total, length) <= self._score(worst.total, len(worst.tokens))

    def _score(self, total: float, length: int) -> float:
        return float(total / length**self._config.length_penalty)


@torch.inference_mode()
def search(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], config: GenerationConfig
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The best texts for every prompt, all searched for at once.

    Prompts whose search has ended leave the batch.  The model should be in evaluation mode.

    Args:
        model: a decoder, or an encoder_decoder, of which the prompts are the sources.
        tokenizer: the model's; no token is taken beyond its own.
        prompts: token ids; an empty prompt is the token that begins every document.
        config: how it is searched.

    Yields:
        the number of each prompt, as its search ends, with its hypotheses, at most `config.beams`, the best first.

    Raises:
        ConfigError, DataError, RunError: as `decode`.
    """
    if not prompts:
        return
    begun = begin(model, tokenizer, prompts, config)
    state, logits_NV, seen_NV = begun.state, begun.logits_BV, begun.seen_BV
    searches = [
        Search(row, config, n_left, Written(tokenizer, n_left, config)) for row, n_left in enumerate(begun.n_left)
    ]
    while True:
        table = _candidates(logits_NV, seen_NV, config)
        first = 0
        for one in searches:
            n_places = len(one.going)
            one.step(first, table)
            first += n_places
        yield from ((one.row, one.finished) for one in searches if one.ended)

        searches = [one for one in searches if not one.ended]
        if not searches:
            return
        going = [hypothesis for one in searches for hypothesis in one.going]
        parents = [hypothesis.parent for hypothesis in going]
        tokens_N1 = torch.tensor([hypothesis.tokens[-1:] for hypothesis in going], device=logits_NV.device)
        if parents != list(range(len(logits_NV))):
            state.select(parents)
            seen_NV = None if seen_NV is None else seen_NV[parents]
        if seen_NV is not None:
            seen_NV.scatter_(1, tokens_N1, True)
        logits_NV = usable(model(tokens_N1, state=state).logits, tokenizer)


def _candidates(logits_NV: Tensor, seen_NV: Tensor | None, config: GenerationConfig) -> list[list[Candidate]]:
    """The tokens that each hypothesis may grow by, [N][C]: more of one are never among the 2K of all."""
    logits_NV = logits_NV.float()
    log_p_NV = logits_NV.log_softmax(-1)
    changed_NV = log_p_NV
    if seen_NV is not None:
        changed_NV = penalised(logits_NV, seen_NV, config.repetition_penalty).log_softmax(-1)
    gain_NC, token_NC = changed_NV.topk(min(2 * config.beams, changed_NV.shape[1]))
    columns = (token_NC, gain_NC, log_p_NV.gather(1, token_NC))
    return [list(map(Candidate, *row)) for row in zip(*(column.tolist() for column in columns), strict=True)]
