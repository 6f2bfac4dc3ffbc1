"""What `sublayer train` shows at the end: figures beside baselines, samples, and what to type next."""

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sublayer.api import Run, generate
from sublayer.data.sources import ChatConfig

PROMPTS = {"code": "def read_lines(", "prose": "Return the "}
"""The beginning of a sample by domain; any other domain begins with its own held-out text."""


def show_summary(run: Run, console: Console) -> None:
    """Print the summary of a finished run."""
    console.print()
    console.print(_table(run))
    for sentence in [*_verdicts(run), _time(run)]:
        console.print(sentence, highlight=False, markup=False)
    for domain in sorted(run.held_out)[:2]:
        question = _question(run, domain)
        prompt = question[-1]["content"] + "\n" if question else PROMPTS.get(domain) or _beginning(run, domain)
        drawn: dict[str, Any] = {"max_tokens": 80, "temperature": 0.7, "seed": 0}
        completion = generate(run.model, run.tokenizer, question or prompt, **drawn)
        console.print()
        console.rule(Text(f"a sample of {domain}", style="dim"), align="left", style="dim")
        console.print(prompt, end="", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(completion.text, markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.rule(Text("next", style="dim"), align="left", style="dim")
    where = shlex.quote(str(run.directory))
    first = sorted(run.held_out)[0]
    question = _question(run, first)
    prompt = shlex.quote(question[-1]["content"] if question else PROMPTS.get(first, "Once"))
    more = 2 * run.config.training.steps
    for command in (
        f"sublayer generate {where} {'--chat ' if question else ''}{prompt}",
        f"sublayer train --resume --out {where} training.steps={more}",
        f"sublayer train {where}/config.yaml model.position=alibi --out {where}-alibi",
        f"tensorboard --logdir {where}/tensorboard",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _table(run: Run) -> Table:
    table = Table(
        title=f"all held-out text after {run.config.training.steps:,} steps",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 3, 0, 0),
    )
    table.add_column("domain")
    table.add_column("reader")
    table.add_column("nats/token", justify="right")
    table.add_column("bits/byte", justify="right")
    for domain, result in run.held_out.items():
        table.add_row(Text(domain), "this model", f"{result.loss:.3f}", f"{result.bits_per_byte:.3f}", style="bold")
        baseline = run.baselines.get(domain)
        if baseline is not None:
            bigram, lzma = baseline.bigram, baseline.lzma
            table.add_row("", "bigram (Witten–Bell)", f"{bigram.loss:.3f}", f"{bigram.bits_per_byte:.3f}")
            table.add_row("", "lzma, held-out text alone", "", f"{lzma.alone:.3f}")
            table.add_row("", "lzma, after the training text", "", f"{lzma.primed:.3f}")
    return table


def _verdicts(run: Run) -> list[str]:
    """Who won, in words."""
    sentences = []
    for domain, result in run.held_out.items():
        baseline = run.baselines.get(domain)
        if baseline is None:
            continue
        margin = baseline.bigram.loss - result.loss
        bigram = f"the bigram by {abs(margin):.2f} nats a token"
        readers = [
            (margin > 0, bigram),
            (result.bits_per_byte < baseline.lzma.alone, "lzma alone"),
            (result.bits_per_byte < baseline.lzma.primed, "lzma after the training text"),
        ]
        told = [
            f"{verb} {_listed([name for won, name in readers if won == wanted])}"
            for verb, wanted in (("beats", True), ("loses to", False))
            if any(won == wanted for won, _ in readers)
        ]
        sentences.append(f"{domain}: the model {' and '.join(told)}.")
    if run.best_step != run.config.training.steps:
        where = run.directory / "best"
        sentences.append(f"The lowest held-out loss was at step {run.best_step:,}; those weights are in {where}.")
    return sentences


def _time(run: Run) -> str:
    """Where the time went."""
    total = sum(run.seconds.values())
    parts = [f"{stage} {seconds / total:.0%}" for stage, seconds in run.seconds.items() if seconds / total >= 0.005]
    return f"{total:.0f} s of training: {', '.join(parts)}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _question(run: Run, domain: str) -> list[dict[str, str]]:
    """A question that the domain's conversations begin with; nothing where it holds no conversations."""
    data = run.config.data
    chats = [source for source in (*data.validation, *data.sources) if isinstance(source, ChatConfig)]
    return next((source.first_question() for source in chats if source.domain_name() == domain), [])


def _beginning(run: Run, domain: str) -> str:
    """The first words of the domain's held-out text."""
    text = next(iter(run.corpus.validation_text(domain)), b"").decode(errors="ignore")
    return " ".join(text[:200].split(" ")[:6])
