import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

import sublayer.data.tokenizer.words as words_module
from sublayer.data.tokenizer import BpeConfig, BytesConfig
from sublayer.data.tokenizer.words import SAFE, Words, splits_as_gpt2, with_few_words

TEXT = "it's they'll we've I'm don't 'Tis naïve 東京 Привет, мир! "
TEXT += "def f(x):\n\n\t  return x  + 1\r\n  '''doc'''  \n 3.14 ½ x² "


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    tokenizer = BpeConfig(vocab_size=350, min_frequency=1).build(lambda: iter([TEXT * 3]))
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.encode_special_tokens = True
    return core


def reference(core: tokenizers.Tokenizer, text: str) -> list[int]:
    return core.encode(text, add_special_tokens=False).ids


PIECES = st.sampled_from(
    [
        *TEXT.split(" "),
        " ",
        "  ",
        "\n",
        "\t",
        "'s",
        "'",
        "’",
        "<|endoftext|>",
        "\x85",
        "\xa0",
        "\u2003",
        "\x1c",
        "👍",
        "ḁ",
    ]
)


@given(text=st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join))
@settings(max_examples=400, deadline=None)
def test_ids_are_the_library_s(core: tokenizers.Tokenizer, text: str) -> None:
    assert list(Words(core).encode(text)) == reference(core, text)


def test_every_safe_character_is_split_as_the_library_splits_it(core: tokenizers.Tokenizer) -> None:
    words = Words(core)
    different = []
    for first, last in SAFE:
        for begin in range(first, last + 1, 64):
            characters = [chr(code) for code in range(begin, min(begin + 64, last + 1))]
            text = "".join(f"a{c}b {c}{c}1{c}  {c}!{c}'{c}s" for c in characters)
            if list(words.encode(text)) != reference(core, text):
                different.append(f"{begin:04x}")
    assert not different


def test_what_is_forgotten_is_asked_for_again(core: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "MOST", 10)
    words = Words(core)
    for text in (TEXT, TEXT[::-1], TEXT):
        assert list(words.encode(text)) == reference(core, text)


def test_it_is_for_tokenizers_that_split_alike(core: tokenizers.Tokenizer, tmp_path: Path) -> None:
    assert splits_as_gpt2(core)
    BytesConfig().build(lambda: iter(())).save(tmp_path)
    assert splits_as_gpt2(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))

    def changed() -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(core.to_str())

    other = changed()
    other.normalizer = normalizers.NFC()
    assert not splits_as_gpt2(other)
    other = changed()
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not splits_as_gpt2(other)
    other = changed()
    other.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert not splits_as_gpt2(other)
    other = changed()
    other.add_tokens([AddedToken("return x", special=False)])
    assert not splits_as_gpt2(other)
    values = json.loads(core.to_str())
    values["model"]["dropout"] = 0.1
    assert not splits_as_gpt2(tokenizers.Tokenizer.from_str(json.dumps(values)))


def test_words_beyond_the_first_are_left_out_of_learning() -> None:
    texts = ["one two three", " four (two)", "one four five 東京", " three"]
    assert list(with_few_words(texts)) == texts
    assert list(with_few_words(texts, most=4)) == ["one two three", " four (two)", "one four\n\n", " three"]
    assert list(with_few_words(texts, most=3)) == ["one two three", "\n\n\n\n", "one\n\n\n", " three"]
