"""Beam search, against all texts that there are and against transformers'."""

import math
from itertools import product
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sublayer.data.tokenizer.stream import Stream
from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation import Completion, GenerationConfig, generate
from sublayer.generation.beams import Hypothesis, search
from sublayer.generation.sampling import penalised
from sublayer.model import Transformer
from tests.model.oracles import families
from tests.model.oracles.families import randomised

from .models import PAIR, PAIRS, TOKENIZER, Scripted, config, pair, tiny

END = TOKENIZER.end_id
PROMPTS = ["def read_lines(", "", "a", "the quick brown fox jumps", "of human events"]


class Letters:
    """What beams need of a tokenizer, with so few tokens that all texts can be looked at: the end, a, b, …"""

    end_id = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def stream(self, special: bool) -> Stream:
        return Stream([b"", *(bytes([ord("a") + index]) for index in range(self.vocab_size - 1))])


def found(model: Transformer, vocab_size: int, prompts: list[list[int]], **options: Any) -> list[list[Hypothesis]]:
    by_row = dict(search(model, Letters(vocab_size), prompts, GenerationConfig.parse(options)))  # type: ignore[arg-type]
    return [by_row[row] for row in range(len(prompts))]


def letters(vocab_size: int, seed: int, std: float = 1.5, **changes: Any) -> Transformer:
    """A model of few tokens whose logits are far apart."""
    model = Transformer(config(vocab_size=vocab_size, **changes), seed=seed)
    with torch.no_grad():
        model.head.output.weight.normal_(std=std, generator=torch.Generator().manual_seed(seed))
    return model


def score(hypothesis: Hypothesis, length_penalty: float) -> float:
    return hypothesis.total / len(hypothesis.tokens) ** length_penalty


# ------------------------------------------------------------------------------------------------- against all texts


@torch.inference_mode()
def log_probability(model: Transformer, prompt: list[int], tokens: tuple[int, ...], penalty: float = 1.0) -> float:
    """Of these tokens behind a prompt or a source, from a full pass."""
    if model.encoder is None:
        ids, source = [*prompt, *tokens], None
    else:
        ids, source = [0, *tokens], torch.tensor([prompt])
    logits_TV = model(torch.tensor([ids[:-1]]), source=source).logits[0, -len(tokens) :].double()
    total = 0.0
    for place, token in enumerate(tokens):
        logits_1V = logits_TV[place : place + 1]
        seen_1V = torch.zeros_like(logits_1V, dtype=torch.bool)
        seen_1V[0, ids[: len(ids) - len(tokens) + place]] = True
        seen_1V[0, 0] = False
        total += float(penalised(logits_1V, seen_1V, penalty).log_softmax(-1)[0, token])
    return total


def all_texts(vocab_size: int, longest: int) -> list[tuple[int, ...]]:
    """Every sequence that ends with its first end token, or goes on to the greatest length."""
    ending = [(*body, 0) for n in range(longest) for body in product(range(1, vocab_size), repeat=n)]
    return ending + list(product(range(1, vocab_size), repeat=longest))


