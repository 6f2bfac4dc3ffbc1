"""Texts that an encoder-decoder makes of a source."""

import pytest
import torch

from sublayer.errors import ConfigError, DataError
from sublayer.generation import Completion, GenerationConfig, generate
from sublayer.generation.sampling import penalised
from sublayer.model import Transformer

from .models import PAIR, PAIRS, TOKENIZER, Scripted, config, pair

SOURCES = ["the quick brown fox jumps", "", "a", "def read_lines(", "of human events"]
END = TOKENIZER.end_id


@torch.inference_mode()
def full_passes(model: Transformer, source: str, n_tokens: int, penalty: float) -> list[int]:
    """Greedy decoding that remembers nothing: each token from a pass over source and target.

    The penalty is on the target's tokens alone.
    """
    source_1S, ids = torch.tensor([TOKENIZER.encode(source)]), [END]
    while len(ids) <= n_tokens and END not in ids[1:]:
        logits = model(torch.tensor([ids]), source=source_1S).logits
        assert logits is not None
        seen_1V = torch.zeros(1, TOKENIZER.vocab_size, dtype=torch.bool)
        seen_1V[0, ids[1:]] = True
        ids.append(int(penalised(logits[:, -1, : TOKENIZER.vocab_size], seen_1V, penalty).argmax()))
    return ids[1:]


@pytest.mark.parametrize("name", PAIRS)
def test_cached_greedy_decoding_is_that_of_full_passes(name: str) -> None:
    model = pair(name)
    # Without the penalty such a model says one token for ever.
    completions = generate(model, TOKENIZER, SOURCES, temperature=0, max_tokens=20, repetition_penalty=1.5)
    expected = [full_passes(model, source, 20, penalty=1.5) for source in SOURCES]
    assert [list(completion.token_ids) for completion in completions] == expected
    assert len({tuple(ids) for ids in expected}) == len(SOURCES)  # the source is looked at


@pytest.mark.parametrize("name", PAIRS)
def test_a_row_gives_alone_what_it_gives_in_a_batch(name: str) -> None:
    model = pair(name)
    told: dict[int, str] = {}
    options = GenerationConfig(
        temperature=1.5, max_tokens=16, repetition_penalty=1.2, top_p=0.98, stop=tuple("aegmMsZ")
    )
    sources = [letter * n for n, letter in enumerate("abcdefghijk", start=1)]
    together = generate(
        model,
        TOKENIZER,
        sources,
        options,
        seed=11,
        on_text=lambda row, text: told.update({row: told.get(row, "") + text}),
    )
    assert len({len(one.token_ids) for one in together}) > 3
    assert together == [generate(model, TOKENIZER, one.prompt, options, seed=one.seed) for one in together]
    assert [told.get(row, "") for row in range(len(sources))] == [one.text for one in together]


def test_the_text_stands_for_itself() -> None:
    completion = generate(Scripted("answer", **PAIR), TOKENIZER, "question", temperature=0)
    assert isinstance(completion, Completion)
    assert (completion.prompt, completion.text, completion.reason) == ("question", "answer", "end")
    assert str(completion) == "answer"
    assert not completion.follows
    assert generate(Scripted("answer", **PAIR), TOKENIZER, "?", temperature=0, stop="w").text == "ans"


def test_what_it_writes_ends_with_the_last_position_however_long_the_source() -> None:
    model = Transformer(config(**PAIR, position="learned", max_length=12), seed=3)
    short, long = generate(model, TOKENIZER, ["a", "a" * 11], temperature=0, max_tokens=50)
    assert (len(short.token_ids), len(long.token_ids)) == (12, 12)
    assert short.reason == long.reason == "length"
    with pytest.raises(DataError) as caught:
        generate(model, TOKENIZER, "a" * 12)
    assert str(caught.value) == "the prompt has 13 tokens, but the model's learned positions end at 12; shorten it."
    # Also where the encoder alone has positions that end.
    mixed = Transformer(config(**{**PAIR, "encoder": {"position": "learned"}}, max_length=12))
    assert len(generate(mixed, TOKENIZER, "a", temperature=0, max_tokens=20).token_ids) == 20
    with pytest.raises(DataError, match=r"^prompt 2 of 2 has 13 tokens, but the model's learned positions end at 12"):
        generate(mixed, TOKENIZER, ["a", "a" * 12])


def test_a_head_over_classes_is_refused() -> None:
    for stack in ("decoder", "encoder"):
        model = Transformer(config(stack=stack, head={"kind": "classes", "n_classes": 2}, tied_embeddings=True))
        with pytest.raises(ConfigError, match=r"^head: a head over classes writes no text; sublayer classify tells"):
            generate(model, TOKENIZER, "a")


@torch.inference_mode()
def test_log_probabilities_are_those_of_a_full_pass() -> None:
    model = pair()
    for one in generate(model, TOKENIZER, SOURCES, seed=5, temperature=1.4, top_k=40, repetition_penalty=1.5):
        ids = torch.tensor([[END, *one.token_ids]])
        logits = model(ids[:, :-1], source=torch.tensor([TOKENIZER.encode(one.prompt)])).logits
        expected = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum()
        assert one.log_probability == pytest.approx(float(expected), rel=1e-5)


def test_special_tokens_are_read_and_written_by_name_when_asked_for() -> None:
    tokenizer = TOKENIZER.with_special(["<extra_id_0>", "<extra_id_1>"])
    first, second = (tokenizer.special_id([f"<extra_id_{number}>"]) for number in (0, 1))
    model = Transformer(config(**PAIR, vocab_size=tokenizer.vocab_size, head={"bias": True}), seed=3)
    read: list[list[int]] = []
    encode = model.encode
    model.encode = lambda source, want=(): (read.append(source.tokens_BS[0].tolist()), encode(source, want))[1]
    with torch.no_grad():
        model.head.bias.zero_()
        model.head.bias[second] = 100.0
    prompt = "a<extra_id_0>b<|endoftext|>"
    for options in ({"temperature": 0}, {"beams": 2}):
        plain = generate(model, tokenizer, prompt, max_tokens=2, **options)
        named = generate(model, tokenizer, prompt, max_tokens=2, special_tokens=True, **options)
        assert (plain.text, named.text) == ("", "<extra_id_1>" * 2)
        assert plain.token_ids == named.token_ids == (second, second)
        assert generate(model, tokenizer, "", stop="id_1", special_tokens=True, **options).text == "<extra_"
        assert read[-3] == tokenizer.encode(prompt)
        assert len(read[-3]) == 1 + len(prompt)
        assert read[-2] == [END, *TOKENIZER.encode("a")[1:], first, *TOKENIZER.encode("b")[1:], END]
    with torch.no_grad():
        model.head.bias[END] = 200.0
    assert generate(model, tokenizer, prompt, temperature=0, special_tokens=True).text == ""
