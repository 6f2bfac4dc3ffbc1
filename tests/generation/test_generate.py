from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sublayer.errors import ConfigError, DataError, RunError
from sublayer.generation import Completion, GenerationConfig, decode, generate
from sublayer.generation.decoding import Event
from sublayer.generation.sampling import distribution, penalised
from sublayer.model import Transformer

from .models import BYTE_ID, MODELS, TOKENIZER, Scripted, config, tiny

PROMPTS = ["def read_lines(", "", "a", "the quick brown fox jumps", "of human events"]
END = TOKENIZER.end_id


@torch.inference_mode()
def full_passes(model: Transformer, prompt: str, n_tokens: int) -> list[int]:
    """Greedy decoding that remembers nothing: each token from a pass over all before it."""
    ids = TOKENIZER.encode(prompt)
    start = len(ids)
    while len(ids) < start + n_tokens and END not in ids[start:]:
        logits = model(torch.tensor([ids])).logits
        assert logits is not None
        ids.append(int(logits[0, -1, : TOKENIZER.vocab_size].argmax()))
    return ids[start:]


class Told:
    """What `on_text` was told, by row."""

    def __init__(self) -> None:
        self.pieces: dict[int, list[str]] = {}

    def __call__(self, row: int, text: str) -> None:
        self.pieces.setdefault(row, []).append(text)

    def text(self, row: int) -> str:
        return "".join(self.pieces.get(row, []))


@pytest.mark.parametrize("name", MODELS)
def test_cached_greedy_decoding_is_that_of_full_passes(name: str) -> None:
    model = tiny(name)
    completions = generate(model, TOKENIZER, PROMPTS, temperature=0, max_tokens=24)
    expected = [full_passes(model, prompt, 24) for prompt in PROMPTS]
    assert [list(completion.token_ids) for completion in completions] == expected
    assert len({token for ids in expected for token in ids}) > 10  # neither one token for ever, nor one for all


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_gives_alone_what_it_gives_in_a_batch(name: str, temperature: float) -> None:
    model, told = tiny(name), Told()
    options = GenerationConfig(temperature=temperature, max_tokens=20, repetition_penalty=1.2, top_p=0.98)
    together = generate(model, TOKENIZER, PROMPTS, options, seed=11, on_text=told)
    alone = [generate(model, TOKENIZER, one.prompt, options, seed=one.seed) for one in together]
    assert together == alone
    assert [told.text(row) for row in range(len(PROMPTS))] == [one.text for one in together]
    assert together[0].seed == 11
    # More rows behind them change none either.
    assert generate(model, TOKENIZER, PROMPTS[:2], options, seed=11) == together[:2]


@pytest.mark.parametrize("name", ["rope", "window, learned", "window and full"])
def test_rows_that_have_ended_leave_the_batch_and_disturb_none(name: str) -> None:
    model = Transformer(config(**MODELS[name]), seed=3)
    with torch.no_grad():
        model.head.output.weight[END] *= 5  # so that the end is likely wherever it is not most unlikely
    prompts = [letter * n for n, letter in enumerate("abcdefghijklmnop", start=1)]
    options = GenerationConfig(temperature=1.5, max_tokens=30)
    together = generate(model, TOKENIZER, prompts, options, seed=2)
    assert len({len(one.token_ids) for one in together}) > 5
    assert {one.reason for one in together} == {"end", "length"}
    assert together == [generate(model, TOKENIZER, one.prompt, options, seed=one.seed) for one in together]


def test_the_work_shrinks_with_the_batch() -> None:
    model = Scripted("abcdef")
    completions = generate(model, TOKENIZER, ["abcde", "abc", "abcd"], temperature=0)
    assert [one.text for one in completions] == ["f", "def", "ef"]
    assert [one.reason for one in completions] == ["end"] * 3
    # A pass gives each row a token: the first two; then one row leaves a pass.
    assert model.batches == [3, 3, 2, 1]


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    model = tiny()
    first, again, other = (generate(model, TOKENIZER, "x", seed=seed, temperature=1.0) for seed in (1, 1, 2))
    assert first == again
    assert first.text != other.text


def test_a_seed_that_nobody_chose_is_named() -> None:
    model = tiny()
    first, second = (generate(model, TOKENIZER, "x", temperature=1.0) for _ in range(2))
    assert first.seed != second.seed
    assert generate(model, TOKENIZER, "x", temperature=1.0, seed=first.seed) == first