@pytest.mark.parametrize(
    ("stack", "length_penalty"),
    [*product(["decoder"], [-0.5, 0.0, 0.6, 1.0, 2.0]), *product(["encoder_decoder"], [0.0, 1.5])],
)
def test_enough_beams_find_the_best_of_all_texts(stack: str, length_penalty: float) -> None:
    vocab_size, longest = 3, 5
    model = letters(vocab_size, seed=5, **(PAIR if stack == "encoder_decoder" else {}))
    texts, prompts = all_texts(vocab_size, longest), [[0, 2, 1], [0], [0, 1, 1, 2, 2]]
    for prompt, hypotheses in zip(
        prompts,
        found(model, vocab_size, prompts, beams=len(texts), length_penalty=length_penalty, max_tokens=longest),
        strict=True,
    ):
        expected = {text: log_probability(model, prompt, text) for text in texts}
        assert sum(math.exp(value) for value in expected.values()) == pytest.approx(1)
        ranked = sorted(texts, key=lambda text: expected[text] / len(text) ** length_penalty, reverse=True)
        assert [one.tokens for one in hypotheses] == ranked
        for one in hypotheses:
            assert one.total == pytest.approx(expected[one.tokens], rel=1e-5)
            assert one.log_probability == pytest.approx(one.total, rel=1e-12)
            assert one.reason == ("end" if one.tokens[-1] == 0 else "length")


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    beams=st.integers(2, 6),
    length_penalty=st.floats(-1, 3),
    early_stopping=st.sampled_from([True, False, "never"]),
    prompts=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=4),
    stack=st.sampled_from([{}, PAIR]),
)
def test_prompts_are_searched_as_if_alone(
    seed: int,
    beams: int,
    length_penalty: float,
    early_stopping: Any,
    prompts: list[list[int]],
    stack: dict[str, Any],
) -> None:
    model = letters(6, seed, **stack)
    options = {"beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping, "max_tokens": 9}
    together = found(model, 6, prompts, **options)
    for prompt, hypotheses in zip(prompts, together, strict=True):
        (alone,) = found(model, 6, [prompt], **options)
        assert [one.tokens for one in alone] == [one.tokens for one in hypotheses]
        scores = [score(one, length_penalty) for one in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert 1 <= len(hypotheses) <= beams
        assert len({one.tokens for one in hypotheses}) == len(hypotheses)
        for one in hypotheses:
            assert one.log_probability == pytest.approx(log_probability(model, prompt, one.tokens), rel=1e-4, abs=1e-5)
            assert one.text == "".join(chr(ord("a") + token - 1) for token in one.tokens if token)


@pytest.mark.parametrize("name", ["rope", "window, learned", "alibi"])
def test_a_single_beam_is_greedy_decoding(name: str) -> None:
    model = tiny(name)
    greedy = generate(model, TOKENIZER, PROMPTS, temperature=0, max_tokens=20, repetition_penalty=1.3)
    encoded = TOKENIZER.encode_batch(PROMPTS)
    one_beam = GenerationConfig(max_tokens=20, repetition_penalty=1.3)
    for row, hypotheses in search(model, TOKENIZER, encoded, one_beam):
        assert [one.tokens for one in hypotheses] == [greedy[row].token_ids]
        assert hypotheses[0].text == greedy[row].text
        assert hypotheses[0].log_probability == pytest.approx(greedy[row].log_probability, rel=1e-5)


def test_beams_are_better_than_greedy_decoding() -> None:
    better = 0
    for seed in range(12):
        model = letters(8, seed, std=0.7)
        (greedy,), (best,) = (
            found(model, 8, [[0, 3]], beams=beams, max_tokens=8, **({"length_penalty": 0.0} if beams > 1 else {}))
            for beams in (1, 5)
        )
        assert best[0].total > greedy[0].total - 1e-5
        better += best[0].total > greedy[0].total + 1e-3
    assert better >= 2


def test_never_finds_what_ending_early_misses() -> None:
    better = {True: 0, False: 0}
    for seed in range(12):
        model, options = letters(5, seed, std=1.0), {"beams": 2, "length_penalty": 2.0, "max_tokens": 12}
        (exact,) = found(model, 5, [[0, 3]], **options, early_stopping="never")
        for early_stopping in better:
            (other,) = found(model, 5, [[0, 3]], **options, early_stopping=early_stopping)
            assert score(exact[0], 2.0) >= score(other[0], 2.0)
            better[early_stopping] += score(exact[0], 2.0) > score(other[0], 2.0)
    assert min(better.values()) >= 1


def test_the_penalty_changes_what_is_searched_and_not_what_is_told() -> None:
    model = letters(6, seed=2)
    for prompt in ([0, 2, 3], [0, 1]):
        (hypotheses,) = found(model, 6, [prompt], beams=3, max_tokens=7, repetition_penalty=1.7)
        for one in hypotheses:
            assert one.log_probability == pytest.approx(log_probability(model, prompt, one.tokens), abs=1e-5)
            assert one.total == pytest.approx(log_probability(model, prompt, one.tokens, 1.7), abs=1e-5)
            assert one.total != pytest.approx(one.log_probability)


# --------------------------------------------------------------------------------------------- against transformers'

VOCABULARY = 12
FEW = list(product([-1.0, 0.6, 2.5], [True, False, "never"], [3]))
MANY = list(product([-1.0, 0.0, 0.4, 1.0, 1.5, 3.0], [True, False, "never"], [2, 4, 7, 16]))


def gpt2() -> tuple[Transformer, Any]:
    special = {"eos_token_id": 0, "bos_token_id": 0, "tie_word_embeddings": False}
    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32, "n_inner": 24, "vocab_size": VOCABULARY}
    theirs = randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **special)), std=0.15)
    with torch.no_grad():  # so that no token is the likeliest for ever, and the end is likely now and then
        theirs.transformer.ln_f.bias.zero_()
        theirs.transformer.ln_f.weight.fill_(1.0)
        theirs.lm_head.weight *= 4
        theirs.lm_head.weight[0] *= 3
    return families.gpt2(theirs), theirs


