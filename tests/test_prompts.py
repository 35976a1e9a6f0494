"""The two prompts: what stands in each, whatever question and answer hold."""

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from expo_lite.errors import ConfigError, DataError
from expo_lite.memory.limits import fitting
from expo_lite.prompts import (
    encode_explanation,
    encode_question,
    explanation_turns,
    question_turns,
    read_prompts,
    system_turn,
)
from expo_lite.records import Problem, Prompts
from expo_lite.settings.models import PRESETS

ODD = ["{answer}", "{0} and {question}", "$x \\in \\{1, 2\\}$", "a\nb\n😀"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(PRESETS["tiny"].source, local_files_only=True)


def question_text(problem: Problem) -> str:
    (turn,) = question_turns(problem)
    return turn["content"]


def explanation_text(problem: Problem) -> str:
    (turn,) = explanation_turns(problem)
    return turn["content"]


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


OWN = "--- system\nYou count.\n--- user\n1 and 1?\n--- assistant\n\\boxed{2}\n--- user\n{question} Box it: \\boxed{}.\n"


def asked(tmp_path: Path, question: str | None, explanation: str | None) -> Prompts:
    """Prompts of these texts, by way of files."""
    files = []
    for name, text in (("question.txt", question), ("explanation.txt", explanation)):
        if text is not None:
            (tmp_path / name).write_text(text)
        files.append(None if text is None else tmp_path / name)
    return read_prompts(*files)


def test_a_question_prompt_of_ones_own(tmp_path: Path) -> None:
    problem = Problem("p", "What is {answer} + 0?", "7", prompts=asked(tmp_path, OWN, None))
    system = {"role": "system", "content": "You count."}
    assert question_turns(problem) == [
        system,
        {"role": "user", "content": "1 and 1?"},
        {"role": "assistant", "content": "\\boxed{2}"},
        {"role": "user", "content": "What is {answer} + 0? Box it: \\boxed{}."},  # what is filled in is not read again
    ]
    assert system_turn(problem.prompts) == [system]
    explained = explanation_turns(problem)
    assert explained[0] == system  # the examples are without an answer shown, and stay with the question
    assert [turn["role"] for turn in explained] == ["system", "user"]
    assert explained[1]["content"].startswith("What is {answer} + 0?\nThe correct answer is 7.")


def test_an_explanation_prompt_of_ones_own(tmp_path: Path, tokenizer: Any) -> None:
    example = "--- user\nWhat is 1 + 1? (It is 2.)\n--- assistant\n1 + 1 = \\boxed{2}\n"
    problem = Problem("p", "What is {answer} + 0?", "7")
    own = asked(tmp_path, None, example + "--- user\n{question} (It is {answer}.)\n")
    turns = explanation_turns(Problem("p", problem.question, "7", prompts=own))
    assert turns == [
        {"role": "user", "content": "What is 1 + 1? (It is 2.)"},
        {"role": "assistant", "content": "1 + 1 = \\boxed{2}"},
        {"role": "user", "content": "What is {answer} + 0? (It is 7.)"},
    ]
    assert "It is 7." in tokenizer.decode(encode_explanation(tokenizer, Problem("p", "?", "7", prompts=own)))
    both = asked(tmp_path, OWN, "--- system\nYou explain.\n--- user\n{question} {answer}")
    assert explanation_turns(Problem("p", "?", "7", prompts=both))[0]["content"] == "You explain."
    assert read_prompts(None, None) == Prompts()


@pytest.mark.parametrize(
    ("question", "explanation", "message"),
    [
        (None, "Explain {question}.", r"explanation prompt .* lacks \{answer\}"),
        ("Solve it.", None, r"question prompt .* lacks \{question\}"),
        ("--- user\nIt is {answer}.\n--- assistant\nOh.\n--- user\n{question}", None, "must not see"),
        ("--- user\n{question}\n--- system\nCount.\n--- user\n{question}", None, "system's turn that is not the first"),
        ("--- system\n{question}", None, "ends with the system's turn"),
    ],
)
def test_a_prompt_that_cannot_be_used(
    question: str | None, explanation: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(tmp_path, question, explanation)
    with pytest.raises(ConfigError, match="No such file"):
        read_prompts(tmp_path / "none.txt", None)


class Gemma:
    """A tokenizer whose template knows no system's turn, as Gemma's does."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **_: Any) -> list[int]:
        if conversation[0]["role"] == "system":
            raise TemplateError("System role not supported")
        return [1]


def test_a_template_without_a_system_turn_is_an_error_that_says_so() -> None:
    own = Prompts(question="--- system\nYou count.\n--- user\n{question}")
    assert encode_question(Gemma(), Problem("p", "?", "7")) == (1,)
    with pytest.raises(ConfigError, match=r"turns system, user: System role not supported\. Change the file"):
        encode_question(Gemma(), Problem("p", "?", "7", prompts=own))


def test_the_longer_prompt_must_fit_into_the_context(tokenizer: Any) -> None:
    long = "--- user\n" + "1 + 1? " * 100 + "\n--- assistant\n2\n--- user\n"
    for own in (Prompts(question=long + "{question}"), Prompts(explanation=long + "{question} {answer}")):
        problem = Problem("p", "2 + 2?", "4", prompts=own)
        longest = max(len(encode(tokenizer, problem)) for encode in (encode_question, encode_explanation))
        room = 1_024 - longest  # of the built-in model's context
        assert fitting([problem], "tiny", room, tokenizer=lambda: tokenizer) == [problem]
        with pytest.raises(DataError, match="No problem of 1 fits"):
            fitting([problem], "tiny", room + 1, tokenizer=lambda: tokenizer)
