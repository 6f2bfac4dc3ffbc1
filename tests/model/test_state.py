"""The decoding state: what it refuses, what it keeps, and how much memory that takes.

That decoding equals a full pass is shown in tests/properties/test_decoding.py.
"""

import pytest
import torch

from sublayer.model import Layout, ModelConfig, State, Transformer
from sublayer.model.attention.memory import KeyValueMemory


def model(window: int | None = None, **changes: object) -> Transformer:
    attention: dict[str, object] = {"n_heads": 4, "n_kv_heads": 2}
    if window is not None:
        attention["pattern"] = {"kind": "window", "size": window}
    values: dict[str, object] = {"vocab_size": 7, "d_model": 16, "n_layers": 2, "max_length": 32}
    return Transformer(ModelConfig(**values | {"attention": attention} | changes)).double()


def memories(state: State) -> list[KeyValueMemory]:
    return [memory for layer in state.layers for memory in layer if isinstance(memory, KeyValueMemory)]


def tokens(rows: int, n_tokens: int) -> torch.Tensor:
    return torch.randint(0, 7, (rows, n_tokens), generator=torch.Generator().manual_seed(0))


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_full_state_says_what_it_holds_and_what_came() -> None:
    transformer = model()
    state = transformer.init_state(1, 6)
    transformer(tokens(1, 4), state=state)
    with pytest.raises(
        ValueError, match=r"holds 4 tokens and 3 more came, but it has room for 6: make it with a larger"
    ):
        transformer(tokens(1, 3), state=state)
    assert state.length_B.tolist() == [4]
    transformer(tokens(1, 2), state=state)
    with pytest.raises(ValueError, match=r"holds 6 tokens and 1 more came"):
        transformer(tokens(1, 1), state=state)


def test_room_is_counted_by_row_and_padding_takes_none() -> None:
    transformer = model()
    state = transformer.init_state(2, 6)
    transformer(tokens(2, 5), Layout.ragged([5, 1]), state=state)
    transformer(tokens(2, 5), Layout.ragged([1, 5]), state=state)
    assert state.length_B.tolist() == [6, 6]
    with pytest.raises(ValueError, match=r"holds 6 tokens and 1 more came"):
        transformer(tokens(2, 2), Layout(valid_BT=torch.tensor([[False, False], [True, False]])), state=state)
    transformer(tokens(2, 2), Layout(valid_BT=torch.zeros(2, 2, dtype=torch.bool)), state=state)
    assert state.length_B.tolist() == [6, 6]


@pytest.mark.parametrize(
    ("n_tokens", "sentence"),
    [
        (3, r"rewind\(3\): the state takes back 0 to 2 tokens; make it with a larger max_rewind\."),
        (-1, r"rewind\(-1\): the state takes back 0 to 2 tokens"),
        (torch.tensor([0, 3]), r"rewind\(3\): the state takes back 0 to 2 tokens"),
    ],
)
def test_a_rewind_too_far_is_refused(n_tokens: int | torch.Tensor, sentence: str) -> None:
    transformer = model()
    state = transformer.init_state(2, 8, max_rewind=2)
    transformer(tokens(2, 5), state=state)
    with pytest.raises(ValueError, match=sentence):
        state.rewind(n_tokens)
    assert state.length_B.tolist() == [5, 5]


def test_a_row_cannot_give_back_more_than_it_holds() -> None:
    transformer = model()
    state = transformer.init_state(2, 8, max_rewind=4)
    transformer(tokens(2, 5), Layout.ragged([5, 1]), state=state)
    with pytest.raises(ValueError, match=r"rewind\(2\): a row holds only 1 tokens"):
        state.rewind(2)
    state.rewind(torch.tensor([2, 1]))
    assert state.length_B.tolist() == [3, 0]


