"""Texts that the policy writes for itself where a whole group is wrong: hints, and easier forms of the problem.

Each is read and checked in code before it is used. One that is of no use costs its tokens and nothing else.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from expo_lite.grading import final_answer
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Explanation, FinishReason, Group, Problem
from expo_lite.run.metrics import mean
from expo_lite.step.chain_text import shows_answer
from expo_lite.step.remedies import SOLVED, failed, sample_again
from expo_lite.step.rollout import Start, stream_seed
from expo_lite.step.run import Run
from expo_lite.tasks import Task

HINT_PROMPT = (
    "{question}\n\nThe correct answer is {answer}. Write a hint of one or two sentences for somebody who has seen "
    "neither answer nor solution: the idea or the fact that the problem turns on. Do not state the answer, and work "
    "nothing out. Reply with the hint alone."
)
CHOICE_PROMPT = (
    "{question}\n\nThe correct answer is {answer}. Make a multiple-choice question of this: write %d different "
    "options, each on a line that begins with '- '. One is the correct answer. The others are wrong, but plausible and "
    "written in the same form. Reply with these lines alone."
)
MASK_PROMPT = (
    "{question}\n\nThe correct answer is {answer}. Write it again with some of its digits hidden, an underscore for "
    "each, and all else as it is: 1003 becomes \\boxed{1__3}. Hide more than half of the digits, and at least one "
    "stays. Reply with this alone, within \\boxed{}."
)
FORMS = (CHOICE_PROMPT % 4, CHOICE_PROMPT % 10, MASK_PROMPT)
"""The prompts for the forms of a problem, the easiest first; after the last it is asked openly."""
_OPTION = re.compile(r"^[ \t]*(?:[-*]|\(?\w{1,2}[.):])[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_TOLD = re.compile(r"correct|wrong|\bright\b|answer|[✓✔✗✘]", re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</think>|<think>.*", re.DOTALL)
_SPARE = re.compile(r"[{}$\s]")


def posed(problem: Problem, more: str = "", explanation: str | None = None) -> Problem:
    """The problem with more text after its question, and another prompt that shows its answer."""
    prompts = replace(problem.prompts, explanation=explanation) if explanation else problem.prompts
    return replace(problem, question=f"{problem.question.strip()}{more}", prompts=prompts)


def written(run: Run, asked: Mapping[int, Problem], stream: str) -> dict[int, Group]:
    """Let the policy reply once to the prompt that shows each problem's answer; the verdicts mean nothing."""
    starts = {i: [Start(encode_explanation(run.policy.tokenizer, problem), 1)] for i, problem in asked.items()}
    return sample_again(run, {i: (asked[i], start) for i, start in starts.items()}, stream=stream)


def reply_of(group: Group) -> str:
    """The text that was written, without thoughts; empty if it was cut off."""
    (completion,) = group.completions
    return "" if completion.finish_reason is FinishReason.LENGTH else _THOUGHT.sub("", completion.text).strip()


def found(second: Mapping[int, Group], replies: Mapping[int, Group], used: Mapping[int, str]) -> dict[str, Any]:
    """Second groups, what was written for them, and the share of this that could be used."""
    metrics = {"second/accept_rate": len(used) / len(replies)} if replies else {}
    return {"second": second, "written": [(group, i in used) for i, group in replies.items()], "metrics": metrics}


