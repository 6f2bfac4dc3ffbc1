"""Reading a config waits for no library that reads data."""

import subprocess
import sys

SCRIPT = """
import sys
from sublayer.run import read_config
sources = [{"kind": "parquet", "path": "a"}, {"kind": "hf", "name": "b"}, {"kind": "chat", "path": "c"}]
read_config({"data": {"sources": sources}})
print([name for name in ("pyarrow", "datasets", "transformers") if name in sys.modules])
"""


def test_a_config_that_names_them_imports_none() -> None:
    program = [sys.executable, "-c", SCRIPT]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip() == "[]"
