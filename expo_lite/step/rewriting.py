"""Texts that the policy writes for itself where a whole group is wrong: hints, and easier forms of the problem.

Each is read and checked in code before it is used. One that is of no use costs its tokens and nothing else.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from expo_lite.grading import final_answer
from expo_lite.grading.reading.extract import answer_start
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Explanation, FinishReason, Group, Problem
from expo_lite.run.metrics import mean, sample_rows
from expo_lite.step.chain_text import is_answer, shows_answer
from expo_lite.step.remedies import SOLVED, failed, sample_again
from expo_lite.step.rollout import Start, stream_seed
from expo_lite.step.run import Run
from expo_lite.tasks import Task

HINT_PROMPT = (
    "{question}\n\nWrite a hint of one or two sentences for somebody who has not seen this solution: the idea or fact "
    "that it turns on. Do not state the answer, and work nothing out. Reply with the hint alone."
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


def written(
    run: Run, asked: Mapping[int, Problem], stream: str, read: Callable[[int, str], str]
) -> tuple[dict[int, str], dict[str, Any]]:
    """Let the policy reply once to each prompt, which shows the answer or a solution.

    Returns:
        What is read of the replies, without those that are cut off or of no use; and rows and figures for the log.
    """
    starts = {i: [Start(encode_explanation(run.policy.tokenizer, problem), 1)] for i, problem in asked.items()}
    groups = sample_again(run, {i: (asked[i], start) for i, start in starts.items()}, stream=stream)
    replies = {i: group.completions[0] for i, group in groups.items()}
    whole = {i: _THOUGHT.sub("", c.text).strip() for i, c in replies.items() if c.finish_reason is FinishReason.STOP}
    used = {i: text for i, reply in whole.items() if reply and (text := read(i, reply))}
    rows = sample_rows(groups.values(), [], step=run.step + 1)
    rows = [row | {"kind": "written", "accepted": i in used} for i, row in zip(groups, rows, strict=True)]
    return used, {"written": rows, "metrics": {"second/accept_rate": len(used) / len(asked)} if asked else {}}


def hinted(run: Run, groups: Sequence[Group], explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Sample all-wrong groups again, all completions but one with a hint in the prompt (NuRL, arXiv 2509.25666).

    The policy makes the hint h ~ pi(q, z) of the problem's accepted explanation z and of nothing else, so that controls
    are controls. One that shows the answer is refused, and so is one that states another (a small model writes a wrong
    solution). It stays in the trained context as in NuRL and in SAGE (arXiv 2602.03143, `recipe/hint/hint_trainer.py`
    of its code), unless --train-context is plain, which is ExPO's conditioning. Where this leaves NuRL: hints are made
    on the way, by the policy as it is and from the first step on, not once before and after GRPO has converged; of z
    alone, as in SAGE, where NuRL shows the answer too; and one that has the answer in any form is refused in code; and
    with the plain context the completions count as sampled after the plain prompt, without a weight for what the hint
    changed. Where it leaves SAGE: hints have one level, not three; z is the policy's own explanation, not a reference
    solution; and one completion has no hint. NuRL's text was not at hand, but summaries of it.
    """
    decode = partial(run.policy.tokenizer.decode, skip_special_tokens=True)
    chains = {e.problem.problem_id: decode(e.target_ids).strip() for e in explanations if e.accepted}
    problems = {i: groups[i].problem for i in failed(groups) if groups[i].problem.problem_id in chains}
    asked = {i: posed(p, f"\n\nA solution:\n{chains[p.problem_id]}", HINT_PROMPT) for i, p in problems.items()}

    def read(i: int, hint: str) -> str:
        return "" if answer_start(hint) is not None or shows_answer(run.task, problems[i], hint) else hint

    hints, log = written(run, asked, "hint", read)
    starts = {}
    for i, hint in hints.items():
        shown = encode_question(run.policy.tokenizer, posed(problems[i], f"\nHint: {hint}"))
        plain = Start(groups[i].completions[0].prompt_ids, 1)
        starts[i] = (problems[i], [Start(shown, run.config.group_size - 1), plain])
    second = sample_again(run, starts, stream="hinted")
    if run.config.explanation.train_context == "plain":
        second = {i: replace(group, trained_after=groups[i].completions[0].prompt_ids) for i, group in second.items()}
    return log | {"second": second}


def reformulated(run: Run, groups: Sequence[Group]) -> dict[str, Any]:
    """Sample all-wrong groups again in an easier form of their problem (Cog-DRIFT, arXiv 2604.04767).

    The forms are a choice of four, of ten, and the answer with digits masked, which the policy writes itself
    (`src/rewrite_questions.py` of its code). `run.variants` has each problem's form, as its place in `FORMS`, and the
    text of it once the policy has written it. A text of no use is not asked for again: the problem comes to its next
    form. Where this leaves the paper: the open question is sampled at each step, and the form only if all of its group
    are wrong; the policy as it is writes a form when it is needed, not the base model before; a mean reward of 0.5
    promotes, which has to be exceeded there (`adaptive_sampler.py`); options are shuffled and have no letters; a mask
    must be the answer digit for digit, where their numbers are compared there; and there is no reward of format. Its
    clipping, 0.2 and 0.28, and KL, 0.01, are settings. Its text was not at hand.
    """
    problems = {i: groups[i].problem for i in failed(groups)}
    first = {problem.problem_id: i for i, problem in reversed(problems.items())}
    now = {i: run.variants.setdefault(name, (0, "")) for name, i in first.items()}
    forms = {i: form for i, (form, text) in now.items() if form < len(FORMS) and not text}
    asked = {i: posed(problems[i], "", FORMS[form]) for i, form in forms.items()}
    texts, log = written(run, asked, "form", lambda i, reply: variant(run, problems[i], forms[i], reply))
    for i, form in forms.items():
        run.variants[problems[i].problem_id] = (form, texts[i]) if i in texts else (form + 1, "")
    shown = {i: posed(p, f"\n{text}") for i, p in problems.items() if (text := run.variants[p.problem_id][1])}
    starts = {i: [Start(encode_question(run.policy.tokenizer, p), run.config.group_size)] for i, p in shown.items()}
    second = sample_again(run, {i: (problems[i], start) for i, start in starts.items()}, stream="reformulated")
    for name in {group.problem.problem_id for group in second.values() if mean(group.rewards) >= SOLVED}:
        run.variants[name] = (run.variants[name][0] + 1, "")
    return log | {"second": {i: replace(group, problem=shown[i]) for i, group in second.items()}}


def variant(run: Run, problem: Problem, form: int, reply: str) -> str:
    """Read the text that is added to the question in this form, as the policy wrote it; empty if it is of no use."""
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
    right = [option for option in options if is_answer(task, problem, option)]
    different = {option.casefold() for option in options}
    is_told = any(_TOLD.search(option) for option in options)
    return options if len(options) == len(different) == n and len(right) == 1 and not is_told else []


def masked(answer: str, reply: str) -> str:
    """The masked answer in a reply; empty unless it is the answer with some of its digits hidden, and not all.

    Spaces, braces and dollars may differ.
    """
    mask = final_answer(reply)[0] or ""
    bare, whole = (_SPARE.sub("", text) for text in (mask, answer))
    hidden = bare.count("_") - whole.count("_")
    is_answer = re.fullmatch(re.escape(bare).replace("_", r"[\d_]"), whole)
    return mask if is_answer and 0 < hidden < sum(map(str.isdigit, whole)) else ""
