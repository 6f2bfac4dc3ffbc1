import ast
import shutil
from pathlib import Path

import pytest

from sublayer.data.config import DataConfig
from sublayer.data.skipped import Skipped
from sublayer.data.sources import EmbeddedConfig
from sublayer.data.sources.docstrings import split_docstrings
from sublayer.errors import ConfigError, DataError


def test_two_domains_and_the_topics(library: Path) -> None:
    documents = list(EmbeddedConfig().documents(Skipped()))
    code = [document for document in documents if document.domain == "code"]
    prose = [document for document in documents if document.domain == "prose"]
    assert len(code) == 80
    assert len(prose) == 80 + 30
    assert all("# a comment stays" in document.text and "speaks" not in document.text for document in code)
    assert {document.held_out_key for document in code} < {document.held_out_key for document in prose}
    assert any(document.held_out_key == "topic7" and "Help on topic 7" in document.text for document in prose)
    assert len({document.key for document in documents}) == len(documents)


def test_tests_and_installed_packages_are_left_out(library: Path) -> None:
    assert not any("seen" in document.text for document in EmbeddedConfig().documents(Skipped()))


def test_one_domain_alone(library: Path) -> None:
    assert {document.domain for document in EmbeddedConfig(domains=("prose",)).documents(Skipped())} == {"prose"}
    with pytest.raises(ConfigError, match="domains: name each domain once"):
        EmbeddedConfig(domains=("code", "code"))


def test_a_python_without_topics_has_the_rest(library: Path) -> None:
    shutil.rmtree(library / "pydoc_data")
    assert len(list(EmbeddedConfig().documents(Skipped()))) == 160
    assert EmbeddedConfig().fingerprint()


def test_a_python_without_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"carries no source of its standard library in .*nowhere"):
        EmbeddedConfig().fingerprint()


@pytest.mark.parametrize("file", ["module_3.py", "pydoc_data/topics.py"])
def test_the_fingerprint_follows_the_content(library: Path, file: str) -> None:
    before = EmbeddedConfig().fingerprint()
    assert EmbeddedConfig().fingerprint() == before
    assert EmbeddedConfig(domains=("code",)).fingerprint() != before
    path = library / ("pack/" + file if file.startswith("module") else file)
    path.write_text(path.read_text(encoding="utf-8").replace("3", "4"), encoding="utf-8")
    assert EmbeddedConfig().fingerprint() != before


def test_other_encodings_are_read_as_python_does(library: Path) -> None:
    (library / "latin.py").write_bytes('# -*- coding: latin-1 -*-\r\nx = "é"\r\n'.encode("latin-1"))
    (text,) = (document.text for document in EmbeddedConfig().documents(Skipped()) if document.key == "code/latin.py")
    assert text.endswith('x = "é"\n')
    assert "\r" not in text


@pytest.mark.slow
def test_the_real_library_still_parses_without_its_docstrings(tmp_path: Path) -> None:
    from sublayer.data import prepare

    documents = list(EmbeddedConfig().documents(Skipped()))
    for document in documents:
        if document.domain == "code":
            tree = ast.parse(document.text)
            scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [node for node in ast.walk(tree) if isinstance(node, scopes) and ast.get_docstring(node)]
            assert not found, document.key
            assert split_docstrings(document.text) == (document.text, ""), document.key
    assert sum(len(document.text) for document in documents if document.domain == "code") > 5_000_000

    corpus = prepare(DataConfig(), cache=tmp_path)
    for sides in corpus.describe().values():
        held_out, trained = sides["validation"]["bytes"], sides["training"]["bytes"]
        assert 0.03 < held_out / (held_out + trained) < 0.08
