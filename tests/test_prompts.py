"""The two prompts: what stands in each, whatever question and answer hold."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from expo_lite.prompts import encode_explanation, encode_question, explanation_text, question_text
from expo_lite.records import Problem
from expo_lite.settings.models import PRESETS

ODD = ["{answer}", "{}", "{0} and {question}", "%s", "$x \\in \\{1, 2\\}$", "a\nb\n", "😀 ä", "\\boxed{7}"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(PRESETS["tiny"].source, local_files_only=True)


@pytest.mark.parametrize("text", ODD)
def test_question_and_answer_stand_in_it_as_they_are(text: str, tokenizer: Any) -> None:
    problem = Problem("p", f"  What of {text}?\n", f"<{text}>")
    assert question_text(problem).startswith(f"What of {text}?\n")
    assert f"<{text}>" not in question_text(problem)
    assert explanation_text(problem).startswith(f"What of {text}?\n")
    assert f"The correct answer is <{text}>." in explanation_text(problem)
    for rendered in (question_text(problem), explanation_text(problem)):
        assert rendered.endswith("within \\boxed{}.")
    assert f"What of {text}?" in tokenizer.decode(encode_question(tokenizer, problem))
    assert f"<{text}>" in tokenizer.decode(encode_explanation(tokenizer, problem))


def test_both_end_where_the_assistant_begins(tokenizer: Any) -> None:
    problem = Problem("p", "1 + 1?", "2")
    for ids in (encode_question(tokenizer, problem), encode_explanation(tokenizer, problem)):
        text = tokenizer.decode(ids)
        assert text.startswith("<|im_start|>user\n1 + 1?")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert isinstance(ids, tuple)
        assert all(isinstance(token, int) for token in ids)


def test_the_answer_is_the_only_difference_that_the_answer_makes(tokenizer: Any) -> None:
    one, other = Problem("p", "1 + 1?", "2"), Problem("p", "1 + 1?", "33")
    assert encode_question(tokenizer, one) == encode_question(tokenizer, other)
    assert explanation_text(one).replace(" 2.", " 33.") == explanation_text(other)


class Recording:
    """A tokenizer that notes how it is asked."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> list[int]:
        self.asked = conversation, kwargs
        return [1, 2]


def test_a_thinking_model_is_asked_not_to() -> None:
    recording = Recording()
    assert encode_question(recording, Problem("p", "1 + 1?", "2")) == (1, 2)
    conversation, kwargs = recording.asked
    assert [turn["role"] for turn in conversation] == ["user"]  # no system turn: the template may have its own
    assert kwargs["enable_thinking"] is False
    assert kwargs["add_generation_prompt"] is True