def test_more_tokens_go_on_from_fewer() -> None:
    model = tiny()
    short, long = (generate(model, TOKENIZER, "x", temperature=1.0, seed=4, max_tokens=n) for n in (10, 30))
    assert long.token_ids[:10] == short.token_ids
    assert len(long.token_ids) > 10


def test_the_callers_randomness_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    generate(tiny(), TOKENIZER, "x", max_tokens=5)
    assert torch.random.get_rng_state().equal(before)


def test_top_k_of_one_is_greedy() -> None:
    greedy, first = (
        generate(tiny(), TOKENIZER, PROMPTS, max_tokens=20, seed=0, **options)
        for options in ({"temperature": 0}, {"temperature": 2.0, "top_k": 1})
    )
    assert greedy == first


@torch.inference_mode()
def test_the_penalty_is_on_what_was_read_and_drawn_but_not_on_the_end() -> None:
    model, options = (
        Transformer(config(), seed=3),
        GenerationConfig(temperature=0, repetition_penalty=1.8, max_tokens=30),
    )
    model.head.output.weight[END] *= 2  # so likely that it is drawn, and would not be with a penalty on it
    found = generate(model, TOKENIZER, PROMPTS, options)
    for completion in found:
        ids = TOKENIZER.encode(completion.prompt)
        start = len(ids)
        while len(ids) < start + 30 and END not in ids[start:]:
            logits = model(torch.tensor([ids])).logits[0, -1].tolist()
            for token in set(ids) - {END}:
                logits[token] = logits[token] / 1.8 if logits[token] > 0 else logits[token] * 1.8
            ids.append(logits.index(max(logits)))
        assert list(completion.token_ids) == ids[start:]
    assert "end" in {one.reason for one in found}
    plain = generate(model, TOKENIZER, PROMPTS, options, repetition_penalty=1.0)
    assert [one.token_ids for one in plain] != [one.token_ids for one in found]


def test_draws_have_the_models_frequencies() -> None:
    model, draws = tiny(), 4000
    options = GenerationConfig(temperature=0.7, top_k=6, max_tokens=1, repetition_penalty=1.3)
    tokens = [one.token_ids[0] for one in generate(model, TOKENIZER, ["ab"] * draws, options, seed=0)]
    with torch.inference_mode():
        ids = TOKENIZER.encode("ab")
        logits: Tensor = model(torch.tensor([ids])).logits[:, -1]
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[0, ids[1:]] = True
    expected = distribution(penalised(logits, seen, 1.3), options)[0]
    found = torch.bincount(torch.tensor(tokens), minlength=len(expected)) / draws
    assert (found - expected).abs().max() < 5 * (0.25 / draws) ** 0.5
    assert int((expected > 0.02).sum()) > 2


@pytest.mark.parametrize(
    ("stop", "expected", "reason"),
    [
        (["STOP"], "one two ", "stop"),
        (["STOPPED"], "one two STOP three", "end"),  # held back, and then set free
        (["two", "STOP"], "one ", "stop"),
        (["o STOP t", "P"], "one two STO", "stop"),
        (["threes"], "one two STOP three", "end"),  # the end comes while it is held back
    ],
)
def test_stop_strings(stop: list[str], expected: str, reason: str) -> None:
    model, told = Scripted(">>one two STOP three"), Told()
    completion = generate(model, TOKENIZER, ">>", temperature=0, stop=stop, on_text=told)
    assert completion.text == expected
    assert completion.reason == reason
    assert told.text(0) == expected
    assert all(told.pieces[0])
    assert TOKENIZER.decode(completion.token_ids).startswith(expected)


def test_nothing_is_drawn_after_a_stop_string() -> None:
    completion = generate(Scripted(">>one two"), TOKENIZER, ">>", temperature=0, stop="e t")
    assert TOKENIZER.decode(completion.token_ids) == "one t"


def test_a_stop_string_in_the_prompt_stops_nothing() -> None:
    completion = generate(Scripted("ab.cd"), TOKENIZER, "ab.", temperature=0, stop=".")
    assert (completion.text, completion.reason) == ("cd", "end")
    # Nor does one that began there: only what is drawn counts.
    assert generate(Scripted("ab.cd"), TOKENIZER, "ab", temperature=0, stop="b.").text == ".cd"