def test_rewinding_again_and_again_is_measured_from_the_furthest() -> None:
    """A ring of a window of 3 and a rewind of 2 holds five keys: of the tokens before them nothing is left."""
    transformer = model(window=3)
    state = transformer.init_state(1, 30, max_rewind=2)
    transformer(tokens(1, 12), state=state)
    state.rewind(1)
    state.rewind(1)
    with pytest.raises(ValueError, match=r"would be 3 tokens back with what was taken back before; make it with a la"):
        state.rewind(1)
    transformer(tokens(1, 3), state=state)
    state.rewind(2)


def test_an_encoder_has_no_decoding_state() -> None:
    with pytest.raises(ValueError, match=r"an encoder does not decode"):
        model(stack="encoder").init_state(1)


@pytest.mark.parametrize("max_rewind", [1, 2, 3, 5])
@pytest.mark.parametrize("by_row", [False, True])
def test_tokens_taken_back_and_decoded_anew_are_as_if_they_had_never_been(max_rewind: int, by_row: bool) -> None:
    transformer = model(window=3)
    state = transformer.init_state(2, 30, max_rewind=max_rewind)
    ids, other = tokens(2, 16), (tokens(2, 16) + 1) % 7
    transformer(ids[:, :7], state=state)
    transformer(other[:, 7:12], state=state)
    state.rewind(torch.full((2,), max_rewind) if by_row else max_rewind)
    start = 12 - max_rewind
    row = torch.cat([ids[:, :7], other[:, 7:12]], 1)[:, :start]
    again = transformer(ids[:, start:], state=state).logits
    torch.testing.assert_close(again, transformer(torch.cat([row, ids[:, start:]], 1)).logits[:, start:])


# ----------------------------------------------------------------------------------------------------------- memory


def test_a_window_keeps_a_ring_of_its_size_however_long_the_row() -> None:
    transformer = model(window=4)
    short, long = transformer.init_state(2, 8), transformer.init_state(2, 4000)
    assert [memory.n_bytes for memory in memories(short)] == [memory.n_bytes for memory in memories(long)]
    # 2 (keys and values) · 2 rows · 2 key/value heads · (4 slots and a spare one) · 4 wide · 8 bytes, in each layer
    assert [memory.n_bytes for memory in memories(long)] == [2 * 2 * 2 * 5 * 4 * 8] * 2
    held = [memory.k_BGCK for memory in memories(long)]
    for _ in range(20):
        transformer(tokens(2, 9), state=long)
    assert [memory.k_BGCK.data_ptr() for memory in memories(long)] == [k.data_ptr() for k in held]


def test_full_attention_keeps_every_token() -> None:
    state = model().init_state(3, 20)
    assert [memory.n_bytes for memory in memories(state)] == [2 * 3 * 2 * 21 * 4 * 8] * 2
    assert not any(memory.ring for memory in memories(state))


def test_a_ring_has_room_for_what_may_be_taken_back() -> None:
    state = model(window=4).init_state(1, 20, max_rewind=3)
    assert [memory.capacity for memory in memories(state)] == [7, 7]


@pytest.mark.parametrize("max_rewind", [0, 3])
def test_sinks_are_kept_beside_the_ring_however_long_the_row(max_rewind: int) -> None:
    transformer = model(attention={"n_heads": 2, "pattern": {"kind": "window", "size": 4, "sinks": 2}})
    short, long = (transformer.init_state(2, length, max_rewind=max_rewind) for length in (20, 4000))
    slots = 4 + 2 if max_rewind == 0 else 4 + 3 + 2 + 3  # of each kind as many more as may be taken back
    for state in (short, long):
        assert [(memory.ring, memory.capacity, memory.pinned) for memory in memories(state)] == [(True, slots, 2)] * 2
        assert [memory.n_bytes for memory in memories(state)] == [2 * 2 * 2 * (slots + 1) * 8 * 8] * 2
    ids = tokens(2, 60)
    expected = transformer(ids).logits
    cut = [1, 1, 1, 9, 1, 20, 1, 1, 1, 1, 1, 1, 1, 20]
    steps = [transformer(part, state=long).logits for part in torch.split(ids, cut, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), expected)
    held = memories(long)[0].k_BGCK[:, :, :2].clone()
    transformer(tokens(2, 30), state=long)
    assert torch.equal(memories(long)[0].k_BGCK[:, :, :2], held)


