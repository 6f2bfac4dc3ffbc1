"""Conversations as text, and which stretches of it are answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sublayer.data.chat import PLAIN, ChatTemplate, Message, Unrenderable, parse_messages
from sublayer.data.document import END_MARK, Segment
from sublayer.data.tokenizer import BpeConfig, BytesConfig, FileConfig, Tokenizer
from sublayer.errors import DataError

END = "<|endoftext|>"
CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", " Who?\n"),
    Message("assistant", "Me."),
    Message("user", "Why?"),
    Message("assistant", "So."),
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}[INST] {% if loop.revindex0 < 2 and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}"
    "{% endfor %}"
)


def text(segments: tuple[Segment, ...], end: str = END) -> str:
    return "".join(end if segment.text == END_MARK else segment.text for segment in segments)


def scored(segments: tuple[Segment, ...]) -> list[str]:
    return [segment.text for segment in segments if segment.scored]


def test_the_plain_template_scores_answers_and_the_end_after_each() -> None:
    segments = ChatTemplate(PLAIN, END).training(CONVERSATION)
    assert text(segments) == (
        f"system:\nBe brief.{END}user:\nWho?{END}assistant:\nMe.{END}user:\nWhy?{END}assistant:\nSo.{END}"
    )
    assert scored(segments) == ["Me.", END_MARK, "So.", END_MARK]


def test_contents_are_never_special_and_template_text_always_is() -> None:
    segments = ChatTemplate(PLAIN, END).training([Message("user", END), Message("assistant", END_MARK)])
    assert [(s.text, s.special) for s in segments if s.text in (END, END_MARK)] == [
        (END, False),
        (END_MARK, True),
        (END_MARK, False),
        (END_MARK, True),
    ]
    tokenizer = BytesConfig().build(lambda: iter([]))
    ids = [index for row in tokenizer.encode_segments(segments) for index in row]
    assert ids.count(tokenizer.end_id) == 2
    assert tokenizer.decode(ids) == f"user:\n{END}assistant:\n{END_MARK}"


@pytest.mark.parametrize("end", ["<|im_end|>", END])
def test_a_template_that_writes_its_end_token_out(end: str) -> None:
    template = ChatTemplate(CHATML, end)
    if end == END:
        with pytest.raises(DataError, match=re.escape(f"does not end an answer with the end token '{END}'")):
            template.training(CONVERSATION)
        return
    segments = template.training(CONVERSATION)
    assert scored(segments) == ["Me.", END_MARK, "So.", END_MARK]
    assert text(segments, end).endswith("<|im_start|>assistant\nSo.<|im_end|>\n")
    assert text(template.prompt(CONVERSATION[:2]), end).endswith(
        "<|im_start|>user\n Who?\n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_trims_and_joins_contents() -> None:
    segments = ChatTemplate(LLAMA_2, END).training(CONVERSATION)
    assert text(segments) == (
        f"[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Who? [/INST] Me. {END}{END}[INST] Why? [/INST] So. {END}"
    )
    # The space before the end token is the model's to write as well.
    assert scored(segments) == ["Me.", " ", END_MARK, "So.", " ", END_MARK]
    with pytest.raises(Unrenderable, match=r"refused by the chat template \(roles must alternate\)"):
        ChatTemplate(LLAMA_2, END).training(CONVERSATION[2:])


def test_a_template_may_write_messages_in_another_order() -> None:
    segments = ChatTemplate(SYSTEM_LAST, END).training(CONVERSATION)
    assert text(segments) == f"[INST]  Who?\n[/INST]Me.{END}[INST] Be brief.\n\nWhy?[/INST]So.{END}"
    assert scored(segments) == ["Me.", END_MARK, "So.", END_MARK]


def test_an_answer_of_weight_0_is_not_scored() -> None:
    messages = parse_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "bad", "weight": 0},
            {"role": "assistant", "content": "good", "weight": 1},
        ]
    )
    assert messages[0].content == "ab"
    assert scored(ChatTemplate(PLAIN, END).training(messages)) == ["good", END_MARK]
    with pytest.raises(Unrenderable, match="no answer of an assistant"):
        ChatTemplate(PLAIN, END).training(messages[:2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}",
            r"of message 1 \(system\), it leaves it out",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}{{ eos_token }}{% endfor %}",
            r"of message 1 \(system\), it writes it 2 times",
        ),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "does not end an answer with the end token"),
        ("{% for m in messages %}", "the chat template is no Jinja"),
    ],
)
def test_a_template_that_loses_something_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ChatTemplate(source, END).training(CONVERSATION)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}",
        "{% for m in messages %}{{ m.content.split('r')[-1] }}{{ eos_token }}{% endfor %}",
        "{{ 'r' in messages[0].content }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{{ 'r' in messages[0].content }}",
    ],
)
def test_a_text_that_the_template_changes_is_refused(source: str) -> None:
    with pytest.raises(Unrenderable, match="a text that the chat template changes"):
        ChatTemplate(source, END).training(CONVERSATION)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
        "{% for n in range(10000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ ('%' ~ 10**12 ~ 'd') % 3 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_cannot_reach_out(source: str) -> None:
    with pytest.raises(Unrenderable, match="refused by the chat template"):
        ChatTemplate(source, END).training(CONVERSATION)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("text", "no list"),
        ([], "empty"),
        ([{"role": "user"}], "without a role and a content"),
        ([{"role": "bot", "content": "a"}], "a role that is none of system, developer"),
        ([{"role": "user", "content": 3}], "whose content is no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "whose content is no text"),
        ([{"role": "assistant", "content": " \n"}], "an empty answer"),
        ([{"role": "assistant", "content": "a", "weight": 0.5}], "weight is neither 0 nor 1"),
    ],
)
def test_what_is_no_conversation_is_said(values: Any, message: str) -> None:
    with pytest.raises(Unrenderable, match=message):
        parse_messages(values)


@pytest.fixture(scope="module")
def learnt() -> Tokenizer:
    words = "system user assistant : who why what is the answer to this question and so on .\n"
    return BpeConfig(vocab_size=400).build(lambda: iter([words * 50]))


def with_chatml(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The tokenizer with ChatML's tokens, one of which ends documents."""
    tokenizer.save(folder)
    core = json.loads((folder / "tokenizer.json").read_text())
    for number, name in enumerate(("<|im_start|>", "<|im_end|>")):
        core["added_tokens"].append(core["added_tokens"][0] | {"id": tokenizer.vocab_size + number, "content": name})
    (folder / "tokenizer.json").write_text(json.dumps(core))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return FileConfig(path=str(folder)).build(lambda: iter([]))


