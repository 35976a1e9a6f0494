"""The frozen records that stages hand to each other; free of torch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
Level = int | str
"""The difficulty of a problem: a number, or a word from the data."""
ALL = "all"
"""The name of all levels together; no level is called so."""
_NUMBER = re.compile(r"(?:level\s*)?(\d{1,4})|(-\d{1,4})", re.IGNORECASE)


def level_of(text: str) -> Level:
    """Read a level: 5 from '5' and from 'Level 5', any other word as it is."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1] or found[2]) if found else text.strip()


def level_order(level: Level | None) -> tuple[int, int, str]:
    """The sorting key of levels: numbers by value, words by alphabet, `ALL`, then None."""
    if level is None:
        return (3, 0, "")
    known = level_of(level) if isinstance(level, str) else level
    if isinstance(known, int):
        return (0, known, "")
    return (2 if known == ALL else 1, 0, known)


def by_level(items: Sequence[T], level: Callable[[T], Level | None]) -> list[tuple[str, list[T]]]:
    """Sort items by level, then list all of them as `ALL`, unless there is only one level."""
    levels = {level(item) for item in items}
    named = [
        (str(own), [item for item in items if level(item) == own])
        for own in sorted((own for own in levels if own is not None), key=level_order)
    ]
    return named if len(levels) == 1 and named else [*named, (ALL, list(items))]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The user's prompts, as `prompts.read_prompts` reads them from files; None for the built-in ones."""

    question: str | None = None
    explanation: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer; `level` and `subject` are None where the data has none."""

    problem_id: str
    question: str
    answer: str
    level: Level | None = None
    subject: str | None = None
    expert_chain: str | None = None
    prompts: Prompts = Prompts()
    """The wording of the question prompt and of the explanation prompt."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's verdict on one completion.

    `reason` is one snake_case word for the outcome ("equal", "different", "no_answer", "timeout", ...), counted in
    the metrics; `how` names the comparison that decided; `answer` is the final answer found in the completion.
    `partial` is the reward of a wrong completion, in [0, 1). `valid` says of a right one whether its steps are right
    too, where the task can tell, or of an explanation its arithmetic.
    """

    correct: bool
    reason: str
    how: str
    answer: str | None = None
    partial: float = 0.0
    valid: bool | None = None

    @property
    def reward(self) -> float:
        """1.0 if the completion is right, else `partial`."""
        return 1.0 if self.correct else self.partial

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `partial` is left out if it is 0, and `valid` if it is None."""
        unset = {"partial": 0.0, "valid": None}
        return {name: value for name, value in asdict(self).items() if name not in unset or value != unset[name]}


class FinishReason(StrEnum):
    """The reason that a completion ended: the model's end-of-sequence token, or the token limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a prompt.

    `token_ids` ends with the end-of-sequence token if `finish_reason` is STOP; `logprobs` (nats) has one entry for each
    of them, at the sampling temperature. `text` is the decoded completion without special tokens.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A prompt, and the number of completions to sample.

    With its own `seed` a prompt gets the same random numbers whatever is sampled beside it; else it shares the call's.
    """

    prompt_ids: tuple[int, ...]
    n_completions: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters: `temperature` 0 is greedy; `rows` is the number of completions decoded at the same time."""

    temperature: float
    max_completion_tokens: int
    top_p: float = 1.0
    rows: int = 256


class GroupKind(StrEnum):
    """The outcome of a group: only MIXED groups carry a GRPO signal."""

    ALL_WRONG = "all_wrong"
    MIXED = "mixed"
    ALL_RIGHT = "all_right"


@dataclass(frozen=True, slots=True)
class Group:
    """The G graded completions of one problem; `verdicts` is parallel to `completions`.

    Each was sampled after its own `Completion.prompt_ids`, the plain prompt unless a method chose another. It is
    trained after the same one, or after `trained_after` where that is set.
    """

    problem: Problem
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    trained_after: tuple[int, ...] | None = None

    @property
    def rewards(self) -> tuple[float, ...]:
        """One reward for each completion, from 0.0 to 1.0."""
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def is_dead(self) -> bool:
        """True if all rewards are equal: GRPO learns nothing from the group."""
        return len(set(self.rewards)) == 1

    @property
    def kind(self) -> GroupKind:
        """All wrong, all right, or mixed; partial rewards do not count."""
        n_correct = sum(verdict.correct for verdict in self.verdicts)
        if n_correct == 0:
            return GroupKind.ALL_WRONG
        return GroupKind.ALL_RIGHT if n_correct == len(self.verdicts) else GroupKind.MIXED


@dataclass(frozen=True, slots=True)
class Explanation:
    """A chain written with the answer shown, to be trained on as if it had not been.

    `completion.prompt_ids` is the explanation prompt it was sampled after (question and answer); `prompt_ids` is the
    plain prompt (question alone) it is scored and trained after, with `target_ids` after it. `accepted` says whether
    it passed the filter and `reason` why; `lift_nats` is log pi(a*|q,c) - log pi(a*|q), and `reliance_nats` the mean
    over tokens of log pi(c|q,a*) - log pi(c|q), where they were measured.
    """

    problem: Problem
    completion: Completion
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    verdict: Verdict
    accepted: bool
    reason: str
    lift_nats: float | None = None
    reliance_nats: float | None = None
    outline_ids: tuple[int, ...] = ()
    """The outline that the chain was written after: the end of `completion.prompt_ids`, and no part of the chain."""
    outline: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one plain prompt, the chosen one and the rejected one; token ids as in `Completion`.

    `ref_chosen_nats` and `ref_rejected_nats` are their log-probabilities under the base model, summed over tokens.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    ref_chosen_nats: float
    ref_rejected_nats: float
