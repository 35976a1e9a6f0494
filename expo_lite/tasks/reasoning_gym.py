"""reasoning-gym's generated puzzles, each with its own scorer: `reasoning-gym:NAME[,NAME]`.

A reply is right if its data set scores it at least 1 - 1e-6. The scorers are used as they are, and some give full marks
to wrong answers. They run in a process that may be killed, and with a fixed PYTHONHASHSEED, since some data sets follow
Python's string hashes. Loading makes 500 problems to train on and 100 to test on, which takes minutes for a few sets.
"""

import atexit
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from expo_lite.errors import ConfigError
from expo_lite.grading import Grader, final_answer
from expo_lite.grading.process import Reply, Worker, serve
from expo_lite.records import Problem, Verdict
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.machine import how_to_install
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.splits import normalised, without_test_questions

_SEEDS = {"train": (1, 500), "test": (2**30, 100)}  # item i is made from seed + i
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

    def reply(question: Reply) -> Reply:
        """Return some items, or the score of an answer."""
        try:
            items = data_set(*question["set"])
            if "answer" in question:
                return {"score": float(items.score_answer(question["answer"], items[question["index"]]))}
            return {"items": [(items[i]["question"], items[i]["answer"]) for i in range(question["n"])]}
        except Exception as error:  # noqa: BLE001 (anybody's code, given a model's reply)
            return {"failed": f"{type(error).__name__}: {error}"}

    serve(reply, memory_mib=6 * 1024)


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(FixedTask):
    """Some data sets of reasoning-gym, mixed; a problem's `subject` is the name of its data set."""

    settings: Mapping[str, str]
    """The settings of each data set, as JSON."""

    def grade(self, problem: Problem, completion: str, *, truncated: bool = False) -> Verdict:
        """Judge the final answer with the data set's own scorer."""
        answer, where = (None, "truncated") if truncated else final_answer(completion)
        _, name, split, index = problem.problem_id.split("/")
        how = f"reasoning-gym {name}"
        if answer is None or not is_safe(name, answer):
            return Verdict(False, "different" if answer else where, how, answer)
        made_from = name, self.settings[name], _SEEDS[split][0]
        reply = WORKER.ask({"set": made_from, "index": int(index), "answer": answer}, limit_s=5.0)
        if "error" in reply:
            return Verdict(False, "timeout", how, answer)
        right = reply.get("score", 0.0) >= 1 - 1e-6
        return Verdict(right, "equal" if right else "different", how, answer)


def _items(name: str, settings: str, split: str) -> list[Problem]:
    """Make the problems of a split of one data set, each question once."""
    seed, n = _SEEDS[split]
    reply = WORKER.ask({"set": (name, settings, seed), "n": n}, limit_s=1_000.0)
    problems: dict[str, Problem] = {}
    for i, (question, answer) in enumerate(reply.get("items", ())):
        if not isinstance(answer, str):
            raise ConfigError(f"reasoning-gym's {name} has no reference answer, only a checker: nothing to explain.")
        problem = Problem(f"reasoning-gym/{name}/{split}/{i}", question, answer, subject=name)
        problems.setdefault(normalised(question), problem)
    if not problems:
        raise ConfigError(f"reasoning-gym's {name} makes no items: {reply.get('failed') or reply['error']}.")
    return list(problems.values())


def load(name: str, grader: Grader, options: TaskOptions) -> ReasoningGym:
    """Load the task `reasoning-gym:NAME[,NAME]`; raises ConfigError for unknown names and settings."""
    settings = {part.strip(): dict[str, object]() for part in name.partition(":")[2].split(",") if part.strip()}
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
    of_sets = {each: json.dumps(some, sort_keys=True) for each, some in settings.items()}
    test, train = ([p for pair in of_sets.items() for p in _items(*pair, split)] for split in ("test", "train"))
    kept = tuple(without_test_questions(train, test))
    return ReasoningGym(name=name, levels=(), train=kept, test=tuple(test), grader=grader, settings=of_sets)
