r"""The two prompts of ExPO, side by side.

The question prompt is what the policy is trained and evaluated on. The explanation prompt shows the answer as well; it
is used for sampling explanations and for nothing else. Both go through the tokenizer's chat template and ask for
`\boxed{}`. The paper does not print its wording; this one is ours, and `Problem.prompts` has the user's own instead.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expo_lite.errors import ConfigError
from expo_lite.records import Problem, Prompts

QUESTION_PROMPT = "{question}\nReason step by step, and put your final answer within \\boxed{}."

EXPLANATION_PROMPT = (
    "{question}\nThe correct answer is {answer}. Explain step by step how to reach it from the question alone, "
    "and put the final answer within \\boxed{}."
)

Turns = list[dict[str, str]]
"""A conversation as chat templates take it: `role` and `content` of each turn."""
OUTLINE_END = "</outline>"
"""The end of an outline, where an explanation prompt asks for one before the explanation."""
TEMPLATE = "chat_template.jinja"
"""The file of a chat template, as transformers names it."""
LONGEST_BYTES = 1_000_000
"""The limit of a prompt file: several times what the longest context holds."""
_TURN = re.compile(r"^--- (system|user|assistant)[ \t]*\n", re.MULTILINE)
_THOUGHT = re.compile(r"</?think>|\s")
_HOLE = re.compile(r"\{(question|answer)\}")
FIXED = re.compile(r"\{%- set (?:enable_)?thinking = (true|false) %\}\n")
"""The first line of a chat template whose choice to think is made (`policy/template.py`)."""


def question_turns(problem: Problem) -> Turns:
    """The conversation that asks the question alone."""
    return _turns(problem.prompts.question or QUESTION_PROMPT, problem)


def explanation_turns(problem: Problem) -> Turns:
    """The conversation that shows the answer and asks for the way there.

    The system turn of the question prompt comes first, unless the explanation prompt has its own.
    """
    turns = _turns(problem.prompts.explanation or EXPLANATION_PROMPT, problem)
    return turns if turns[0]["role"] == "system" else [*system_turn(problem.prompts), *turns]


def shown_turns(problem: Problem, explain_with: str) -> Turns:
    """The conversation after which a problem is explained; that of the question where no answer is shown."""
    return question_turns(problem) if explain_with == "no-answer" else explanation_turns(problem)


def system_turn(prompts: Prompts) -> Turns:
    """The system turn of the user's question prompt; empty if it has none."""
    return [turn for turn in _turns(prompts.question or "", Problem("", "", "")) if turn["role"] == "system"]


def encode_question(tokenizer: Any, problem: Problem) -> tuple[int, ...]:
    """Token ids of the question prompt, up to where the assistant begins; raises ConfigError as `encode_turns`."""
    return encode_turns(tokenizer, question_turns(problem))


def encode_explanation(tokenizer: Any, problem: Problem) -> tuple[int, ...]:
    """Token ids of the explanation prompt (question and answer), likewise."""
    return encode_turns(tokenizer, explanation_turns(problem))


def encode_turns(tokenizer: Any, turns: Turns) -> tuple[int, ...]:
    """Token ids of a prompt, up to where the assistant begins.

    Raises:
        ConfigError: the model's chat template refuses the turns of the user's prompt.
    """
    return tuple(_encode(tokenizer, turns))


def asks_outline(problem: Problem) -> bool:
    """Tell whether the problem's explanation prompt asks for an outline first."""
    return OUTLINE_END in (problem.prompts.explanation or "")


def encode_shown(tokenizer: Any, problem: Problem) -> tuple[int, ...]:
    """Token ids of the explanation prompt before a chain that has no outline; raises ConfigError as the last does."""
    prompts = replace(problem.prompts, explanation=None) if asks_outline(problem) else problem.prompts
    return encode_explanation(tokenizer, replace(problem, prompts=prompts))


def encode_prompts(tokenizer: Any, problems: Sequence[Problem]) -> list[tuple[list[int], list[int]]]:
    """Encode both prompts of many problems in two batches; raises ConfigError as `encode_explanation` does."""
    asked, explained = ([of(p) for p in problems] for of in (question_turns, explanation_turns))
    return list(zip(_encode(tokenizer, asked), _encode(tokenizer, explained), strict=True))


def rendered(tokenizer: Any, turns: Turns, **options: Any) -> str:
    """The text of a prompt as the model reads it, up to where the assistant begins; `options` as the template's."""
    return str(tokenizer.apply_chat_template(turns, **{"tokenize": False, "add_generation_prompt": True} | options))


def prompts_as_read(tokenizer: Any, prompts: Prompts, explain_with: str) -> dict[str, str]:
    """Both prompts as the model reads them, with {question} and {answer} for those of a problem."""
    shown = "{answer}" if explain_with == "answer" else "(the answer of another problem)"
    problem = Problem("", "{question}", shown, prompts=prompts)
    turns = question_turns(problem), shown_turns(problem, explain_with)
    return dict(zip(("question", "explanation"), (rendered(tokenizer, asked) for asked in turns), strict=True))


