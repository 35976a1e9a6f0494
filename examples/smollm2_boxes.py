r"""Problems about boxes of things, for the SmolLM2 runs, and a check of their chains.

    uv run python examples/smollm2_boxes.py runs/smollm2

prints, for each run of that plan, the share of valid chains among accepted explanations and among completions that were
judged right: the verifier only looks at the final answer. It then prints the differences in accuracy that `expo-lite
replicate` does not ask for, judged in the same way.

A product of the test split occurs nowhere else: not in training, and not in the easy problems with which
`smollm2_format.py` teaches the form of an answer. Of the hard products that are not also easy, every third in ascending
order is held out.
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Literal

from expo_lite.results.figures import Evaluation
from expo_lite.run.folder import JsonLines
from expo_lite.sweep.claims import better
from expo_lite.sweep.results import BASE, Results, RunResult

Split = Literal["easy", "train", "test"]
NAMES = ("Anna", "Ben", "Clara", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "books", "cards", "coins", "marbles", "pencils", "shells", "stamps", "stickers", "tickets")
EASY, HARD = ((2, 4), (1, 5)), ((3, 9), (5, 30))
"""Bounds of the number of boxes and of things in each, and of the number of things found."""


def products(bounds: tuple[int, int]) -> set[int]:
    """All products of two numbers within the bounds."""
    numbers = range(bounds[0], bounds[1] + 1)
    return {a * b for a in numbers for b in numbers}


HELD_OUT = frozenset(sorted(products(HARD[0]) - products(EASY[0]))[1::3])
"""The products of the test split: 18, 24, 28, 35, 42, 49, 63 and 81."""


def problems(split: Split, n: int) -> list[dict[str, Any]]:
    """Distinct problems, the same every time, each with an expert chain in GSM8K's style and a terse one."""
    each_bounds, more_bounds = EASY if split == "easy" else HARD
    rng = random.Random(1 if split == "test" else 0)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < n:
        name, things = rng.choice(NAMES), rng.choice(THINGS)
        boxes, each, more = rng.randint(*each_bounds), rng.randint(*each_bounds), rng.randint(*more_bounds)
        product, total = boxes * each, boxes * each + more
        if (product in HELD_OUT) != (split == "test"):
            continue
        question = (
            f"{name} buys {boxes} boxes with {each} {things} in each, and finds {more} more {things}. "
            f"How many {things} does {name} have?"
        )
        rows[question] = {
            "question": question,
            "answer": str(total),
            "level": 1,
            "expert_chain": f"In the boxes are {boxes}*{each}=<<{boxes}*{each}={product}>>{product} {things}.\n"
            f"With the others that makes {product}+{more}=<<{product}+{more}={total}>>{total}.\n\\boxed{{{total}}}",
            "terse_chain": f"{boxes} * {each} = {product}, and {product} + {more} = {total}. "
            f"The answer is \\boxed{{{total}}}.",
        }
    return list(rows.values())


_CALCULATOR = re.compile(r"<<([^<>]*)>>")
_TIMES = re.compile(r"\\times|\\cdot|\u00d7|\u00b7|(?<=\d)\s*[xX]\s*(?=\d)")
_NUMBER = r"(?<![\d.])\d+(?![\d]|\.\d)"
_EQUATION = re.compile(rf"({_NUMBER}(?:\s*[-+*]\s*{_NUMBER})+)\s*=\s*({_NUMBER})")
StepReason = Literal["valid", "no_equation", "unread", "wrong_equation", "foreign_number", "unused_number", "elsewhere"]


