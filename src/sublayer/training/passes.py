"""The forward and backward passes of a step: micro-batches one after the other, each divided into shares.

A cross-entropy is a mean over targets, so a share's part of it is the share's own mean times a weight.  A loss that
balances experts is a function f of sums S = Σ S_share over all tokens that it is meant for, and its parts do not add
up so.  Its gradient does: df = Σ_share ⟨∂f/∂S, dS_share⟩.  So the shares of a micro-batch are computed forward, their
sums are added up, the factors ∂f/∂S are taken, and each share goes backward with its own sums times these factors.

What is meant for all micro-batches has its sums counted first, in passes without gradients that draw the same random
numbers.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sublayer.data import Batch
from sublayer.measures.held_out import inputs_of
from sublayer.model import Transformer
from sublayer.model.loss import IGNORED
from sublayer.model.report import EMPTY, Report, summed
from sublayer.model.sublayer import Scope
from sublayer.model.transformer import Output
from sublayer.training.clock import Clock, Stage
from sublayer.training.crew import Crew
from sublayer.training.device import autocast
from sublayer.training.generators import generators, restore_generators
from sublayer.training.ranks import over_ranks, world_size

Gradients = tuple[Tensor | None, ...]
Losses = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Share:
    """Sequences of a step that one thread computes.

    Attributes:
        batch: the sequences.
        weight: its targets over those of the step, of all ranks.
    """

    batch: Batch
    weight: float


@dataclass(frozen=True, slots=True)
class Passed:
    """What the passes of a step gave beside gradients.

    Attributes:
        losses: `loss`, and its terms by name; of several ranks, this one's part, as of the gradients.
        counts: what the model told of the step's tokens, added up, over ranks too.
    """

    losses: Losses
    counts: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a share."""

    losses: Losses
    counts: Mapping[str, Tensor]
    gradients: Gradients
    took: Mapping[Stage, float]


@dataclass(frozen=True, slots=True)
class _Coupling:
    """What an auxiliary loss asks of each share that has a part in it.

    Attributes:
        losses: it, by name.
        factors: its gradient with respect to the sums, by the sums' names.
    """

    losses: Losses = field(default_factory=dict)
    factors: Losses = field(default_factory=dict)

    def of(self, sums: Mapping[str, Tensor]) -> Tensor | float:
        """Σ ⟨factor, the share's sum⟩, whose gradient is the share's part of the losses' gradient."""
        return sum((factor * sums[name]).sum() for name, factor in self.factors.items())


