import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sublayer.data.skipped import Skipped
from sublayer.data.sources import EmbeddedConfig
from sublayer.data.tokenizer import BpeConfig, BytesConfig, FileConfig, Tokenizer
from sublayer.data.tokenizer.alphabet import BYTE, CHARACTER
from sublayer.errors import DataError

END = "<|endoftext|>"
TEXT = "the quick naïve fox 東京 jumps, over the lazy dog\n    return the thing\n" * 20 + "other words come once\n"
TOKENIZERS = {
    "bytes": BytesConfig().build(lambda: iter(())),
    "bpe": BpeConfig(vocab_size=500).build(lambda: iter([TEXT])),
}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab \n\té東\U0001d11e<|endoftext>")


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=ANY_TEXT, other=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(name: str, text: str, other: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.end_id
    assert tokenizer.end_id not in ids[1:]
    assert tokenizer.encode(text, start=False) == ids[1:]
    assert tokenizer.bytes_per_token[ids].sum() == len(text.encode())
    assert tokenizer.encode_batch([text, other]) == [ids, tokenizer.encode(other)]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_a_stream_never_gives_half_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    stream = tokenizer.stream()
    parts = [stream.push(index) for index in tokenizer.encode(text)]
    assert "".join(parts) == text
    assert stream.finish() == ""


def test_a_stream_that_ends_inside_a_character() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer.encode("aé")[:-1]
    stream = tokenizer.stream()
    assert [stream.push(index) for index in ids] == ["", "a", ""]
    assert stream.finish() == "\ufffd"
    assert tokenizer.decode(ids) == "a\ufffd"
    assert tokenizer.decode_bytes(ids) == "aé".encode()[:-1]


def test_bytes_are_256_and_one() -> None:
    tokenizer = TOKENIZERS["bytes"]
    assert tokenizer.vocab_size == 257
    assert tokenizer.end_id == 0
    assert tokenizer.encode("a\n") == [0, 1 + ord("a"), 1 + ord("\n")]
    np.testing.assert_array_equal(tokenizer.bytes_per_token, [0] + [1] * 256)


def test_bpe_merges_what_is_frequent() -> None:
    tokenizer = BpeConfig(vocab_size=300).build(lambda: iter([TEXT]))
    assert tokenizer.vocab_size == 300
    assert tokenizer.end_id == 0
    assert len(tokenizer.encode(TEXT)) < 0.8 * len(TEXT.encode())
    assert BpeConfig(vocab_size=257).build(lambda: iter([TEXT])).encode("ab", start=False) == [
        TOKENIZERS["bpe"].encode(letter, start=False)[0] for letter in "ab"
    ]


def test_bpe_has_every_byte_whatever_it_learnt_from() -> None:
    tokenizer = BpeConfig(vocab_size=1000).build(lambda: iter(["only this"]))
    assert tokenizer.vocab_size == 257  # no pair comes twice
    assert tokenizer.decode(tokenizer.encode("東京 ÿ\0")) == "東京 ÿ\0"
    assert BpeConfig(vocab_size=1000, min_frequency=1).build(lambda: iter(["only this"])).vocab_size > 257


def test_bpe_is_the_same_each_time(tmp_path: Path) -> None:
    texts = [document.text for document, _ in zip(EmbeddedConfig().documents(Skipped()), range(30), strict=False)]
    for name in ("one", "two"):
        BpeConfig(vocab_size=700).build(lambda: iter(texts)).save(tmp_path / name)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


def test_letters_that_spell_the_special_token_stay_letters(tokenizer: Tokenizer) -> None:
    text = f"before {END} after"
    ids = tokenizer.encode(text, start=False)
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == text


def test_half_a_character_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="half a character at position 2"):
        tokenizer.encode("ab\ud800")


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        text = f"naïve {END} text\n"
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.end_id == tokenizer.end_id
        np.testing.assert_array_equal(loaded.bytes_per_token, tokenizer.bytes_per_token)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == settings["bos_token"] == END


def test_hugging_face_reads_what_is_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT, start=False)
    assert theirs.decode(tokenizer.encode(TEXT, start=False)) == TEXT
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_id


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer(
        models.BPE(vocab={c: b for b, c in CHARACTER.items()} | {"he": 300}, merges=[("h", "e")])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<stop>"])
    core.add_tokens(["wörd"])
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer has no token '<\|endoftext\|>'"):
        FileConfig(path=str(tmp_path)).build(lambda: iter(()))
    tokenizer = FileConfig(path=str(tmp_path), end="<stop>").build(lambda: iter(()))
    assert tokenizer.end_id == core.token_to_id("<stop>")
    assert tokenizer.vocab_size == 301  # ids 259 … 299 are holes
    ids = tokenizer.encode("he wörd <stop>", start=False)
    assert ids[:3] == [300, ord(" "), core.token_to_id("wörd")]
    assert tokenizer.decode(ids) == "he wörd <stop>"
    assert tokenizer.bytes_per_token[ids[:3]].tolist() == [2, 1, 5]
    assert tokenizer.bytes_per_token[[299, tokenizer.end_id]].tolist() == [0, 0]

    # What tokenizer_config.json says is used, and kept.
    named = {"eos_token": {"content": "<stop>"}, "chat_template": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    FileConfig(path=str(tmp_path)).build(lambda: iter(())).save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())["chat_template"] == "x"
    assert Tokenizer.load(tmp_path / "copy").end == "<stop>"


def test_a_file_follows_its_content(tmp_path: Path) -> None:
    TOKENIZERS["bytes"].save(tmp_path)
    config = FileConfig(path=str(tmp_path / "tokenizer.json"))
    before = config.fingerprint()
    TOKENIZERS["bpe"].save(tmp_path)
    assert config.fingerprint() != before
    with pytest.raises(DataError, match=r"there is no tokenizer at .*none"):
        FileConfig(path=str(tmp_path / "none")).fingerprint()


def test_what_is_not_byte_level_is_refused(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer(models.WordLevel({"a": 0, END: 1, "?": 2}, unk_token="?"))
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer is not byte-level"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "not utf-8", "settings cut", "settings a list"])
def test_damaged_files_are_one_sentence(tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    tokenizer.save(tmp_path)
    file = tmp_path / ("tokenizer_config.json" if damage.startswith("settings") else "tokenizer.json")
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut" | "settings cut":
            file.write_bytes(content[: len(content) // 2])
        case "empty":
            file.write_bytes(b"")
        case "not utf-8":
            file.write_bytes(b"\xff" + content)
        case "settings a list":
            file.write_bytes(b"[]")
    with pytest.raises(DataError, match=file.name) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_alphabet_is_the_librarys() -> None:
    assert set(CHARACTER.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert all(BYTE[CHARACTER[byte]] == byte for byte in range(256))
    core = tokenizers.Tokenizer(models.BPE(vocab={c: b for b, c in CHARACTER.items()}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("\0 ~\x7f", "é東"):
        assert core.encode(text).ids == list(text.encode())


@pytest.mark.parametrize("config", [BytesConfig(), BpeConfig(vocab_size=300)])
def test_the_size_that_is_expected_is_the_one_that_is_made(config: BytesConfig | BpeConfig, tmp_path: Path) -> None:
    made = config.build(lambda: iter(["a text to learn from, a text of some words, of which some come again"] * 50))
    assert made.vocab_size <= config.expected_size()
    made.save(tmp_path)
    assert FileConfig(path=str(tmp_path)).expected_size() == made.vocab_size
