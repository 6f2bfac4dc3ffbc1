"""Answers of a model to a conversation."""

import pytest

from sublayer.data.chat import PLAIN
from sublayer.data.tokenizer import BytesConfig, Tokenizer
from sublayer.errors import DataError
from sublayer.generation import Completion, generate

from .models import BYTE_ID, Scripted


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = BytesConfig().build(lambda: iter(()))
    tokenizer.chat_template = PLAIN
    return tokenizer


def test_an_answer_alone_up_to_the_end_token(tokenizer: Tokenizer) -> None:
    model = Scripted("system:\nBe brief.|user:\nWho?|assistant:\nMe.")  # a bar for each end token read
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Who? "}]
    told: list[str] = []
    completion = generate(model, tokenizer, messages, temperature=0, on_text=lambda row, text: told.append(text))
    assert isinstance(completion, Completion)
    assert (completion.text, completion.reason) == ("Me.", "end")
    assert completion.prompt == "system:\nBe brief.user:\nWho?assistant:\n"
    assert completion.token_ids == (*(BYTE_ID[byte] for byte in b"Me."), tokenizer.end_id)
    assert "".join(told) == "Me."


def test_a_conversation_without_a_template_or_a_question_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="an answer as its last message"):
        generate(Scripted("a"), tokenizer, [{"role": "assistant", "content": "a"}])
    with pytest.raises(DataError, match="a role that is none of system"):
        generate(Scripted("a"), tokenizer, [{"role": "me", "content": "a"}])
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="carries no chat template"):
        generate(Scripted("a"), tokenizer, [{"role": "user", "content": "a"}])