def check_chain(question: str, answer: str, chain: str) -> StepReason:
    r"""Name the fault of a chain in one word; "valid" if it has none.

    Every equation must hold. Its numbers must come from the question or from earlier results. Each number of the
    question must be used as often as it occurs. The last result and the box must be the answer. The check is strict: an
    equals sign outside an equation of whole numbers with + - * is "unread".
    """
    text = _TIMES.sub("*", _CALCULATOR.sub("", chain)).replace("$", "")
    inner = [_EQUATION.fullmatch(_TIMES.sub("*", found).strip()) for found in _CALCULATOR.findall(chain)]
    equations = list(_EQUATION.finditer(text))
    if text.count("=") != len(equations) or None in inner:
        return "unread"
    if not equations:
        return "no_equation"
    if any(_value(found[1]) != int(found[2]) for found in (*equations, *filter(None, inner))):
        return "wrong_equation"
    asked, used, results = Counter(re.findall(r"\d+", question)), Counter[str](), set[str]()
    for found in equations:
        for number in re.findall(r"\d+", found[1]):
            if number in results and used[number] >= asked[number]:
                continue
            if number not in asked:
                return "foreign_number"
            used[number] += 1
        results.add(found[2])
    if asked - used:
        return "unused_number"
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", chain)
    return "valid" if equations[-1][2] == answer and boxes and boxes[-1].strip() == answer else "elsewhere"


def _value(expression: str) -> int:
    """Evaluate whole numbers joined by + - *, products first."""
    terms = re.findall(r"([-+]?)\s*(\d+(?:\s*\*\s*\d+)*)", expression)
    return sum((-1 if sign == "-" else 1) * prod(map(int, term.split("*"))) for sign, term in terms)


KINDS = ("accepted explanations", "completions in training, judged right", "held out, judged right")


def chains(runs: list[Path]) -> dict[str, Counter[str]]:
    """Count the chains of these runs that were judged right, by kind and by the fault found here."""
    found = {kind: Counter[str]() for kind in KINDS}
    for run in runs:
        for row in JsonLines(run / "samples.jsonl").read():
            explanation = row["kind"] == "explanation"
            if row["accepted"] if explanation else row["correct"]:
                found[KINDS[0] if explanation else KINDS[1]][_checked(row)] += 1
        *_, last = sorted((run / "evaluation").glob("step-*"), key=lambda path: path.stem)
        for row in JsonLines(last.with_suffix("") / "samples.jsonl").read():
            if row["kind"] != "greedy" and row["correct"]:
                found[KINDS[2]][_checked(row)] += 1
    return found


def _checked(row: dict[str, Any]) -> StepReason:
    return check_chain(row["prompt"], row["gold"], row["completion"])


PAIRS = (
    ("exp-grpo", "wrong-answer"),
    ("exp-grpo", "grpo"),
    ("exp-grpo", BASE),
    ("exp-grpo", "gt-sft-grpo"),
    ("exp-grpo", "gt-sft-grpo-terse"),
    ("gt-sft-grpo", "grpo"),
    ("gt-sft-grpo-terse", "grpo"),
    ("gt-sft-grpo-terse", "gt-sft-grpo"),
)
"""Pairs of which the first should lie above the second; settled before the runs."""


def differences(runs: dict[str, list[Path]]) -> Iterator[str]:
    """Every pair's difference in accuracy, with its verdict."""
    found: dict[str, dict[int, RunResult]] = {}
    for name, folders in runs.items():
        for run in folders:
            before, *_, after = map(_evaluation, sorted((run / "evaluation").glob("step-*.json")))
            found.setdefault(name, {})[int(run.name.rpartition("-seed")[2])] = RunResult(before, after, ())
    results = Results(found, {}, 1)
    for ours, theirs in PAIRS:
        part = better(results, ours, theirs, results.hardest)
        if part.estimate is not None:
            yield f"pass@1: {part.statement}: {part.figure}, {part.n_seeds} seeds: {part.verdict}"


def _evaluation(file: Path) -> Evaluation:
    return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))


def main() -> None:
    """Print the rates of a plan's runs, all seeds of a run together, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the plan, as --output names it")
    runs: dict[str, list[Path]] = {}
    for run in sorted(parser.parse_args().folder.glob("runs/*-seed*")):
        runs.setdefault(run.name.rpartition("-seed")[0], []).append(run)
    for name, folders in runs.items():
        for kind, counts in chains(folders).items():
            if n := counts.total():
                why = ", ".join(f"{reason} {count}" for reason, count in counts.most_common() if reason != "valid")
                print(f"{name}: {kind}: {counts['valid']} of {n} valid" + (f" ({why})" if why else ""))
    for line in differences(runs):
        print(line)


if __name__ == "__main__":
    main()