def hinted(run: Run, groups: Sequence[Group], explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Sample all-wrong groups again, all completions but one with a hint in the question prompt.

    The policy makes the hint of the problem's accepted explanation; one that shows the answer is refused. With
    --train-context plain all completions are trained after the plain prompt.
    """
    chains = {e.problem.problem_id: e.completion.text.strip() for e in explanations if e.accepted}
    problems = {i: groups[i].problem for i in failed(groups) if groups[i].problem.problem_id in chains}
    asked = {
        i: posed(problem, f"\n\nA solution:\n{chains[problem.problem_id]}", HINT_PROMPT)
        for i, problem in problems.items()
    }
    replies = written(run, asked, "hint")
    hints = {i: hint for i, group in replies.items() if (hint := reply_of(group))}
    hints = {i: hint for i, hint in hints.items() if not shows_answer(run.task, problems[i], hint)}
    starts = {}
    for i, hint in hints.items():
        shown = encode_question(run.policy.tokenizer, posed(problems[i], f"\nHint: {hint}"))
        plain = Start(groups[i].completions[0].prompt_ids, 1)
        starts[i] = (problems[i], [Start(shown, run.config.group_size - 1), plain])
    second = sample_again(run, starts, stream="hinted")
    if run.config.explanation.train_context == "plain":
        second = {i: replace(group, trained_after=groups[i].completions[0].prompt_ids) for i, group in second.items()}
    return found(second, replies, hints)


def reformulated(run: Run, groups: Sequence[Group]) -> dict[str, Any]:
    """Sample all-wrong groups again in an easier form of their problem, and promote the problems that went well.

    `run.variants` has each problem's form, as its place in `FORMS`, and the text of it once the policy has written it.
    A text of no use is not asked for again: the problem comes to its next form.
    """
    problems = {i: groups[i].problem for i in failed(groups)}
    first = {problem.problem_id: i for i, problem in reversed(problems.items())}
    forms = {i: form for name, i in first.items() if not (form := run.variants.get(name, (0, "")))[1]}
    asked = {i: posed(problems[i], "", FORMS[form]) for i, (form, _) in forms.items() if form < len(FORMS)}
    replies = written(run, asked, "form")
    texts = {i: text for i, group in replies.items() if (text := variant(run, problems[i], forms[i][0], group))}
    for i in replies:
        run.variants[problems[i].problem_id] = (forms[i][0], texts[i]) if i in texts else (forms[i][0] + 1, "")
    shown = {
        i: posed(problem, f"\n{text}")
        for i, problem in problems.items()
        if (text := run.variants.get(problem.problem_id, (0, ""))[1])
    }
    starts = {i: [Start(encode_question(run.policy.tokenizer, p), run.config.group_size)] for i, p in shown.items()}
    second = sample_again(run, {i: (problems[i], start) for i, start in starts.items()}, stream="reformulated")
    for name in {group.problem.problem_id for group in second.values() if mean(group.rewards) >= SOLVED}:
        run.variants[name] = (run.variants[name][0] + 1, "")
    return found({i: replace(group, problem=shown[i]) for i, group in second.items()}, replies, texts)


def variant(run: Run, problem: Problem, form: int, group: Group) -> str:
    """What is added to the question in this form, as the policy wrote it; empty if it cannot be used."""
    reply = reply_of(group)
    if FORMS[form] == MASK_PROMPT:
        mask = masked(problem.answer, reply)
        return mask and f"The answer has this form, with an underscore for each digit left out: {mask}"
    options = choices(run.task, problem, reply, 4 if form == 0 else 10)
    random.Random(stream_seed(run.config.seed, "options", form, problem.problem_id)).shuffle(options)  # noqa: S311
    listed = "".join(f"\n- {option}" for option in options)
    return listed and f"The answer is one of these. Give the answer itself:{listed}"


def choices(task: Task, problem: Problem, reply: str, n: int) -> list[str]:
    """The options in a reply; empty unless they are `n` different ones, of which the task's grader takes one.

    None may say that it is the right or a wrong one. Options get no letters, so that no letter can be the reply.
    """
    options = _OPTION.findall(reply)
    right = [option for option in options if task.grade(problem, f"\\boxed{{{option}}}").correct]
    different = {option.casefold() for option in options}
    is_told = any(_TOLD.search(option) for option in options)
    return options if len(options) == len(different) == n and len(right) == 1 and not is_told else []


def masked(answer: str, reply: str) -> str:
    """The masked answer in a reply; empty unless it is the answer with some of its digits hidden, and not all.

    Spaces, braces and dollars may differ.
    """
    mask = final_answer(reply)[0] or ""
    bare, whole = (_SPARE.sub("", text) for text in (mask, answer))
    pairs = list(zip(bare, whole, strict=False))
    hidden = sum(sign == "_" != own for sign, own in pairs)
    is_answer = len(bare) == len(whole) and all(sign == own or (sign == "_" and own.isdigit()) for sign, own in pairs)
    return mask if is_answer and 0 < hidden < sum(map(str.isdigit, whole)) else ""