def test_a_held_back_beginning_is_given_out_at_max_tokens() -> None:
    told = Told()
    completion = generate(Scripted("abcdef"), TOKENIZER, "a", temperature=0, stop="def", max_tokens=4, on_text=told)
    assert (completion.text, completion.reason) == ("bcde", "length")
    assert told.pieces[0] == ["b", "c", "de"]


def test_characters_come_whole() -> None:
    told = Told()
    completion = generate(Scripted(">naïve 東京𝄞"), TOKENIZER, ">", temperature=0, on_text=told)
    assert completion.text == "naïve 東京𝄞"
    assert told.pieces[0] == list("naïve 東京𝄞")
    assert len(completion.token_ids) == len("naïve 東京𝄞".encode()) + 1


def test_a_character_that_is_cut_off_reads_as_the_tokenizer_reads_it() -> None:
    told = Told()
    completion = generate(Scripted(">a東"), TOKENIZER, ">", temperature=0, max_tokens=3, on_text=told)
    assert completion.text == "a\ufffd" == TOKENIZER.decode(completion.token_ids) == told.text(0)
    # Bytes that are no character at all, then text.
    completion = generate(Scripted(b">\xe6\xe6b"), TOKENIZER, ">", temperature=0, on_text=told)
    assert completion.text == "\ufffd\ufffdb" == TOKENIZER.decode(completion.token_ids)


def test_the_end_token_ends() -> None:
    completion = generate(Scripted("abc"), TOKENIZER, "a", temperature=0)
    assert completion == Completion("a", "bc", (BYTE_ID[ord("b")], BYTE_ID[ord("c")], END), "end", completion.seed)
    assert str(completion) == "abc"


def test_the_end_at_once() -> None:
    told = Told()
    completion = generate(Scripted("abc"), TOKENIZER, "abc", temperature=0, on_text=told)
    assert (completion.text, completion.token_ids, completion.reason) == ("", (END,), "end")
    assert told.pieces == {}


def test_max_tokens() -> None:
    completion = generate(Scripted("abcdef"), TOKENIZER, "a", temperature=0, max_tokens=3)
    assert (completion.text, completion.reason, len(completion.token_ids)) == ("bcd", "length", 3)


def test_a_model_without_a_last_position_goes_beyond_its_max_length() -> None:
    model = tiny("rope")
    assert len(generate(model, TOKENIZER, "a" * 50, temperature=0, max_tokens=20).token_ids) == 20
    assert model.config.max_length < 50


def test_it_ends_with_the_last_position() -> None:
    model = Transformer(config(position="learned", max_length=16), seed=3)
    long, short = generate(model, TOKENIZER, ["a" * 12, "a"], temperature=0, max_tokens=50)
    # 16 positions are read (the first by the token that begins a document), and one more token drawn from the last.
    assert (len(long.token_ids), long.reason) == (16 - 13 + 1, "length")
    assert (len(short.token_ids), short.reason) == (16 - 2 + 1, "length")
    assert list(short.token_ids) == full_passes(model, "a", 15)
    assert len(generate(model, TOKENIZER, "a" * 15, temperature=0).token_ids) == 1  # as many as there are positions


def test_a_prompt_beyond_the_last_position_is_refused() -> None:
    model = Transformer(config(position="learned", max_length=16))
    with pytest.raises(DataError) as caught:
        generate(model, TOKENIZER, "a" * 16)
    assert str(caught.value) == "the prompt has 17 tokens, but the model's learned positions end at 16; shorten it."
    with pytest.raises(DataError, match=r"^prompt 2 of 3 has 31 tokens, but the model's learned positions end at 16"):
        generate(model, TOKENIZER, ["a", "a" * 30, "b" * 40])


def test_an_encoder_is_refused() -> None:
    model = Transformer(config(stack="encoder"))
    with pytest.raises(
        ConfigError, match=r"^stack: an encoder goes on from no text, but .*stack: decoder or encoder_decoder\.$"
    ):
        generate(model, TOKENIZER, "a")


def test_another_models_tokenizer_is_refused() -> None:
    with pytest.raises(DataError, match="257 tokens, but the model only 100"):
        generate(Transformer(config(vocab_size=100)), TOKENIZER, "a")