def t5() -> tuple[Transformer, Any]:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": VOCABULARY}
    special = {"eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0}
    theirs = randomised(transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **special)), std=0.6)
    return families.t5(theirs), theirs


@pytest.mark.parametrize("searches", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("family", [gpt2, t5])
def test_the_texts_are_those_of_transformers(family: Any, searches: list[tuple[float, Any, int]]) -> None:
    model, theirs = family()
    prompts = [[0, 5, 3, 7], [0, 2], [0, 11, 10, 9, 1, 4], [0]]
    padded_BT, valid_BT = padded(prompts, left=model.encoder is None)
    start = padded_BT.shape[1] if model.encoder is None else 1
    texts: list[set[tuple[int, ...]]] = [set() for _ in prompts]
    ends = set()
    for length_penalty, early_stopping, beams in searches:
        options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        out = theirs.generate(
            padded_BT,
            attention_mask=valid_BT,
            max_new_tokens=10,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        expected = [tuple(ids[: ids.index(0) + 1] if 0 in ids else ids) for ids in out.sequences[:, start:].tolist()]
        ours = found(model, VOCABULARY, prompts, beams=beams, max_tokens=10, **options)
        flat = [one for hypotheses in ours for one in hypotheses]
        assert [one.tokens for one in flat] == expected
        scores = [score(one, length_penalty) for one in flat]
        assert scores == pytest.approx(out.sequences_scores.tolist(), rel=1e-4, abs=1e-5)
        for told, hypotheses in zip(texts, ours, strict=True):
            told.add(hypotheses[0].tokens)
        ends |= {one.reason for one in flat}
    assert sum(map(len, texts)) >= 2 * len(prompts)  # the settings matter
    assert ends == {"end", "length"}


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    fillers = [[0] * (longest - len(row)) for row in rows]
    ids = [filler + row if left else row + filler for row, filler in zip(rows, fillers, strict=True)]
    valid = [
        [0] * len(filler) + [1] * len(row) if left else [1] * len(row) + [0] * len(filler)
        for row, filler in zip(rows, fillers, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(valid)


# ------------------------------------------------------------------------------------------------------ `generate`


def test_completions() -> None:
    told: list[tuple[int, str]] = []
    model = Scripted("abcdef")
    options = GenerationConfig(beams=3)
    one, two = generate(model, TOKENIZER, ["ab", "abcd"], options, on_text=lambda row, text: told.append((row, text)))
    assert (one.text, one.reason, one.seed, str(one), one.others) == ("cdef", "end", None, "abcdef", ())
    assert (two.text, two.reason) == ("ef", "end")
    assert sorted(told) == [(0, "cdef"), (1, "ef")]
    assert isinstance(generate(model, TOKENIZER, "ab", beams=2), Completion)
    assert generate(model, TOKENIZER, [], beams=2) == []
    answer = generate(Scripted("answer", **PAIR), TOKENIZER, "question", beams=2)
    assert (str(answer), answer.follows) == ("answer", False)


def test_the_next_best_are_told_when_asked_for() -> None:
    model = tiny()
    best = generate(model, TOKENIZER, PROMPTS, beams=4, max_tokens=6, n_best=3)
    assert [len(one.others) for one in best] == [2] * len(PROMPTS)
    assert best[0] != generate(model, TOKENIZER, PROMPTS[0], beams=4, max_tokens=6)
    for one in best:
        values = [each.log_probability / len(each.token_ids) for each in (one, *one.others)]
        assert values == sorted(values, reverse=True)
        assert {each.prompt for each in one.others} == {one.prompt}


@pytest.mark.parametrize("name", PAIRS)
def test_a_prompt_gives_alone_what_it_gives_in_a_batch(name: str) -> None:
    model = pair(name)
    options = GenerationConfig(beams=3, max_tokens=12, stop=tuple("aegmMsZ"), repetition_penalty=1.3)
    together = generate(model, TOKENIZER, PROMPTS, options)
    assert together == [generate(model, TOKENIZER, prompt, options) for prompt in PROMPTS]


def test_a_stop_string_ends_a_hypothesis() -> None:
    model = Scripted(">>one two STOP three")
    completion = generate(model, TOKENIZER, ">>", beams=2, stop=["STOP", "e t"])
    assert (completion.text, completion.reason) == ("on", "stop")
    assert TOKENIZER.decode(completion.token_ids) == "one t"
    completion = generate(model, TOKENIZER, ">>", beams=2, stop=["threes"])
    assert (completion.text, completion.reason) == ("one two STOP three", "end")  # held back, and then set free


def test_stopped_texts_are_searched_among_the_others() -> None:
    """As if the stop string were another end token."""
    vocab_size, longest = 4, 4
    model, prompt = letters(vocab_size, seed=5), [0, 2]
    texts = [(*body, last) for n in range(longest) for body in product((1, 3), repeat=n) for last in (0, 2)]
    texts += list(product((1, 3), repeat=longest))
    expected = {text: log_probability(model, prompt, text) / len(text) for text in texts}
    (hypotheses,) = found(model, vocab_size, [prompt], beams=len(texts), max_tokens=longest, stop=["b"])
    assert [one.tokens for one in hypotheses] == sorted(texts, key=expected.__getitem__, reverse=True)
    for one in hypotheses:
        assert one.reason == {0: "end", 2: "stop"}.get(one.tokens[-1], "length")
        assert "b" not in one.text


def test_characters_come_whole() -> None:
    assert generate(Scripted(">naïve 東京𝄞"), TOKENIZER, ">", beams=2).text == "naïve 東京𝄞"
    assert generate(Scripted(">a東"), TOKENIZER, ">", beams=2, max_tokens=3).text == "a\ufffd"


def test_it_ends_with_the_last_position() -> None:
    model = Transformer(config(position="learned", max_length=16), seed=3)
    long, short = generate(model, TOKENIZER, ["a" * 12, "a"], beams=3, max_tokens=50, early_stopping="never")
    assert (len(long.token_ids), long.reason) == (16 - 13 + 1, "length")
    assert (len(short.token_ids), short.reason) == (16 - 2 + 1, "length")
    with pytest.raises(DataError, match="learned positions end at 16; shorten it"):
        generate(model, TOKENIZER, "a" * 16, beams=2)


def test_rows_leave_when_their_search_ends() -> None:
    model = Scripted("abcdef")
    generate(model, TOKENIZER, ["abcde", "abc"], beams=2, early_stopping=True, max_tokens=8)
    assert model.batches[:2] == [2, 4]
    assert model.batches[-1] == 2


def test_a_broken_model_is_named_as_such() -> None:
    model = Transformer(config())
    with torch.no_grad():
        model.embedding.weight[5] = torch.nan
    with pytest.raises(RunError, match="not finite numbers"):
        generate(model, TOKENIZER, TOKENIZER.decode([5]), beams=2)


def test_tokens_that_are_forbidden_are_never_taken() -> None:
    model = letters(6, seed=1, head={"bias": True})
    with torch.no_grad():
        model.head.bias.zero_()
        model.head.bias[2:] = -torch.inf
    (hypotheses,) = found(model, 6, [[0, 3]], beams=4, max_tokens=3)
    assert {one.tokens for one in hypotheses} == {(0,), (1, 0), (1, 1, 0), (1, 1, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 2, "temperature": 0.7}, "temperature has no effect with beams, which draw nothing; leave it out"),
        ({"beams": 2, "top_k": 5}, "top_k has no effect with beams"),
        ({"beams": 2, "seed": 0}, "seed has no effect with beams"),
        ({"length_penalty": 0.5}, "length_penalty has no effect without beams; leave it out or set beams to 2 or more"),
        ({"early_stopping": True}, "early_stopping has no effect without beams"),
        ({"early_stopping": "soon", "beams": 2}, "early_stopping"),
        ({"beams": 2, "n_best": 3}, r"n_best \(3\) is more than there are beams \(2\)"),
        ({"beams": 0}, "beams: must be greater than or equal to 1"),
        ({"beams": 2, "length_penalty": math.nan}, "length_penalty: "),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(tiny(), TOKENIZER, "a", **options)


def test_options_that_agree_are_taken() -> None:
    assert GenerationConfig(beams=2, temperature=0, top_k=None, seed=None, length_penalty=0, early_stopping="never")
    assert GenerationConfig(length_penalty=1, early_stopping=False, n_best=1)
