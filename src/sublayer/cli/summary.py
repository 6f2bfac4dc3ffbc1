"""What `sublayer train` shows at the end: figures beside baselines, samples, and what to type next."""

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sublayer.api import Run, generate
from sublayer.cli.experts_table import experts_table
from sublayer.data.sources import ChatConfig, LabelledConfig
from sublayer.errors import ConfigError, DataError
from sublayer.measures.score import Score, total

MARGINAL = "the targets' frequencies"

PROMPTS = {"code": "def read_lines(", "prose": "Return the "}
"""The beginning of a sample by domain; any other domain begins with its own held-out text."""

GAPS = {"masked": ("fill", " [MASK]", ""), "span_corruption": ("generate", " <extra_id_0>", " --special-tokens")}
"""By objective: the verb that fills a gap, how a gap is written, and the options that it takes."""


class Figure(NamedTuple):
    """A column of the table: a score's figure, what it is called, and how it is written."""

    name: str
    column: str
    form: str


FIGURES = (
    Figure("loss", "nats", "{:.3f}"),
    Figure("bits_per_byte", "bits/byte", "{:.3f}"),
    Figure("accuracy", "right", "{:.1%}"),
)


def show_summary(run: Run, console: Console) -> None:
    """Print the summary of a finished run."""
    console.print()
    console.print(_table(run))
    experts = experts_table(run.directory)
    if experts is not None:
        console.print()
        console.print(experts)
        console.print()
    for sentence in [*_verdicts(run), _time(run)]:
        console.print(sentence, highlight=False, markup=False)
    decodes = run.config.model.stack == "decoder" and not run.config.data.objective.classifies
    for domain in sorted(run.held_out)[:2] if decodes else []:
        question = _question(run, domain)
        prompt = question[-1]["content"] + "\n" if question else PROMPTS.get(domain) or _beginning(run, domain)
        drawn: dict[str, Any] = {"max_tokens": 80, "temperature": 0.7, "seed": 0}
        console.print()
        try:
            completion = generate(run.model, run.tokenizer, question or prompt, **drawn)
        except (ConfigError, DataError) as error:  # the model is as good for it
            console.print(f"no sample of {domain}: {error}", highlight=False, markup=False)
            continue
        console.rule(Text(f"a sample of {domain}", style="dim"), align="left", style="dim")
        console.print(prompt, end="", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(completion.text, markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.rule(Text("next", style="dim"), align="left", style="dim")
    where = shlex.quote(str(run.directory))
    first = sorted(run.held_out)[0]
    more = 2 * run.config.training.steps
    for command in (
        _use(run, where, first),
        *([f"sublayer routing {where}"] if experts is not None else []),
        f"sublayer train --resume --out {where} training.steps={more}",
        f"sublayer train {where}/config.yaml model.position=alibi --out {where}-alibi",
        f"tensorboard --logdir {where}/tensorboard",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _use(run: Run, where: str, domain: str) -> str:
    """The command that asks the model what it was trained for."""
    prompt = PROMPTS.get(domain, "Once")
    kind = run.config.data.objective.kind_name()
    if kind in GAPS:
        verb, gap, options = GAPS[kind]
        return f"sublayer {verb} {where} {shlex.quote(prompt + gap)}{options}"
    if run.config.data.objective.classifies:
        of_two = any(isinstance(each, LabelledConfig) and each.second_field for each in run.config.data.sources)
        return f"sublayer classify {where} {shlex.quote(prompt)}{f' --second {shlex.quote(prompt)}' if of_two else ''}"
    question = _question(run, domain)
    asked = shlex.quote(question[-1]["content"] if question else prompt)
    return f"sublayer generate {where} {'--chat ' if question else ''}{asked}"


def _table(run: Run) -> Table:
    table = Table(
        title=f"all held-out text after {run.config.training.steps:,} steps",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 3, 0, 0),
    )
    shown = [figure for figure in FIGURES if any(figure.name in score.figures() for score in run.held_out.values())]
    for column in ("domain", "reader"):
        table.add_column(column)
    for figure in shown:
        each = f"/{_target(run)}" if figure.name == "loss" else ""
        table.add_column(figure.column + each, justify="right")
    for domain, result in run.held_out.items():
        table.add_row(Text(domain), "this model", *_cells(result, shown), style="bold")
        baseline = run.baselines.get(domain)
        if baseline is None:
            continue
        for name, score in (("bigram (Witten–Bell)", baseline.bigram), (MARGINAL, baseline.marginal)):
            if score is not None:
                table.add_row("", name, *_cells(score, shown))
        if baseline.lzma is not None:
            table.add_row("", "lzma, held-out text alone", "", f"{baseline.lzma.alone:.3f}")
            table.add_row("", "lzma, after the training text", "", f"{baseline.lzma.primed:.3f}")
    if len(run.held_out) > 1 and run.config.data.objective.tells_accuracy:
        table.add_row("all", "this model", *_cells(total(run.held_out.values()), shown), style="bold")
        marginal = [part.marginal for part in run.baselines.values() if part.marginal is not None]
        if marginal:
            table.add_row("", MARGINAL, *_cells(total(marginal), shown))
    return table


def _target(run: Run) -> str:
    return "text" if run.config.data.objective.classifies else "token"


def _cells(score: Score, shown: Sequence[Figure]) -> list[str]:
    values = score.figures()
    return [figure.form.format(values[figure.name]) if figure.name in values else "" for figure in shown]


def _verdicts(run: Run) -> list[str]:
    """Who won, in words."""
    sentences = []
    for domain, result in run.held_out.items():
        baseline = run.baselines.get(domain)
        if baseline is None:
            continue
        readers: list[tuple[bool, str]] = []
        for name, score in (("the bigram", baseline.bigram), (MARGINAL, baseline.marginal)):
            if score is not None:
                margin = score.loss - result.loss
                readers.append((margin > 0, f"{name} by {abs(margin):.2f} nats a {_target(run)}"))
        bits = result.bits_per_byte
        if baseline.lzma is not None and bits is not None:
            readers += [
                (bits < baseline.lzma.alone, "lzma alone"),
                (bits < baseline.lzma.primed, "lzma after the training text"),
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
