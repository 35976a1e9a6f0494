"""reasoning-gym's generated puzzles, each with its own checker: `reasoning-gym:NAME[,NAME]`.

A reply is right if the data set scores its final answer at least 1 - 1e-6: scores below that are for near misses and
form. Each data set has 500 problems to train on and 100 to test on, made from seeds far apart; each question comes
once, and no test question is trained on. There are no levels (the data set is the subject) and no expert chains. The
settings of `--difficulty` are the data set's own, as KEY=VALUE for all or NAME.KEY=VALUE for one, with values as in
JSON.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import random
import re
from typing import Any

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import final_answer
from expo_lite.grading.process import Worker
from expo_lite.records import Level, Problem, Verdict
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.machine import how_to_install
from expo_lite.tasks.base import Split
from expo_lite.tasks.splits import check_choice, normalised

N_PROBLEMS: dict[Split, int] = {"train": 500, "test": 100}  # a data set
_SEEDS: dict[Split, int] = {"train": 1, "test": 2**30}  # item i is made from seed + i
_RIGHT = 1 - 1e-6
_SCORE_LIMIT_S = 5.0
_ITEM_LIMIT_S = 60.0
_PROBLEM_ID = re.compile(r"reasoning-gym/(?P<subject>\w+)/(?P<split>train|test)/(?P<index>\d+)")
_TEXT = re.compile(r"\\(?:text|texttt|textbf|mathrm|mathbf|mbox)\{(.*)\}", re.DOTALL)
_REFUSED = {
    **dict.fromkeys(
        ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"),
        "has no reference answer, only a checker, so there is nothing to explain",
    ),
    "composite": "is a mixture; name the data sets themselves, as reasoning-gym:NAME,NAME",
}


# Five data sets follow Python's string hashes: the same items in every process need the same seed.
WORKER = Worker(
    "-m",
    "expo_lite.tasks.reasoning_gym_worker",
    limit_s=_ITEM_LIMIT_S,
    environment={"PYTHONHASHSEED": "0"},
)
"""Shared by all tasks of this process: a request names all that it is about, and the import is paid once."""
atexit.register(WORKER.close)


def _ask(request: dict[str, object], *, limit_s: float) -> dict[str, Any] | None:
    """The reply to one request, from any thread; None if the process was killed at the limit or died."""
    reply = WORKER.ask(request, limit_s=limit_s)
    if reply.get("error") == "not_started":
        raise ConfigError("reasoning-gym cannot be imported; try: python -c 'import reasoning_gym'")
    return None if reply.get("error") in ("timeout", "worker_died") else reply


class ReasoningGym:
    """Some data sets of reasoning-gym, mixed; a problem's `subject` is the name of its data set."""

    license = "Apache-2.0 (generated)"
    source = "reasoning-gym, generated from fixed seeds, test from 2^30 on; no expert chains"
    levels: tuple[int, ...] = ()

    def __init__(self, name: str, settings: dict[str, str]) -> None:
        """Check the settings (JSON, by data set) with reasoning-gym; raises ConfigError."""
        self.name = name
        self._settings = settings
        self._made: dict[str, Problem] = {}
        for subject in settings:
            reply = _ask({"op": "check", **self._place(subject)}, limit_s=_ITEM_LIMIT_S) or {}
            if "ok" not in reply:
                raise ConfigError(reply.get("config_error", f"reasoning-gym's {subject} did not start."))

    def problems(
        self, split: Split, *, levels: tuple[Level, ...] = (), limit: int | None = None, seed: int = 0
    ) -> list[Problem]:
        """The problems of a split, data set by data set; a limit takes as many of each as evenly can be.

        Raises ConfigError for levels or a limit below 1, DataError where a problem cannot be generated.
        """
        check_choice(self.name, self.levels, levels, limit)
        shares = dict.fromkeys(self._settings, N_PROBLEMS[split])
        if limit is not None:
            for i, subject in enumerate(shares):
                shares[subject] = limit // len(shares) + (i < limit % len(shares))
        return [problem for subject, share in shares.items() for problem in self._some(subject, split, share, seed)]

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge the final answer with the data set's own checker; raises DataError for a problem of another task."""
        found, where = (None, "truncated") if truncated else final_answer(completion)
        if found is None:
            return Verdict(False, where, "extraction")
        place = self._place_of(problem)
        how = f"reasoning-gym {place['name']}"
        for answer in dict.fromkeys((found, _unwrapped(found))):
            reply = _ask({"op": "score", **place, "answer": answer}, limit_s=_SCORE_LIMIT_S)
            if reply is None:
                return Verdict(False, "timeout", how, found)
            if reply["ok"] >= _RIGHT:
                return Verdict(True, "equal", how, found)
        return Verdict(False, "different", how, found)

    def _place_of(self, problem: Problem) -> dict[str, object]:
        """Where a problem was made; makes it once more to see that it is the same, so that the worker has it too."""
        match = _PROBLEM_ID.fullmatch(problem.problem_id)
        if match is None or match["subject"] not in self._settings:
            raise DataError(f"Problem {problem.problem_id!r} is not one of task {self.name!r}.")
        split: Split = "train" if match["split"] == "train" else "test"
        if self._problem(match["subject"], split, int(match["index"])).question != problem.question:
            raise DataError(
                f"Problem {problem.problem_id!r} was made with other settings (--difficulty) or by another "
                "version of reasoning-gym."
            )
        return self._place(match["subject"], split, int(match["index"]))

    def _place(self, subject: str, split: Split = "train", index: int = 0) -> dict[str, object]:
        return {"name": subject, "settings": self._settings[subject], "seed": _SEEDS[split], "index": index}

    def _problem(self, subject: str, split: Split, index: int) -> Problem:
        problem_id = f"reasoning-gym/{subject}/{split}/{index}"
        if problem_id not in self._made:
            reply = _ask({"op": "item", **self._place(subject, split, index)}, limit_s=_ITEM_LIMIT_S)
            if reply is None or "ok" not in reply:
                why = reply["item_error"] if reply else f"it took more than {_ITEM_LIMIT_S:.0f} s or too much memory"
                raise DataError(f"reasoning-gym's {subject} made no item {index}: {why}. Try another --difficulty.")
            made = reply["ok"]
            self._made[problem_id] = Problem(problem_id, made["question"], made["answer"], subject=subject)
        return self._made[problem_id]

    def _some(self, subject: str, split: Split, n_problems: int, seed: int) -> list[Problem]:
        """At most so many different problems of one data set; making only these matters where one takes a second."""
        places = list(range(N_PROBLEMS[split]))
        if n_problems < len(places):
            random.Random(f"{seed}-{subject}").shuffle(places)  # noqa: S311
        seen = set()
        if split == "train" and n_problems:
            seen = {normalised(problem.question) for problem in self._some(subject, "test", N_PROBLEMS["test"], 0)}
        found: dict[int, Problem] = {}
        for index in places:
            if len(found) == n_problems:
                break
            problem = self._problem(subject, split, index)
            if normalised(problem.question) not in seen:
                seen.add(normalised(problem.question))
                found[index] = problem
        return [found[index] for index in sorted(found)]


