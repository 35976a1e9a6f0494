r"""The two prompts of ExPO, side by side.

The question prompt is what the policy is trained and evaluated on. The explanation prompt shows the answer as well; it
is used for sampling explanations and for nothing else. Both go through the tokenizer's chat template and ask for
`\boxed{}`. The paper does not print its wording; this one is ours.
"""

import re
from pathlib import Path
from typing import Any, Protocol

from expo_lite.errors import ConfigError
from expo_lite.records import Problem

QUESTION_PROMPT = "{question}\nReason step by step, and put your final answer within \\boxed{{}}."

EXPLANATION_PROMPT = (
    "{question}\nThe correct answer is {answer}. Explain step by step how to reach it from the question alone, "
    "and put the final answer within \\boxed{{}}."
)


_TURN = re.compile(r"^--- (user|assistant)[ \t]*\n", re.MULTILINE)


class ChatTokenizer(Protocol):
    """The one method of a transformers tokenizer that prompts need."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any:
        """Render a conversation with the model's own chat template."""


def question_text(problem: Problem) -> str:
    """The user's turn that asks the question alone."""
    return QUESTION_PROMPT.format(question=problem.question.strip())


def explanation_text(problem: Problem) -> str:
    """The user's turn that shows the answer and asks for the way there."""
    return EXPLANATION_PROMPT.format(question=problem.question.strip(), answer=problem.answer)


def encode_question(tokenizer: ChatTokenizer, problem: Problem) -> tuple[int, ...]:
    """Token ids of the question prompt, up to where the assistant begins."""
    return _encode(tokenizer, question_text(problem))


def encode_explanation(tokenizer: ChatTokenizer, problem: Problem, template: str | None = None) -> tuple[int, ...]:
    """Token ids of the explanation prompt (question and answer), up to where the assistant begins.

    `template` is a prompt of the user's own, as `read_explanation_prompt` gives it.
    """
    if template is None:
        return _encode(tokenizer, explanation_text(problem))
    return _encode_turns(tokenizer, explanation_turns(template, problem))


def explanation_turns(template: str, problem: Problem) -> list[dict[str, str]]:
    """The turns of a prompt of the user's own; without a line '--- user' all of it is one turn."""
    _, *pieces = _TURN.split(template) if _TURN.match(template) else ("", "user", template)
    shown = {"question": problem.question.strip(), "answer": problem.answer}

    def filled(text: str) -> str:  # not str.format: braces of boxes stay what they are
        return re.sub(r"\{(question|answer)\}", lambda found: shown[found.group(1)], text).strip()

    return [{"role": role, "content": filled(text)} for role, text in zip(pieces[::2], pieces[1::2], strict=True)]


def read_explanation_prompt(path: Path | None) -> str | None:
    """The text of an explanation prompt; None where there is no file.

    Raises:
        ConfigError: it cannot be read, lacks {question} or {answer}, or does not end with the user's turn.
    """
    if path is None:
        return None
    try:
        template = path.read_text(encoding="utf-8").lstrip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"Cannot read the explanation prompt '{path}': {reason}.") from error
    probe = explanation_turns(template, Problem("", "\0q", "\0a"))[-1]
    lacking = [name for name, mark in (("{question}", "\0q"), ("{answer}", "\0a")) if mark not in probe["content"]]
    if lacking or probe["role"] != "user":
        what = f"lacks {' and '.join(lacking)}" if lacking else "ends with the assistant's turn"
        raise ConfigError(
            f"The explanation prompt '{path}' {what}. "
            "Its last turn must be the user's, with {question} and {answer}."
        )
    return template


def _encode(tokenizer: ChatTokenizer, text: str) -> tuple[int, ...]:
    return _encode_turns(tokenizer, [{"role": "user", "content": text}])


def _encode_turns(tokenizer: ChatTokenizer, turns: list[dict[str, str]]) -> tuple[int, ...]:
    rendered = tokenizer.apply_chat_template(
        turns,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
        enable_thinking=False,  # Qwen3 alone reads it: answer without a hidden chain
    )
    return tuple(rendered)
