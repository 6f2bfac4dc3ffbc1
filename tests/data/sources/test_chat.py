"""The source of conversations; what a template makes of them is in tests/data/test_chat.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from sublayer.data import DataConfig
from sublayer.data.chat import PLAIN
from sublayer.data.document import END_MARK, Document
from sublayer.data.skipped import Skipped
from sublayer.data.sources import ChatConfig
from sublayer.data.tokenizer import BytesConfig, FileConfig
from sublayer.errors import DataError

QUESTION, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}
SHOUTING = "{% for m in messages %}{{ m.role }}! {{ m.content }}{{ eos_token }}{% endfor %}"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> list[Document]:
    return list(ChatConfig(path=str(path), **options).documents(Skipped()))


def scored(document: Document) -> list[str]:
    return [segment.text for segment in document.segments if segment.scored]


def text(document: Document) -> str:
    return "".join(segment.text for segment in document.segments).replace(END_MARK, "|")


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"messages": [QUESTION, ANSWER], "prompt": "no"}, "Who?"),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}, "Who?"),
        ({"instruction": "Who?", "output": "Me."}, "Who?"),
        ({"instruction": "Who?", "input": "You or me.", "output": "Me."}, "Who?\n\nYou or me."),
        ({"instruction": "Who?", "input": None, "output": "Me."}, "Who?"),
        ({"prompt": "Who?", "completion": "Me."}, "Who?"),
    ],
)
def test_formats_are_told_by_their_fields(tmp_path: Path, row: dict[str, Any], asked: str) -> None:
    (document,) = read(write(tmp_path / "a.jsonl", row))
    assert text(document) == f"user:\n{asked}|assistant:\nMe.|"
    assert scored(document) == ["Me.", END_MARK]


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER], "prompt": "P", "completion": "C"})
    assert scored(read(path, format="prompt")[0]) == ["C", END_MARK]
    with pytest.raises(DataError, match="line 1: no field 'instruction'"):
        read(path, format="instruction")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"no conversation \(it has: text; it needs messages"),
        ({"messages": [QUESTION]}, "no answer of an assistant"),
        ({"messages": [QUESTION, {"role": "bot", "content": "a"}]}, "a role that is none of"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "it", "value": "b"}]}, "a role that is none of"),
        ({"conversations": "a"}, "messages that are no list"),
        ({"instruction": "a"}, "no field 'output'"),
        ({"instruction": "a", "input": 3, "output": "b"}, "a field 'input' that holds no text"),
        ({"prompt": "a", "completion": " "}, "an empty answer"),
        ({"prompt": "\ud800", "completion": "a"}, "half a character"),
    ],
)
def test_what_is_no_conversation_is_refused_or_counted(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]}, row)
    with pytest.raises(DataError, match=rf"a\.jsonl line 2: {message}"):
        read(path)
    skipped = Skipped()
    assert len(list(ChatConfig(path=str(path), damaged="skip").documents(skipped))) == skipped.total == 1


def test_what_is_asked_decides_the_held_out_side(tmp_path: Path) -> None:
    other = {"role": "assistant", "content": "You."}
    system = {"role": "system", "content": "Lie."}
    rows = [{"messages": messages} for messages in ([QUESTION, ANSWER], [QUESTION, other], [system, QUESTION, ANSWER])]
    keys = [document.held_out_key for document in read(write(tmp_path / "a.jsonl", *rows))]
    assert keys[0] == keys[1] != keys[2]


def test_templates_by_name_file_and_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]})
    (tmp_path / "t.jinja").write_text(SHOUTING)
    for template in (str(tmp_path / "t.jinja"), SHOUTING):
        (document,) = read(path, template=template)
        assert text(document) == "user! Who?|assistant! Me.|"
    with pytest.raises(DataError, match=r"the chat template .*nothing could not be read \(No such file"):
        read(path, template=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="template: tokenizer asks for a tokenizer that carries a chat template"):
        read(path, template="tokenizer")


def test_the_tokenizers_own_template_is_taken_where_there_is_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]})
    tokenizer = BytesConfig().build(lambda: iter([]))
    tokenizer.chat_template = SHOUTING
    tokenizer.save(tmp_path / "model")
    data = {"tokenizer": {"kind": "file", "path": str(tmp_path / "model")}}
    for template, expected in (("auto", "user! Who?"), ("tokenizer", "user! Who?"), ("plain", "user:\nWho?")):
        config = DataConfig(sources={"kind": "chat", "path": str(path), "template": template}, **data)
        (source,) = config.to_read()
        (document,) = source.documents(Skipped())
        assert text(document).startswith(expected)
    # The model begins every document with the end token, and so the template that is saved does.
    assert (
        DataConfig(sources={"kind": "chat", "path": str(path)}, **data).chat_template() == "{{ bos_token }}" + SHOUTING
    )
    assert DataConfig(sources={"kind": "chat", "path": str(path)}).chat_template() == PLAIN
    assert DataConfig().chat_template() is None


def test_the_fingerprint_follows_template_and_end_token(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]})
    BytesConfig().build(lambda: iter([])).save(tmp_path / "model")
    plain = ChatConfig(path=str(path))
    seen = {plain.fingerprint(), ChatConfig(path=str(path), template=SHOUTING).fingerprint()}
    seen.add(plain.with_tokenizer(FileConfig(path=str(tmp_path / "model"), end="<|other|>")).fingerprint())
    assert len(seen) == 3
    assert plain.with_tokenizer(BytesConfig()).fingerprint() in seen


def test_two_templates_in_one_run_are_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", {"messages": [QUESTION, ANSWER]}))
    sources = [{"kind": "chat", "path": path}, {"kind": "chat", "path": path, "template": SHOUTING}]
    with pytest.raises(DataError, match="two sources write conversations with different chat templates"):
        DataConfig(sources=sources).chat_template()