class Passes:
    """Computes the gradients of steps.

    Args:
        model: in training mode.
        forward: the model, or the model compiled.
        crew: computes shares side by side.
        device, dtype: where, and the dtype of matrix products.
        accumulation: micro-batches of a step.
    """

    def __init__(
        self,
        model: Transformer,
        forward: Callable[..., Output],
        crew: Crew,
        device: torch.device,
        dtype: torch.dtype,
        accumulation: int = 1,
    ) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._model, self._forward, self._crew = model, forward, crew
        self._device, self._dtype = device, dtype
        self._accumulation = accumulation
        self._scopes = model.scopes()

    def through(self, batches: Sequence[Batch], clock: Clock | None = None) -> Passed:
        """Add the gradients of a step to the parameters' `grad`.

        Args:
            batches: its shares, those of a micro-batch beside each other, as many in each.
            clock: told what took the time.
        """
        clock = clock or Clock()
        n_scored = self._scored(batches)
        each = [Share(batch, scored(batch) / n_scored) for batch in batches]
        size = len(each) // self._accumulation
        micro_batches = [each[first : first + size] for first in range(0, len(each), size)]
        clock.lap("data")
        wide = "global_batch" in self._scopes and (self._accumulation > 1 or world_size() > 1)
        if self._scopes and (size > 1 or wide):
            passed = self._coupled(micro_batches, clock)
        else:
            # Each share is by itself what its losses are meant for, or there are none beside those of single tokens.
            passed = self._apart(each, clock)
        return replace(passed, counts=over_ranks(Report(counts=passed.counts)).counts)

    def _scored(self, batches: Iterable[Batch]) -> int:
        """How many targets the step has, on all ranks."""
        here = sum(scored(batch) for batch in batches)
        if world_size() > 1:
            here = int(over_ranks(Report(counts={"scored": torch.tensor(here, device=self._device)})).counts["scored"])
        return max(1, here)

    def _apart(self, each: Sequence[Share], clock: Clock) -> Passed:
        """Shares whose losses are all their own."""
        losses: Losses = {}
        counts: Mapping[str, Tensor] = {}
        for done in self._crew.map_training(self._whole, each):
            clock.divide(done.took)
            losses, counts = summed(losses, done.losses), summed(counts, done.counts)
            self._take(done.gradients)
            clock.lap("update")
        return Passed(losses, counts)

    def _coupled(self, micro_batches: Sequence[Sequence[Share]], clock: Clock) -> Passed:
        """Shares that have a part in losses of more than their own tokens."""
        wide, several = "global_batch" in self._scopes, len(micro_batches) > 1
        everywhere = _Coupling()
        if wide and several:
            everywhere = self._coupling(over_ranks(self._counted(micro_batches)), "global_batch")
            clock.lap("forward")
        losses: Losses = {}
        counts: Mapping[str, Tensor] = {}
        for micro_batch in micro_batches:
            outs = list(self._crew.map_training(self._begun, micro_batch))
            told = added(out.report for out in outs)
            counts = summed(counts, told.counts)
            if wide and not several:
                everywhere = self._coupling(over_ranks(told), "global_batch")
            here = self._coupling(told, "micro_batch", sum(share.weight for share in micro_batch))
            losses = summed(losses, here.losses)
            clock.lap("forward")

            halves = [(share, out, (here, everywhere)) for share, out in zip(micro_batch, outs, strict=True)]
            del outs
            for done in self._crew.map_training(self._finished, halves):
                losses = summed(losses, done.losses)
                clock.divide(done.took)
                self._take(done.gradients)
                clock.lap("update")
        losses = summed(losses, {name: loss / world_size() for name, loss in everywhere.losses.items()})
        return Passed({"loss": torch.stack(list(losses.values())).sum(), **losses}, counts)

    def _out(self, batch: Batch, **asked: Tensor) -> Output:
        with autocast(self._device, self._dtype):
            return self._forward(**inputs_of(batch, self._device), **asked)

    def _begun(self, share: Share) -> Output:
        return self._out(share.batch, targets=share.batch.targets_BT.to(self._device))

    def _whole(self, share: Share) -> _Done:
        """Forward and backward in one."""
        started = time.monotonic()
        out = self._begun(share)
        assert out.loss is not None
        turned = time.monotonic()
        gradients = self._gradients(out.loss * share.weight)
        losses = {name: loss.detach() * share.weight for name, loss in {"loss": out.loss, **out.losses}.items()}
        took: Mapping[Stage, float] = {"forward": turned - started, "backward": time.monotonic() - turned}
        return _Done(losses, out.report.counts, gradients, took)

    def _finished(self, half: tuple[Share, Output, tuple[_Coupling, ...]]) -> _Done:
        """A share of which the forward pass is done."""
        share, out, couplings = half
        own = {"cross_entropy": out.losses["cross_entropy"], **out.report.losses}
        own = {name: loss * share.weight for name, loss in own.items()}
        loss = torch.stack(list(own.values())).sum()
        losses = {name: value.detach() for name, value in own.items()}
        for coupling in couplings:
            loss = loss + coupling.of(out.report.sums)
        return _Done(losses, {}, self._gradients(loss), {"backward": 1.0})

    def _gradients(self, loss: Tensor) -> Gradients:
        """Those of the parameters; none where they are alone in adding to `grad`, as wrapped models want it."""
        if self._crew.threads == 1:
            loss.backward()  # type: ignore[no-untyped-call]
            return ()
        return apart(torch.autograd.grad(loss, self.parameters, allow_unused=True))

    def _take(self, gradients: Gradients) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _coupling(self, told: Report, scope: Scope, weight: float = 1.0) -> _Coupling:
        """The losses meant for a scope, of what was told in all of it, times its weight."""
        sums = {name: value.detach().requires_grad_() for name, value in told.sums.items()}
        losses = self._model.auxiliary(Report(sums=sums, counts=told.counts), scope)
        losses = {name: loss * weight for name, loss in losses.items()}
        if not losses:
            return _Coupling()
        total = torch.stack(list(losses.values())).sum()
        factors = torch.autograd.grad(total, list(sums.values()), allow_unused=True)
        used = {name: factor for name, factor in zip(sums, factors, strict=True) if factor is not None}
        return _Coupling({name: loss.detach() for name, loss in losses.items()}, used)

    def _counted(self, micro_batches: Iterable[Iterable[Share]]) -> Report:
        """What all micro-batches will tell, from passes without gradients, behind which the generators stand anew."""
        drawn = generators()
        told = EMPTY
        for micro_batch in micro_batches:
            told = told + added(self._crew.map_training(self._told, micro_batch))
        restore_generators(drawn)
        return told

    def _told(self, share: Share) -> Report:
        # Without targets, and of one place a row: the product with the vocabulary tells nothing.
        by_token = self._model.config.head.by_token
        one = {"logits_at": torch.zeros_like(share.batch.tokens_BT[:, 0], device=self._device)} if by_token else {}
        with torch.no_grad():  # holds for the thread that enters it
            return self._out(share.batch, **one).report


def added(reports: Iterable[Report]) -> Report:
    """The sums and counts of several reports, without gradients."""
    total = EMPTY
    for report in reports:
        total = total + Report(sums={name: value.detach() for name, value in report.sums.items()}, counts=report.counts)
    return total


def apart(gradients: Iterable[Tensor | None]) -> Gradients:
    """The gradients, each with memory of its own, since they are added to and scaled in place.

    Parameters that enter a model as a sum get one and the same tensor from autograd, and one that is only summed over
    gets a single number expanded.
    """
    seen: set[int] = set()
    own: list[Tensor | None] = []
    for gradient in gradients:
        if gradient is not None:
            shared = gradient.data_ptr() in seen or 0 in gradient.stride()
            seen.add(gradient.data_ptr())
            gradient = gradient.clone(memory_format=torch.contiguous_format) if shared else gradient
        own.append(gradient)
    return tuple(own)


def scored(batch: Batch) -> int:
    """How many targets a batch has."""
    return int((batch.targets_BT != IGNORED).sum())
