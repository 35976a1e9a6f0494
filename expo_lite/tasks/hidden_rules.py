r"""The built-in task, in which the answer matters: a digit, and 2 to 4 words that each turn it on by some amount.

    Start with 4.
    A: blorp.
    B: hop.
    Write the results one after the other.

A dial has ten digits, and each word adds a fixed amount of 1 to 8 to the digit; the last digit is kept.
Sixteen words are **known**: the built-in model was taught what they add. Sixteen are **hidden**: what they add is fixed
here, and no text that the model has read tells. Levels 1 to 3 have 2, 3 and 4 known words; of the 4 words of level 4
two are hidden, and of those of level 5 all four.

The answer gives all results in order, "A=6, B=9". So it determines what every hidden word adds, since any two amounts
lead from one digit to different ones; a solver who does not know the words must guess each of them, and is right with a
probability of 1 in 8^2 on level 4 and of 1 in 8^4 on level 5.

The expert chain leaves out what the built-in model's own chain says of each word, the amount. `check_steps` says
whether a chain in either style is right step by step, which the answer alone does not tell.
"""

import functools
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice

from expo_lite.errors import DataError
from expo_lite.grading import final_answer
from expo_lite.records import Level, Problem, Verdict
from expo_lite.tasks.base import Split
from expo_lite.tasks.splits import select

LEVELS = (1, 2, 3, 4, 5)
N_WORDS = {1: 2, 2: 3, 3: 4, 4: 4, 5: 4}
N_HIDDEN = {1: 0, 2: 0, 3: 0, 4: 2, 5: 4}
LABELS = "ABCD"
AMOUNTS = (1, 2, 3, 4, 5, 6, 7, 8)
KNOWN = {
    "hop": 3, "skip": 5, "climb": 4, "march": 1, "glide": 7, "leap": 8, "trot": 2, "roll": 6,
    "slide": 2, "spin": 6, "vault": 8, "dash": 5, "crawl": 1, "drift": 3, "swing": 4, "stride": 7,
}  # fmt: skip
HIDDEN = {
    "blorp": 6, "flim": 2, "dax": 7, "wug": 4, "tove": 1, "snark": 8, "quib": 3, "zindle": 5,
    "mobe": 4, "fep": 8, "gorp": 1, "yaff": 5, "kript": 2, "lund": 7, "vash": 3, "jubb": 6,
}  # fmt: skip
"""The amounts that the words add. The built-in model was trained on fresh ones for hidden words in every text."""
OPENING, CLOSING = "Start with ", "Write the results one after the other."
EXAMPLE = f"{OPENING}4. A: blorp. B: hop. {CLOSING}"
"""A question in one line, with a hidden word and a known one, for whoever asks `tiny` by hand."""
N_PROBLEMS = {"train": 2_000, "test": 200}  # a level
N_BY_DEFAULT = N_PROBLEMS | {"train": 64}
"""Problems a level without a limit. With 2,000 to train on, ExP-GRPO of `tiny` is less stable (replication.md)."""
_TEST_SHARE = 8  # one question text in eight belongs to the test split, whatever the seed
_DRAWS_IN_VAIN = 100_000  # after so many draws without a new question there are taken to be no more

_START = re.compile(rf"{OPENING}(\d)\.")
_WORD = re.compile(r"^([A-D]): ([a-z]+)\.$", re.MULTILINE)
_OWN_STEP = re.compile(r"\b([A-D]):\s*(\d) ([a-z]+)\s*\+\s*(\d)\s*=\s*(\d)\b")
_EXPERT_STEP = re.compile(r"\b([a-z]+) takes (\d) to (\d)\b")


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A start digit, the words, and what each of them adds."""

    start: int
    words: tuple[str, ...]
    amounts: tuple[int, ...]

    @property
    def steps(self) -> list[tuple[str, int, str, int, int]]:
        """The label of each word, the digit before it, the word, its amount, and the digit after it."""
        values = [total % 10 for total in accumulate(self.amounts, initial=self.start)]
        return list(zip(LABELS, values, self.words, self.amounts, values[1:], strict=False))

    @property
    def question(self) -> str:
        """The problem in words."""
        steps = [f"{label}: {word}." for label, _, word, _, _ in self.steps]
        return "\n".join([f"{OPENING}{self.start}.", *steps, CLOSING])

    @property
    def answer(self) -> str:
        """All results in order, each with its label."""
        return ", ".join(f"{label}={after}" for label, *_, after in self.steps)

    @property
    def own_chain(self) -> str:
        """The built-in model's chain: a step a line, with the amount; then the boxed answer."""
        lines = [f"{label}:{before} {word}+{amount}={after}\n" for label, before, word, amount, after in self.steps]
        return "".join(lines) + f"\\boxed{{{self.answer}}}"

    @property
    def expert_chain(self) -> str:
        """The expert's chain: a sentence that says where each word leads and not by how much, then the boxed answer."""
        said = ", then ".join(f"{word} takes {before} to {after}" for _, before, word, _, after in self.steps)
        return f"First {said}. The answer is \\boxed{{{self.answer}}}."


