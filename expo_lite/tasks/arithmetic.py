r"""A task that needs no data: a number, and 2 to 8 operations to carry out on it, one after the other.

    Start with 47.
    A: add 18.
    B: multiply by 3.
    C: subtract 19.
    What is the result?

Levels 1 to 5 have 2, 3, 4, 6 and 8 operations. Answers of levels 4 and 5 are at least 1,000, and there are thousands
of them, so that pass@64 is not a matter of luck. The expert chain is the terse prose of a textbook: it takes two
operations at a time and leaves the work between them to the reader. It is right, and unlike what a small model writes
by itself.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from expo_lite.records import Level, Problem, Verdict
from expo_lite.tasks.splits import check_choice, distinct, select

if TYPE_CHECKING:
    from expo_lite.grading import Grader

LEVELS = (1, 2, 3, 4, 5)
N_OPERATIONS = {1: 2, 2: 3, 3: 4, 4: 6, 5: 8}
SMALLEST_ANSWER = {1: 0, 2: 0, 3: 0, 4: 1_000, 5: 1_000}
LABELS = "ABCDEFGH"
LARGEST_FACTOR = 999
LARGEST_VALUE = 9_999
N_PROBLEMS = {"train": 2_000, "test": 200}  # a level

_WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}


@dataclass(frozen=True, slots=True)
class Sum:
    """A start value and the operations on it; `values` has the start and the value after each operation."""

    values: tuple[int, ...]
    operations: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        """The problem in words."""
        steps = [
            f"{label}: {_WORDS[sign]} {operand}."
            for label, (sign, operand) in zip(LABELS, self.operations, strict=False)
        ]
        return "\n".join([f"Start with {self.values[0]}.", *steps, "What is the result?"])

    @property
    def expert_chain(self) -> str:
        """The textbook's chain: two operations a sentence, then the boxed answer."""
        sentences = []
        for i in range(0, len(self.operations), 2):
            pair = self.operations[i : i + 2]
            expression = str(self.values[i])
            for sign, operand in pair:
                left = f"({expression})" if " " in expression else expression
                expression = f"{left} {sign} {operand}"
            lead = "First" if i == 0 else "Then"
            sentences.append(f"{lead}, {expression} gives {self.values[i + len(pair)]}.")
        return " ".join(sentences) + f" The answer is \\boxed{{{self.values[-1]}}}."


def generate(rng: random.Random, level: int) -> Sum:
    """Draw one problem of a level; all values on the way stay within 0 and 9,999.

    Sums and differences are with numbers of two digits, products are of numbers up to 999 with 2 to 5.
    """
    while True:
        values = [rng.randint(10, 99)]
        operations: list[tuple[str, int]] = []
        for _ in range(N_OPERATIONS[level]):
            value = values[-1]
            sign = rng.choice("+-*" if value <= LARGEST_FACTOR else "+-")
            operand = rng.randint(2, 5) if sign == "*" else rng.randint(10, 99)
            operations.append((sign, operand))
            values.append({"+": value + operand, "-": value - operand, "*": value * operand}[sign])
        if min(values) >= 0 and max(values) <= LARGEST_VALUE and values[-1] >= SMALLEST_ANSWER[level]:
            return Sum(tuple(values), tuple(operations))


def sums(split: Literal["train", "test"], level: int, *, seed: int) -> Iterator[Sum]:
    """Distinct problems of one level and split (`splits.distinct`)."""
    return distinct(generate, "arithmetic", split, level, seed)


@dataclass(frozen=True)
class Arithmetic:
    """Chains of sums and products; the same problems for everybody, as `seed` only picks what a limit leaves."""

    grader: "Grader"
    name: str = "arithmetic"
    license: str = "CC0-1.0 (generated)"
    source: str = "generated; expert chains in the terse prose of a textbook; one question text in 8 is test, by CRC"
    levels: tuple[int, ...] = LEVELS

    def problems(
        self,
        split: Literal["train", "test"],
        *,
        levels: tuple[Level, ...] = (),
        limit: int | None = None,
        seed: int = 0,
    ) -> list[Problem]:
        """Problems by ascending level: 2,000 a level to train on and 200 to test on, more only if the limit is higher.

        Raises ConfigError for levels or limits that cannot be.
        """
        check_choice(self.name, self.levels, levels, limit)
        n_a_level = max(limit or 0, N_PROBLEMS[split])
        pool = [
            Problem(
                problem_id=f"arithmetic/{split}/{level}/{i}",
                question=drawn.question,
                answer=str(drawn.values[-1]),
                level=level,
                expert_chain=drawn.expert_chain,
            )
            for level in self.levels
            if not levels or level in levels
            for i, drawn in enumerate(islice(sums(split, level, seed=0), n_a_level))
        ]
        return select(pool, task=self.name, known_levels=self.levels, levels=levels, limit=limit, seed=seed)

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge a completion by its final answer."""
        return self.grader.grade(problem.answer, completion, truncated=truncated)
