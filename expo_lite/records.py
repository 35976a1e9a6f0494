"""What the stages hand to each other: frozen records, free of torch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
Level = int | str
"""How hard a problem is: a number, or a word of the data's own."""
ALL = "all"
"""Where levels are named, all problems together; no level is called so."""
_NUMBER = re.compile(r"(?:level\s*)?(\d{1,4})|(-\d{1,4})", re.IGNORECASE)


def level_of(text: str) -> Level:
    """A level as it is written: 5 of '5' and of 'Level 5', any other word as it is."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1] or found[2]) if found else text.strip()


def level_order(level: Level | None) -> tuple[int, int, str]:
    """The sorting key of levels, written out or not: numbers by value, words by alphabet, `ALL`, then none."""
    if level is None:
        return (3, 0, "")
    known = level_of(level) if isinstance(level, str) else level
    if isinstance(known, int):
        return (0, known, "")
    return (2 if known == ALL else 1, 0, known)


def by_level(items: Sequence[T], level: Callable[[T], Level | None]) -> list[tuple[str, list[T]]]:
    """The items of each level; then all of them as `ALL`, unless that is the one level again."""
    levels = {level(item) for item in items}
    named = [
        (str(own), [item for item in items if level(item) == own])
        for own in sorted((own for own in levels if own is not None), key=level_order)
    ]
    return named if len(levels) == 1 and named else [*named, (ALL, list(items))]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of the user's own, as `prompts.read_prompts` reads them from files; None where ours is taken."""

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
    """How it is asked, and how an explanation is asked for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader says of one completion.

    `reason` is one snake_case word for the outcome ("equal", "different", "no_answer", "timeout", ...), counted in
    the metrics; `how` names the comparison that decided; `answer` is the final answer found in the completion.
    `partial` is what a wrong one is worth all the same, at least 0 and below 1.
    """

    correct: bool
    reason: str
    how: str
    answer: str | None = None
    partial: float = 0.0

    @property
    def reward(self) -> float:
        """1.0 for a right completion; a wrong one has what it is worth, in most tasks 0.0."""
        return 1.0 if self.correct else self.partial

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what a wrong one is worth only where it is worth something."""
        about = asdict(self)
        return about if self.partial else {name: value for name, value in about.items() if name != "partial"}


class FinishReason(StrEnum):
    """Why a completion ended: the model's own end-of-sequence token, or the token limit."""

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
    """A prompt, and how many completions of it to sample.

    With a `seed` of its own a prompt gets the same random numbers whatever is sampled beside it; else those of the
    call.
    """

    prompt_ids: tuple[int, ...]
    n_completions: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample: `temperature` 0 is greedy; `rows` is how many completions are decoded at the same time."""

    temperature: float
    max_completion_tokens: int
    top_p: float = 1.0
    rows: int = 256


class GroupKind(StrEnum):
    """How a group came out: only MIXED groups carry a GRPO signal."""

    ALL_WRONG = "all_wrong"
    MIXED = "mixed"
    ALL_RIGHT = "all_right"


@dataclass(frozen=True, slots=True)
class Group:
    """The G graded completions of one problem's plain prompt; `verdicts` is parallel to `completions`."""

    problem: Problem
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """One reward a completion, from 0.0 to 1.0."""
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def is_dead(self) -> bool:
        """Whether all rewards are equal, so that GRPO learns nothing from it."""
        return len(set(self.rewards)) == 1

    @property
    def kind(self) -> GroupKind:
        """All wrong, all right, or mixed; of wrong ones all are wrong, whatever they are worth."""
        n_correct = sum(verdict.correct for verdict in self.verdicts)
        if n_correct == 0:
            return GroupKind.ALL_WRONG
        return GroupKind.ALL_RIGHT if n_correct == len(self.verdicts) else GroupKind.MIXED


@dataclass(frozen=True, slots=True)
class Explanation:
    """A chain written with the answer in sight, to be trained on as if the answer had not been shown.

    `completion.prompt_ids` is the explanation prompt it was sampled after (question and answer); `prompt_ids` is the
    plain prompt (question alone) it is scored and trained after, with `target_ids` after it. `accepted` says whether
    the filter let it pass and `reason` why; `lift_nats` is log pi(a*|q,c) - log pi(a*|q), and `reliance_nats` the mean
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


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one plain prompt, the first of which is to be preferred; token ids as in `Completion`.

    `ref_chosen_nats` and `ref_rejected_nats` are their log-probabilities under the base model, summed over tokens.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    ref_chosen_nats: float
    ref_rejected_nats: float
