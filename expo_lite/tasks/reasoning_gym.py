"""reasoning-gym's generated puzzles, each with its own scorer: `reasoning-gym:NAME[,NAME]`.

A reply is right if its data set scores it at least 1 - 1e-6. The scorers are used as they are, and some give full marks
to wrong answers. They run in a process that may be killed, and with a fixed PYTHONHASHSEED, since some data sets follow
Python's string hashes. A data set has 500 problems to train on and 100 to test on, made from seeds far apart.
"""

import atexit
import importlib.util
import json
import random
import re
from functools import lru_cache
from typing import Any

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader, final_answer
from expo_lite.grading.process import Reply, Worker, serve
from expo_lite.records import Level, Problem, Verdict
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.machine import how_to_install
from expo_lite.tasks.base import Split
from expo_lite.tasks.splits import check_choice, normalised

_SEED_AND_SIZE = {"train": (1, 500), "test": (2**30, 100)}  # item i is made from seed + i
_RUN = """binary_matrix n_queens spiral_matrix string_insertion countdown puzzle24 intermediate_integration
polynomial_multiplication simple_integration""".split()  # their scorers hand the reply to `eval` or to sympy
_FUNCTIONS = "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln sqrt".split()
WORKER = Worker("-c", f"import {__name__} as g; g.run()", limit_s=60.0, environment={"PYTHONHASHSEED": "0"})
atexit.register(WORKER.close)


def is_safe(name: str, answer: str) -> bool:
    """Tell whether a scorer may see a reply: those that run it see only words, arithmetic and the usual functions."""
    calls = re.findall(r"(\w+)\s*\(", answer)
    plain = re.fullmatch(r"[\w\s.,()+*/^-]{0,1000}", answer) and not re.search(r"__|\.\s*[^\W\d]", answer)
    return name not in _RUN or bool(plain and all(word in _FUNCTIONS or word.isdigit() for word in calls))


def run() -> None:
    """Make and score items, in a process of their own."""
    import reasoning_gym  # type: ignore[import-untyped, import-not-found, unused-ignore]

    @lru_cache(maxsize=64)
    def data_set(name: str, settings: str, seed: int) -> Any:
        return reasoning_gym.create_dataset(name, size=500, seed=seed, **json.loads(settings))

    @lru_cache(maxsize=4096)
    def item(name: str, settings: str, seed: int, index: int) -> dict[str, Any]:
        return dict(data_set(name, settings, seed)[index])

    def reply(question: Reply) -> Reply:
        *of_set, _ = place = question["place"]
        try:
            entry, answer = item(*place), question.get("answer")
            score = 0.0 if answer is None else float(data_set(*of_set).score_answer(answer, entry))
            return {"question": entry["question"], "gold": entry["answer"], "score": score}
        except Exception as error:  # noqa: BLE001 (anybody's code, given a model's reply)
            return {"failed": f"{type(error).__name__}: {error}", "score": 0.0}

    serve(reply, memory_mib=6 * 1024)


class ReasoningGym:
    """Some data sets of reasoning-gym, mixed; a problem's `subject` is the name of its data set."""

    levels: tuple[Level, ...] = ()

    def __init__(self, name: str, settings: dict[str, dict[str, object]]) -> None:
        self.name = name
        self._settings = {subject: json.dumps(some, sort_keys=True) for subject, some in settings.items()}
        for subject in settings:
            self._made(subject, "test", 0)  # unknown names and settings are told now

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """Return the problems of a split, data set by data set; a limit takes as many of each as evenly can be."""
        check_choice(self.name, self.levels, levels, limit)
        n, size = len(self._settings), _SEED_AND_SIZE[split][1]
        shares = [size if limit is None else limit // n + (i < limit % n) for i in range(n)]
        chosen = (self._some(*each, seed) for each in zip(self._settings, [split] * n, shares, strict=True))
        return [problem for problems in chosen for problem in problems]

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge the final answer with the data set's own scorer; raises DataError for a problem of another task."""
        answer, where = (None, "truncated") if truncated else final_answer(completion)
        how = f"reasoning-gym {problem.subject}"
        if answer is None or not is_safe(str(problem.subject), answer):
            return Verdict(False, "different" if answer else where, how, answer)
        found = re.fullmatch(r"reasoning-gym/(\w+)/(train|test)/(\d+)", problem.problem_id)
        if found is None or found[1] not in self._settings or self._made(*found.groups()).question != problem.question:
            raise DataError(f"Problem {problem.problem_id!r} is not one of task {self.name!r} with these settings.")
        reply = WORKER.ask({"place": self._place(*found.groups()), "answer": answer}, limit_s=5.0)
        right = reply.get("score", 0.0) >= 1 - 1e-6
        return Verdict(right, "equal" if right else "timeout" if "error" in reply else "different", how, answer)

    def _place(self, subject: str, split: str, index: str) -> tuple[str, str, int, int]:
        return subject, self._settings[subject], _SEED_AND_SIZE[split][0], int(index)

    def _made(self, subject: str, split: str, index: str) -> Problem:
        made = WORKER.ask({"place": self._place(subject, split, index)})
        if not isinstance(made.get("gold"), str):
            why = made.get("failed") or made.get("error") or "it has no reference answer, only a checker"
            raise ConfigError(f"reasoning-gym's {subject} made no item {index}: {why}")
        name = f"reasoning-gym/{subject}/{split}/{index}"
        return Problem(name, made["question"], made["gold"], subject=subject)

    def _some(self, subject: str, split: Split, n_problems: int, seed: int) -> list[Problem]:
        """Make at most so many different problems, and not all: some data sets take a second for one."""
        places = list(range(_SEED_AND_SIZE[split][1]))
        seen = {normalised(p.question) for p in self._some(subject, "test", 100, 0)} if split == "train" else set()
        if n_problems < len(places):
            random.Random(f"{seed}-{subject}").shuffle(places)  # noqa: S311
        chosen: dict[int, Problem] = {}
        while places and len(chosen) < n_problems:
            problem = self._made(subject, split, str(index := places.pop(0)))
            if normalised(problem.question) not in seen:
                seen.add(normalised(problem.question))
                chosen[index] = problem
        return [chosen[index] for index in sorted(chosen)]


def load(name: str, _grader: Grader, options: TaskOptions) -> ReasoningGym:
    """Load the task `reasoning-gym:NAME[,NAME]`; raises ConfigError for unknown names and settings."""
    settings: dict[str, dict[str, object]] = {
        part.strip(): {} for part in name.partition(":")[2].split(",") if part.strip()
    }
    if not settings:
        raise ConfigError(f"Task {name!r} names no data set: expected reasoning-gym:NAME[,NAME].")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ConfigError(f"Task {name!r} needs reasoning-gym (and a C compiler): {how_to_install('reasoning-gym')}.")
    for word in options.difficulty:
        key, equals, text = word.partition("=")
        subject, _, field = key.strip().rpartition(".")
        if not equals or subject not in ("", *settings):
            raise ConfigError(f"Cannot read --difficulty {word!r}: expected KEY=VALUE, or NAME.KEY=VALUE for one NAME.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text.strip()  # a word needs no quotes
        for each in (subject,) if subject else settings:
            settings[each][field] = value
    return ReasoningGym(name, settings)