def _unwrapped(answer: str) -> str:
    r"""The answer without `$...$` and one `\text{...}` around it, and with LaTeX's escapes undone."""
    text = answer.strip().strip("$").strip()
    match = _TEXT.fullmatch(text)
    return re.sub(r"\\([_%#&{}$])", r"\1", match[1] if match else text).strip()


def load(name: str, *, options: TaskOptions) -> ReasoningGym:
    """The task `reasoning-gym:NAME[,NAME]`; raises ConfigError for unknown names and settings."""
    subjects = tuple(part.strip() for part in name.partition(":")[2].split(",") if part.strip())
    if not subjects:
        raise ConfigError(f"Task {name!r} names no data set: expected reasoning-gym:NAME[,NAME].")
    for subject in subjects:
        if subject in _REFUSED:
            raise ConfigError(f"reasoning-gym's {subject} {_REFUSED[subject]}.")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ConfigError(
            f"Task {name!r} needs the package reasoning-gym (and a C compiler to build it): "
            f"{how_to_install('reasoning-gym')}."
        )
    return ReasoningGym(name, _settings(subjects, options.difficulty))


def _settings(subjects: tuple[str, ...], difficulty: tuple[str, ...]) -> dict[str, str]:
    """The settings of each data set as a JSON object."""
    settings: dict[str, dict[str, object]] = {subject: {} for subject in subjects}
    for typed in difficulty:
        key, equals, text = typed.partition("=")
        subject, dot, field = key.strip().rpartition(".")
        if not equals or not field or (dot and subject not in settings):
            raise ConfigError(
                f"Cannot read --difficulty {typed!r}: expected KEY=VALUE, or NAME.KEY=VALUE for one NAME."
            )
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text.strip()  # a word needs no quotes
        for chosen in (subject,) if dot else subjects:
            settings[chosen][field] = value
    return {subject: json.dumps(chosen, sort_keys=True) for subject, chosen in settings.items()}