def test_a_document_taken_back_gives_its_sinks_back() -> None:
    """A new document's first tokens do not overwrite those of the one that a rewind returns to."""
    transformer = model(attention={"n_heads": 2, "pattern": {"kind": "window", "size": 3, "sinks": 2}})
    state = transformer.init_state(1, 40, max_rewind=4)
    ids, other = tokens(1, 12), (tokens(1, 4) + 1) % 7
    transformer(ids[:, :9], Layout(document_BT=torch.zeros(1, 9, dtype=torch.int64)), state=state)
    for t in range(4):  # two documents of two tokens each
        transformer(other[:, t : t + 1], Layout(document_BT=torch.tensor([[1 + t // 2]])), state=state)
    state.rewind(4)
    again = transformer(ids[:, 9:], Layout(document_BT=torch.zeros(1, 3, dtype=torch.int64)), state=state).logits
    torch.testing.assert_close(again, transformer(ids).logits[:, 9:])


def test_a_ring_no_smaller_than_the_row_is_no_ring() -> None:
    state = model(window=8).init_state(1, 8)
    assert [(memory.ring, memory.capacity) for memory in memories(state)] == [(False, 8)] * 2


def test_each_layer_keeps_what_its_own_pattern_needs() -> None:
    transformer = model(window=4, layers=[{}, {"attention": {"pattern": "full"}}])
    state = transformer.init_state(1, 20)
    assert [(memory.ring, memory.capacity) for memory in memories(state)] == [(True, 4), (False, 20)]


def test_slots_of_a_ring_hold_the_last_keys() -> None:
    """After tokens one at a time and after one long chunk, the same keys lie in the same slots."""
    transformer = model(window=4, position="none", n_layers=1)
    single, whole = transformer.init_state(1, 30), transformer.init_state(1, 30)
    ids = tokens(1, 11)
    for t in range(11):
        transformer(ids[:, t : t + 1], state=single)
    transformer(ids, state=whole)
    one, other = memories(single)[0].k_BGCK[:, :, :4], memories(whole)[0].k_BGCK[:, :, :4]
    assert torch.allclose(one, other)
    attention = transformer.blocks[0].attention
    x = transformer.blocks[0].residual.norms[0](transformer.embedding(ids, Layout(), transformer.position(0)))
    keys = attention.key(x).view(1, 11, 2, 4).transpose(1, 2)
    for ordinal in range(7, 11):
        assert torch.allclose(one[:, :, ordinal % 4], keys[:, :, ordinal])


def test_caches_may_be_narrower_than_the_model() -> None:
    transformer = model().float()
    state = transformer.init_state(1, 8, dtype=torch.bfloat16)
    assert {memory.k_BGCK.dtype for memory in memories(state)} == {torch.bfloat16}
    ids = tokens(1, 5)
    logits = torch.cat([transformer(ids[:, t : t + 1], state=state).logits for t in range(5)], 1)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, transformer(ids).logits, atol=0.02)


def test_select_may_name_a_row_twice() -> None:
    transformer = model(window=3)
    state = transformer.init_state(2, 12)
    ids = tokens(2, 6)
    transformer(ids, state=state)
    state.select([1, 1, 0])
    assert state.batch_size == 3
    step = tokens(3, 1)
    logits = transformer(step, state=state).logits[:, 0]
    for row, source in enumerate([1, 1, 0]):
        alone = transformer(torch.cat([ids[source], step[row]])[None]).logits[0, -1]
        assert torch.allclose(logits[row], alone)
