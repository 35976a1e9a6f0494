r"""The two prompts of ExPO, side by side.

The question prompt is what the policy is trained and evaluated on. The explanation prompt shows the answer as well; it
is used for sampling explanations and for nothing else. Both go through the tokenizer's chat template and ask for
`\boxed{}`. The paper does not print its wording; this one is ours.
"""

from typing import Any, Protocol

from expo_lite.records import Problem

QUESTION_PROMPT = "{question}\nReason step by step, and put your final answer within \\boxed{{}}."

EXPLANATION_PROMPT = (
    "{question}\nThe correct answer is {answer}. Explain step by step how to reach it from the question alone, "
    "and put the final answer within \\boxed{{}}."
)


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


def encode_explanation(tokenizer: ChatTokenizer, problem: Problem) -> tuple[int, ...]:
    """Token ids of the explanation prompt (question and answer), up to where the assistant begins."""
    return _encode(tokenizer, explanation_text(problem))


def _encode(tokenizer: ChatTokenizer, text: str) -> tuple[int, ...]:
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=False,
        enable_thinking=False,  # Qwen3 alone reads it: answer without a hidden chain
    )
    return tuple(rendered)
