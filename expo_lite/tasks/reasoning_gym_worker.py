r"""The process that runs reasoning-gym: makes its items and scores answers to them, one JSON message in, one out.

Why a process of its own: five data sets follow Python's string hashes, so that only a fixed PYTHONHASHSEED makes them
the same everywhere; some scorers hand the model's reply to `eval` or `sympy.parse_expr`, which may never come back; and
the import takes seconds. Run as `python -m expo_lite.tasks.reasoning_gym_worker`; it ends with its standard input.

Requests: {"op": "check", "name", "settings"}, {"op": "item", "name", "settings", "seed", "index"} and
{"op": "score", ..., "answer"}. Replies: {"ok": ...} or {"config_error": TEXT} or {"item_error": TEXT}.
"""

import ast
import dataclasses
import difflib
import fractions
import functools
import json
import math
import re
import tokenize
import warnings
from typing import Any

from expo_lite.grading.process import serve

SIZE = 500  # of every data set: some make other items when their size differs
_MEMORY_MIB = 6 * 1024
_EVALUATING = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_PARSING = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
_FUNCTIONS = frozenset("sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln sqrt".split())
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,  # RecursionError too
    SyntaxError,
    TypeError,
    ValueError,  # sympy's SympifyError too
    tokenize.TokenError,
)


def is_safe(name: str, answer: str) -> bool:
    """Whether a reply may be shown to a data set's own scorer.

    Four scorers `eval` what they do not recognise (and give it at most 0.5, so nothing right is lost); they see words
    and numbers only. Five parse it as a formula; they see arithmetic and the usual functions only.
    """
    if name in _EVALUATING:
        return re.fullmatch(r"[\w\s-]*", answer) is not None and len(answer) < 10_000
    if name in _PARSING:
        called = re.findall(r"(\w+)\s*\(", answer)
        return (
            re.fullmatch(r"[\w\s.,()+*/^-]{0,1000}", answer) is not None
            and re.search(r"__|\.\s*[^\W\d]", answer) is None
            and all(word in _FUNCTIONS or word.isdigit() for word in called)
        )
    return len(answer) < 100_000


@functools.lru_cache(maxsize=64)
def data_set(name: str, settings: str, seed: int) -> Any:
    """A reasoning-gym data set; `settings` is a JSON object. Raises ValueError with text for the user."""
    import reasoning_gym  # type: ignore[import-untyped, import-not-found, unused-ignore]
    from reasoning_gym.factory import DATASETS  # type: ignore[import-untyped, import-not-found, unused-ignore]

    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"reasoning-gym has no data set {name!r}.{hint}")
    known = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"seed", "size"}
    given: dict[str, object] = json.loads(settings)
    for key in given:
        if key not in known:
            raise ValueError(f"reasoning-gym's {name} has no setting {key!r}; it has {', '.join(sorted(known))}.")
    try:
        return reasoning_gym.create_dataset(name, size=SIZE, seed=seed, **given)
    except _FAILURES as error:
        text = f"{error}" or type(error).__name__
        raise ValueError(f"reasoning-gym's {name} refuses the settings {settings}: {text}.") from error


@functools.lru_cache(maxsize=4096)
def item(name: str, settings: str, seed: int, index: int) -> dict[str, Any]:
    """One item: question, answer, metadata."""
    made: dict[str, Any] = data_set(name, settings, seed)[index]
    return made


def score(name: str, settings: str, seed: int, index: int, answer: str) -> float:
    """The data set's own score of an answer, 0 to 1; 0 where the scorer cannot take it."""
    if not is_safe(name, answer):
        return 0.0
    entry = item(name, settings, seed, index)
    try:
        if not fits(name, answer, entry):
            return 0.0
        points = float(data_set(name, settings, seed).score_answer(answer, entry))
    except _FAILURES:
        return 0.0
    return math.floor(points) if name == "time_intervals" else points  # a second in 100 days costs it 1e-7


def fits(name: str, answer: str, entry: dict[str, Any]) -> bool:
    """What some scorers of reasoning-gym 0.1.25 forget to ask, and so give full marks to wrong answers."""
    gold: str = entry["answer"]
    if name in ("game_of_life_halting", "letter_jumble", "spell_backward"):
        # any text counts as True; words and letters after the right ones are not looked at
        return answer.casefold() == gold.strip().casefold()
    if name == "puzzle24":  # any four numbers will do
        return sorted(map(int, re.findall(r"\d+", answer))) == sorted(entry["metadata"]["numbers"])
    if name == "coin_flip":  # '0' begins like 0.25, and is close to 0.00003
        given, wanted = float(fractions.Fraction(answer.replace(",", ""))), float(fractions.Fraction(gold))
        return abs(given - wanted) <= min(1e-4, 0.01 * abs(wanted))
    if name == "number_sorting":  # each number may be off by one
        given_all, wanted_all = ([float(n) for n in ast.literal_eval(text)] for text in (answer, gold))
        return all(math.isclose(one, other) for one, other in zip(given_all, wanted_all, strict=True))
    if name == "gsm_symbolic":  # only the first of several numbers is looked at
        return len(re.findall(r"\d+(?:\.\d+)?", answer)) == 1
    return True


def reply(request: dict[str, Any]) -> dict[str, object]:
    """Carry out one request."""
    name, settings = request["name"], request["settings"]
    if request["op"] == "check":
        try:
            data_set(name, settings, 0)
        except ValueError as error:
            return {"config_error": str(error)}
        return {"ok": True}
    place = (name, settings, request["seed"], request["index"])
    if request["op"] == "score":
        return {"ok": score(*place, request["answer"])}
    try:
        made = item(*place)
    except _FAILURES as error:
        return {"item_error": f"{type(error).__name__}: {error}"}
    return {"ok": {"question": made["question"], "answer": made["answer"]}}


if __name__ == "__main__":
    import reasoning_gym  # type: ignore[import-untyped, import-not-found, unused-ignore]  # noqa: F401

    warnings.simplefilter("ignore")  # of the packages below reasoning-gym
    serve(reply, memory_mib=_MEMORY_MIB)
