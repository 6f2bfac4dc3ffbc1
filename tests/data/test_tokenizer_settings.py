"""A tokenizer's own words for where a document ends, and files that ask for too much."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken

from sublayer.data import Tokenizer
from sublayer.data.tokenizer import BytesConfig
from sublayer.errors import DataError


def saved(tmp_path: Path) -> Path:
    BytesConfig().build(lambda: iter(())).save(tmp_path)
    return tmp_path


def test_an_end_of_one_s_own_is_kept(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer.from_file(str(saved(tmp_path) / "tokenizer.json"))
    core.add_special_tokens([AddedToken("<doc>", special=True)])
    core.save(str(tmp_path / "tokenizer.json"))
    chosen = Tokenizer.load(tmp_path, "<doc>")
    chosen.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert (again.end, again.end_id) == ("<doc>", chosen.end_id)
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["bos_token"] == "<doc>"


@pytest.mark.parametrize("named", [["x"], 5, {"content": ["x"]}])
def test_an_end_that_is_no_text(tmp_path: Path, named: object) -> None:
    (saved(tmp_path) / "tokenizer_config.json").write_text(json.dumps({"eos_token": named}))
    with pytest.raises(DataError, match="eos_token is no text"):
        Tokenizer.load(tmp_path)


def test_an_id_far_beyond_the_number_of_tokens(tmp_path: Path) -> None:
    path = saved(tmp_path) / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["a"] = 60_000_000
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="ids up to 60000000"):
        Tokenizer.load(tmp_path)