def thinks(tokenizer: Any) -> bool:
    """Tell whether the model thinks before it answers: as chosen, or since its template begins every reply so."""
    if made := FIXED.match(tokenizer.chat_template):
        return made[1] == "true"
    return rendered(tokenizer, [{"role": "user", "content": "a"}]).rstrip().endswith("<think>")


def chain_text(tokenizer: Any, problem: Problem) -> str:
    """The expert chain as it goes on after the question prompt, with its thought (<think>...</think>) there once.

    The template writes a chain with a thought; one that leaves thoughts out gets the chain as it is. After a prompt
    that begins a thought, a chain without one ends it first.

    Raises:
        ConfigError: thinking is off, or the thought has no beginning or no end.
    """
    chain, turns = problem.expert_chain or "", question_turns(problem)
    has_thought = "think>" in chain
    if not chain or not (has_thought or thinks(tokenizer)):
        return chain
    prompt, answer = rendered(tokenizer, turns), chain.rpartition("</think>")[2].strip()
    begun, off = (prompt.rstrip().endswith(tag) for tag in ("<think>", "</think>"))
    whole = rendered(tokenizer, [*turns, {"role": "assistant", "content": chain}], add_generation_prompt=False)
    by_template = whole.removeprefix(prompt)
    by_template = by_template[: by_template.rfind(answer) + len(answer)]  # without what ends the turn
    as_it_is = chain if has_thought else f"<think>\n\n</think>\n\n{chain}"
    for text in (by_template, as_it_is.lstrip().removeprefix("<think>").removeprefix("\n") if begun else as_it_is):
        is_whole = answer and _THOUGHT.sub("", text) == _THOUGHT.sub("", chain)
        if is_whole and not off and begun + text.count("<think>") == text.count("</think>"):
            return text
    raise ConfigError(
        f"The chain of problem '{problem.problem_id}' has a thought that cannot be written after its prompt: "
        + ("thinking is off. Give --thinking on." if off else "it needs <think>, </think> and an answer after it.")
    )


def read_prompts(question: Path | None, explanation: Path | None) -> Prompts:
    """Read the user's prompts from files; None stands for the built-in one.

    A file is one user turn, or several turns, each after a line `--- system`, `--- user` or `--- assistant`.

    Raises:
        ConfigError: a file cannot be read, or its last turn, the user's, lacks {question} or {answer}; or a question
            prompt has {answer}.
    """
    return Prompts(_read("question", question), _read("explanation", explanation))


def _turns(template: str, problem: Problem) -> Turns:
    """The turns of a template; without a line '--- user' all of it is one turn."""
    _, *pieces = _TURN.split(template) if _TURN.match(template) else ("", "user", template)
    shown = {"question": problem.question.strip(), "answer": problem.answer}

    def filled(text: str) -> str:  # not str.format: braces of boxes stay what they are
        return _HOLE.sub(lambda found: shown[found.group(1)], text).strip()

    return [{"role": role, "content": filled(text)} for role, text in zip(pieces[::2], pieces[1::2], strict=True)]


def _read(kind: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        if path.exists() and not path.is_file():  # a pipe may never end
            raise ConfigError(f"Cannot read the {kind} prompt '{path}': it is not a file.")
        if path.exists() and path.stat().st_size > LONGEST_BYTES:
            raise ConfigError(f"The {kind} prompt '{path}' is too long: at most {LONGEST_BYTES:,} bytes are read.")
        template = path.read_text(encoding="utf-8").lstrip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"Cannot read the {kind} prompt '{path}': {reason}.") from error
    turns = _turns(template, Problem("", "{question}", "{answer}"))
    if kind == "question" and any("{answer}" in turn["content"] for turn in turns):
        raise ConfigError(f"The question prompt '{path}' shows {{answer}}, which the policy must not see. Take it out.")
    wanted = ["{question}"] if kind == "question" else ["{question}", "{answer}"]
    lacking = [name for name in wanted if name not in turns[-1]["content"]]
    misplaced = any(turn["role"] == "system" for turn in turns[1:])
    if lacking or misplaced or turns[-1]["role"] != "user":
        lacks = f"lacks {' and '.join(lacking)}" if lacking else f"ends with the {turns[-1]['role']}'s turn"
        what = "has a system's turn that is not the first" if misplaced else lacks
        raise ConfigError(
            f"The {kind} prompt '{path}' {what}. Its last turn must be the user's, with {' and '.join(wanted)}; a "
            "system's turn comes first."
        )
    return template


def _encode(tokenizer: Any, turns: Turns | list[Turns]) -> Any:
    from jinja2 import TemplateError  # comes with transformers, as the tokenizer does

    try:
        return tokenizer.apply_chat_template(
            turns,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            enable_thinking=False,  # where no choice is in the template's own text, as in TRL
        )
    except TemplateError as error:
        first = turns[0] if isinstance(turns[0], list) else turns
        roles = ", ".join(turn["role"] for turn in first)
        raise ConfigError(
            f"The model's chat template refuses a prompt with the turns {roles}: {error}. Change the file of "
            "--question-prompt or --explanation-prompt."
        ) from error