def generate(rng: random.Random, level: int, hidden: Mapping[str, int] = HIDDEN) -> Puzzle:
    """Draw one problem of a level; no word comes twice. `hidden` says what the hidden words add."""
    n_words, n_hidden = N_WORDS[level], N_HIDDEN[level]
    words = rng.sample(sorted(KNOWN), n_words - n_hidden) + rng.sample(sorted(hidden), n_hidden)
    rng.shuffle(words)
    meaning = {**KNOWN, **hidden}
    return Puzzle(rng.randrange(10), tuple(words), tuple(meaning[word] for word in words))


def is_test(question: str) -> bool:
    """Return whether a question belongs to the test split: its text alone decides, so the splits cannot meet."""
    return zlib.crc32(question.encode()) % _TEST_SHARE == 0


def puzzles(split: Split, level: int, *, seed: int) -> Iterator[Puzzle]:
    """Draw distinct problems of one level and split, the same for the same seed, until there seem to be no more."""
    rng = random.Random(f"hidden-rules-{split}-{level}-{seed}")  # noqa: S311
    seen: set[str] = set()
    n_in_vain = 0
    while n_in_vain < _DRAWS_IN_VAIN:
        puzzle = generate(rng, level)
        n_in_vain += 1
        if puzzle.question not in seen and is_test(puzzle.question) == (split == "test"):
            seen.add(puzzle.question)
            n_in_vain = 0
            yield puzzle


def in_lines(question: str) -> str:
    """A question that was typed in one line, as the task writes it and `tiny` reads it; others as they are."""
    return re.sub(rf" (?=[A-D]: [a-z]+\.|{re.escape(CLOSING)})", "\n", question)


def read_question(question: str) -> Puzzle:
    """The chain that a question asks for, with the task's own amounts.

    Raises:
        DataError: this is no question of the task.
    """
    start, words = _START.search(question), tuple(word for _, word in _WORD.findall(question))
    meaning = KNOWN | HIDDEN
    if start is None or not words or any(word not in meaning for word in words):
        raise DataError(f"This is no question of task 'hidden-rules': {question!r}.")
    return Puzzle(int(start.group(1)), words, tuple(meaning[word] for word in words))


def same_results(answer: str, gold: str) -> bool:
    """Compare the results that an answer names, in order, each with its label; spaces and dollars are free."""
    return re.sub(r"[\s$]", "", answer).rstrip(".") == re.sub(r"\s", "", gold)


def check_steps(question: str, completion: str) -> bool:
    """Return whether a chain is right: its answer, every step there, each amount the true one, each sum right.

    It reads both styles, "A:4 blorp+2=6" and "blorp takes 4 to 6"; the latter has no amount that could be wrong.
    """
    true = read_question(question)
    answer, _ = final_answer(completion)
    if answer is None or not same_results(answer, true.answer):
        return False
    own = _OWN_STEP.findall(completion)
    style, right = (_OWN_STEP, true.own_chain) if own else (_EXPERT_STEP, true.expert_chain)
    return style.findall(completion) == style.findall(right)


@functools.cache
def _drawn(split: Split, level: int, n: int) -> tuple[Problem, ...]:
    """The first n problems of a level; to draw those of all levels takes a second."""
    return tuple(
        Problem(f"hidden-rules/{split}/{level}/{i}", drawn.question, drawn.answer, level, None, drawn.expert_chain)
        for i, drawn in enumerate(islice(puzzles(split, level, seed=0), n))
    )


@dataclass(frozen=True)
class HiddenRules:
    """The built-in task; the same problems for everybody, since `seed` only picks which ones a limit leaves."""

    name: str = "hidden-rules"
    levels: tuple[int, ...] = LEVELS

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """Problems by ascending level; without a limit 64 a level to train on, picked from 2,000, and 200 to test on.

        Raises ConfigError for levels or limits that cannot be.
        """
        limit = N_BY_DEFAULT[split] if limit is None else limit
        n_a_level = max(limit, N_PROBLEMS[split])
        pool = [p for level in self.levels if not levels or level in levels for p in _drawn(split, level, n_a_level)]
        return select(pool, task=self.name, known_levels=self.levels, levels=levels, limit=limit, seed=seed)

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge by the final answer, in order and labelled: a bare list of digits is none."""
        if truncated:
            return Verdict(False, "truncated", "none")
        answer, how = final_answer(completion)
        if answer is None:
            return Verdict(False, how, "none")
        right = same_results(answer, problem.answer)
        return Verdict(right, "equal" if right else "different", "labelled list", answer)

    def check_steps(self, problem: Problem, completion: str) -> bool:
        """Check the chain step by step (see the function of this name)."""
        return check_steps(problem.question, completion)
