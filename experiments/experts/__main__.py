"""Seven studies of mixtures of experts.

    python -m experiments.experts STUDY [--out runs/experts] [--seeds N] [--report] [key=value …]

Trains the runs that are missing, one after the other, as ordinary run directories below --out; prints what they say,
and writes it as OUT/STUDY.json and OUT/STUDY.svg.  Stopped at any moment, it goes on from there when called again.
`key=value` holds for every run, as for `sublayer train`.
"""

import argparse
import sys
from pathlib import Path

from sublayer.errors import SublayerError
from sublayer.run import is_override

from . import balance, bias, dense, domains, dropout, growth, upcycle
from .desk import Desk

STUDIES = {module.STUDY.name: module.STUDY for module in (bias, growth, balance, dropout, dense, upcycle, domains)}


def main(arguments: list[str] | None = None) -> int:
    width = max(map(len, STUDIES))
    listed = "\n".join(
        f"  {study.name:{width}}  {study.summary} ({study.minutes:g} min"
        + (f", {study.seeds} seed{'s' if study.seeds > 1 else ''})" if study.seeds else ")")
        for study in STUDIES.values()
    )
    parser = argparse.ArgumentParser(
        "python -m experiments.experts",
        description=__doc__,
        epilog=f"studies, with the time that they take on two idle cores:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=[*STUDIES, "all"], metavar="STUDY", help="one of those below, or all")
    parser.add_argument("--out", type=Path, default=Path("runs/experts"), help="folder of the runs (%(default)s)")
    parser.add_argument("--seeds", type=int, help="runs of each variant (each study has its own default)")
    parser.add_argument("--report", action="store_true", help="train nothing; tell what the runs that are there say")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every run, such as training.steps=200")
    options = parser.parse_intermixed_args(arguments)
    for text in options.overrides:
        if not is_override(text):
            parser.error(f"'{text}' is no override; write key=value, such as training.steps=200")
    if options.seeds is not None and options.seeds < 1:
        parser.error("--seeds must be at least 1")
    for study in STUDIES.values() if options.study == "all" else [STUDIES[options.study]]:
        desk = Desk(options.out, options.overrides, options.seeds, options.report)
        try:
            print(f"## {study.name}: {study.summary}\n")
            study.tell(desk)
            print(flush=True)
        except SublayerError as error:
            print(f"experts: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