def test_tokens_that_the_tokenizer_does_not_know_are_never_drawn() -> None:
    model = Transformer(config(vocab_size=TOKENIZER.vocab_size + 200), seed=3)
    for temperature in (0.0, 5.0):
        completions = generate(model, TOKENIZER, PROMPTS, temperature=temperature, seed=0, max_tokens=20)
        assert max(max(one.token_ids) for one in completions) < TOKENIZER.vocab_size
    # Which it would otherwise have been: the model likes one of them best somewhere.
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENIZER.encode("a quick fox")])).logits
    assert bool((logits.argmax(-1) >= TOKENIZER.vocab_size).any())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_named_as_such(temperature: float) -> None:
    model = Transformer(config())
    with torch.no_grad():
        model.embedding.weight[5] = torch.nan
    with pytest.raises(RunError, match="not finite numbers"):
        generate(model, TOKENIZER, TOKENIZER.decode([5]), temperature=temperature)


def test_an_empty_prompt_begins_a_document() -> None:
    completion = generate(Scripted("abc"), TOKENIZER, "", temperature=0)
    assert (completion.prompt, completion.text, str(completion)) == ("", "abc", "abc")
    events = list(decode(Scripted("abc"), TOKENIZER, [[]], GenerationConfig(temperature=0), [0]))
    assert events == [
        *(Event(0, BYTE_ID[ord(letter)], letter) for letter in "abc"),
        Event(0, END, "", "end"),
    ]


def test_no_prompts_no_completions() -> None:
    assert generate(tiny(), TOKENIZER, []) == []


def test_one_text_gives_one_and_a_list_a_list() -> None:
    assert isinstance(generate(tiny(), TOKENIZER, "a", max_tokens=2), Completion)
    assert [type(one) for one in generate(tiny(), TOKENIZER, ["a"], max_tokens=2)] == [Completion]


def test_options_go_over_those_of_the_config() -> None:
    base = GenerationConfig(temperature=0, max_tokens=3)
    assert generate(Scripted("abcdef"), TOKENIZER, "a", base).text == "bcd"
    assert generate(Scripted("abcdef"), TOKENIZER, "a", base, max_tokens=2).text == "bc"
    with pytest.raises(ConfigError, match="did you mean 'max_tokens'"):
        generate(tiny(), TOKENIZER, "a", base, max_token=2)


def test_the_model_works_in_evaluation_mode_and_gets_its_own_back() -> None:
    model = Scripted("abc", dropout=0.5).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    generate(model, TOKENIZER, "a", temperature=0)
    assert set(model.modes) == {(False, False)}
    assert [module.training for module in model.modules()] == modes

    def fail(row: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, TOKENIZER, "a", temperature=0, on_text=fail)
    assert [module.training for module in model.modules()] == modes


def test_between_two_tokens_the_caller_may_train() -> None:
    # A generator that held inference mode open would spoil every tensor its caller makes meanwhile.
    events: Iterator[Event] = decode(tiny(), TOKENIZER, [[END]], GenerationConfig(max_tokens=5), [0])
    next(events)
    assert not torch.is_inference_mode_enabled()
    weight = torch.ones(3, requires_grad=True)
    weight.square().sum().backward()
    assert weight.grad is not None


@torch.inference_mode()
def test_log_probabilities_are_those_of_a_full_pass() -> None:
    model = Transformer(config(vocab_size=TOKENIZER.vocab_size + 9), seed=3)
    for one in generate(model, TOKENIZER, PROMPTS, seed=5, temperature=1.4, top_k=40, repetition_penalty=1.5):
        prompt = TOKENIZER.encode(one.prompt)
        ids = torch.tensor([[*prompt, *one.token_ids]])
        logits = model(ids[:, :-1]).logits[:, len(prompt) - 1 :, : TOKENIZER.vocab_size]
        expected = logits.log_softmax(-1).gather(2, ids[:, len(prompt) :, None]).sum()
        assert one.log_probability == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, r"^to go on from there is 5; give a text, a list of texts, or a conversation as a list of messages\.$"),
        (None, r"^to go on from there is None; give a text"),
        (["a", 5], r"^item 2 of 2 to go on from is 5; give a text"),
        ({"role": "user", "content": "a"}, r"^to go on from there is \{'role': 'user', 'content': 'a'\}; give a text"),
        ([{"role": "user", "content": "a"}, "a"], r"^item 1 of 2 to go on from is \{'role"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        generate(tiny(), TOKENIZER, prompt)
