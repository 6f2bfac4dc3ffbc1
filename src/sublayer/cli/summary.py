"""What `sublayer train` shows at the end: figures beside baselines, samples, and what to type next."""

import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sublayer.api import Run, generate

PROMPTS = {"code": "def read_lines(", "prose": "Return the "}
"""The beginning of a sample by domain; any other domain begins with its own held-out text."""


def show_summary(run: Run, console: Console) -> None:
    """Print the summary of a finished run."""
    console.print()
    console.print(_table(run))
    for sentence in _verdicts(run):
        console.print(sentence, highlight=False, markup=False)
    for domain in sorted(run.held_out)[:2]:
        prompt = PROMPTS.get(domain) or _beginning(run, domain)
        completion = generate(run.model, run.tokenizer, prompt, max_tokens=80, temperature=0.7, seed=0)
        console.print()
        console.rule(Text(f"a sample of {domain}", style="dim"), align="left", style="dim")
        console.print(prompt, end="", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(completion.text, markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.rule(Text("next", style="dim"), align="left", style="dim")
    where = shlex.quote(str(run.directory))
    prompt = shlex.quote(PROMPTS.get(sorted(run.held_out)[0], "Once"))
    more = 2 * run.config.training.steps
    for command in (
        f"sublayer generate {where} {prompt}",
        f"sublayer train --resume --out {where} training.steps={more}",
        f"sublayer train {where}/config.yaml model.position=alibi --out {where}-alibi",
        f"tensorboard --logdir {where}/tensorboard",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _table(run: Run) -> Table:
    table = Table(
        title=f"all held-out text after {run.config.training.steps:,} steps, {run.seconds:.0f} s of training",
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
        versus_bigram = f"{'beats' if margin > 0 else 'loses to'} the bigram by {abs(margin):.2f} nats a token"
        readers = {"alone": baseline.lzma.alone, "with the training text": baseline.lzma.primed}
        beaten = [name for name, bits in readers.items() if result.bits_per_byte < bits]
        if len(beaten) == 2:
            versus_lzma = "and lzma, also with the training text"
        elif beaten:
            versus_lzma = f"and lzma {beaten[0]}, but not lzma {next(n for n in readers if n not in beaten)}"
        else:
            versus_lzma = "and loses to lzma" if margin > 0 else "and to lzma"
        sentences.append(f"{domain}: the model {versus_bigram} {versus_lzma}.")
    return sentences


def _beginning(run: Run, domain: str) -> str:
    """The first words of the domain's held-out text."""
    text = next(iter(run.corpus.validation_text(domain)), b"").decode(errors="ignore")
    return " ".join(text[:200].split(" ")[:6])
