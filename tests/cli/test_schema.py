"""`sublayer schema`."""

import json
from pathlib import Path

import jsonschema
import pytest

from sublayer.schema import run_schema
from tests.cli.test_verbs import PLUGIN, run


def test_printed_and_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = run(capsys, "schema")
    assert json.loads(printed) == run_schema()
    assert run(capsys, "schema", "--out", tmp_path / "run.schema.json") == ""
    assert (tmp_path / "run.schema.json").read_text(encoding="utf-8") == printed


def test_with_a_part_of_one_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(run(capsys, "schema", "--plugin", PLUGIN))
    assert jsonschema.Draft202012Validator(schema).is_valid({"model": {"position": "root_decay"}})