@pytest.mark.parametrize("kind", ["plain", "chatml", "llama 2"])
def test_hugging_face_reads_the_same_text_and_the_same_ids(learnt: Tokenizer, tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = with_chatml(learnt, tmp_path / "given") if kind == "chatml" else learnt
    source = {"plain": PLAIN, "chatml": CHATML, "llama 2": LLAMA_2}[kind]
    tokenizer.chat_template = ChatTemplate(source, tokenizer.end).saved()
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    ours = Tokenizer.load(tmp_path / "saved")
    assert ours.chat_template == tokenizer.chat_template
    messages = [{"role": message.role, "content": message.content} for message in CONVERSATION]

    segments = ChatTemplate(tokenizer.chat_template, ours.end).training(CONVERSATION)
    assert theirs.apply_chat_template(messages, tokenize=False) == ours.end + text(segments, ours.end)
    ids = [index for row in ours.encode_segments(segments) for index in row]
    assert theirs.apply_chat_template(messages, tokenize=True, return_dict=False) == [ours.end_id, *ids]

    prompt = theirs.apply_chat_template(messages[:4], add_generation_prompt=True, tokenize=True, return_dict=False)
    assert prompt == ours.encode_chat(messages[:4])


def test_templates_of_several_names_and_of_a_file(learnt: Tokenizer, tmp_path: Path) -> None:
    learnt.save(tmp_path)
    beside = tmp_path / "tokenizer_config.json"
    settings = json.loads(beside.read_text())
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": PLAIN}]
    beside.write_text(json.dumps(settings | {"chat_template": named}))
    config = FileConfig(path=str(tmp_path))
    before = config.fingerprint()
    assert config.chat_template() == PLAIN
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert config.chat_template() == CHATML
    assert config.fingerprint() != before
    assert FileConfig(path=str(tmp_path), end="<|im_end|>").end_token() == "<|im_end|>"


def test_a_tokenizer_without_a_template_reads_no_conversation() -> None:
    tokenizer = BytesConfig().build(lambda: iter([]))
    with pytest.raises(DataError, match="carries no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "a"}])
    tokenizer.chat_template = PLAIN
    with pytest.raises(DataError, match=re.escape("the conversation cannot be read: it has messages that are no list")):
        tokenizer.encode_chat([])
    with pytest.raises(DataError, match="it has an answer as its last message"):
        tokenizer.encode_chat([{"role": "assistant", "content": "a"}])
