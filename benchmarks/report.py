"""Every CPU benchmark, one after the other: the tables that docs/performance.md holds, as Markdown.

    pip install -e '.[peers]' && python benchmarks/report.py > report.md

About an hour on two cores that have nothing else to do.
"""

import subprocess
import sys
from pathlib import Path

RUNS = (
    ("A training step beside peers", ["training.py", "--compiled"]),
    ("Four families beside transformers", ["families.py", "--compiled"]),
    ("What generality costs", ["generality.py"]),
    ("Decoding beside Hugging Face", ["decoding.py"]),
    ("Tokenizing beside datasets.map", ["tokenizing.py"]),
    ("What `check` says, beside what is measured", ["check.py", "--table"]),
    ("Threads that compute shares of a step", ["threads.py"]),
    ("The same with one other busy process", ["threads.py", "1"]),
    ("Attention on a CPU", ["attention.py"]),
    ("Mixture-of-experts beside dense, a loop and Hugging Face", ["experts.py"]),
)


def main() -> None:
    here = Path(__file__).parent
    failed = []
    for title, command in RUNS:
        print(f"\n## {title}\n\n`python benchmarks/{' '.join(command)}`\n", flush=True)
        if subprocess.run([sys.executable, *command], cwd=here, check=False).returncode:
            failed.append(command[0])
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
