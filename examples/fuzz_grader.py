r"""Try to stop the grader with mutated replies and reference answers; name the slowest verdicts.

    uv run examples/fuzz_grader.py                          # replies made from the shipped cases
    uv run examples/fuzz_grader.py --data FOLDER --replies 20000

FOLDER holds JSONL files, in it or below it, whose rows have a chain of thought: `answer` ending in "#### n" (GSM8K) or
`solution` with a `\boxed{}` (MATH). The mutations: cut at every token, a part wrapped 1 to 300 times in braces, boxes
or fractions, a part repeated to 10,000 characters, two boxes with any run of signs between them, characters of other
scripts and invisible ones put in, braces taken out, commands left open, formulas of towers and sums, and half of one
reply with half of another. One in eight goes into the reference answer too.

Every verdict is timed by itself. The limit on one is the grader's own time limit and half a second for killing; a
watchdog thread of the interpreter ends the script with a traceback if a verdict takes a minute. The exit status is 1
if any is too late, raises, or cannot be written as UTF-8.
"""

import argparse
import faulthandler
import itertools
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from expo_lite.grading import Grader

SHIPPED = Path(__file__).parent.parent / "tests" / "data"
LIMIT_S, GRACE_S, HANG_S = 2.0, 0.5, 60
TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\d+|\s+|.", re.DOTALL)
SIGNS = (
    "=",
    "_",
    "()",
    "x=",
    "a",
    "-",
    "*",
    "\\",
    "{",
    "}",
    "$",
    ",",
    " ",
    "\n",
    "\\text{a}",
    "\\quad ",
    ".",
    "and ",
    "(",
    "|",
    "#",
    "^",
)
OPEN = (
    r"\mathbb{",
    r"\text{",
    r"\frac{",
    r"\sqrt[",
    r"\boxed{",
    r"\begin{cases}",
    r"\left(",
    "$",
    r"\overline{",
    r"\mathrm{",
    r"\color{",
    r"\hspace{",
)
WRAPS = (
    "{%s}",
    r"\boxed{%s}",
    r"\frac{1}{%s}",
    "(%s)",
    r"\sqrt{%s}",
    r"\text{%s}",
    r"\{%s\}",
    "|%s|",
    "[%s]",
    r"\left(%s\right)",
    "%s!",
    "%s^{2}",
    r"x \in %s",
)
FORMULAS = (
    "%s^{%s}",
    r"10^{10^{%s}}",
    r"(%s)!",
    r"\sum_{k=1}^{%s} \frac{1}{k+%s}",
    r"\sqrt{%s} + %s",
    r"\int_0^{%s} e^{x^{%s}} dx",
    r"\sin(%s)",
    r"\{%s, %s\}",
    r"[%s, \infty)",
    r"\begin{pmatrix} %s & 1 \\\\ 2 & %s \end{pmatrix}",
    r"x \ge %s \text{ or } x < -%s",
    r"%s \pm %s",
    r"\lim_{n \to \infty} %s^{1/n}",
    r"%s \cup %s",
    r"\binom{%s}{%s}",
    r"f(x) = %s",
)
STRANGE = (
    "\u202e\u200b\u0301\u00a0\ud800\x00\x1b\u0663\u4e94\xbd\xb2\u221a\u221e\u2264\u2260\u222a"
    "\u03c0\xb0\u2212\u2013\u201c\U0001d7d9\U0001f642\ufeff\u2028\x85"
)

Pair = tuple[str, str]


def shipped() -> list[Pair]:
    """Reference answers and replies of the test data in this repository."""
    replies = [json.loads(line) for line in (SHIPPED / "grading_replies.jsonl").read_text("utf-8").splitlines()]
    cases = [json.loads(line) for line in (SHIPPED / "grading_cases.jsonl").read_text("utf-8").splitlines()]
    return [(row["gold"], row["reply"]) for row in replies] + [
        (row["gold"], f"We add them up, so the answer is $\\boxed{{{row['answer']}}}$. I hope it is correct.")
        for row in cases
    ]


def real(folder: Path) -> list[Pair]:
    """Reference answers and chains of the data sets below a folder."""
    pairs = []
    for path in sorted(folder.rglob("*.jsonl")):
        lines = path.read_text("utf-8").splitlines()
        for line in random.Random(0).sample(lines, min(len(lines), 500)):
            row = json.loads(line)
            if "solution" in row:
                pairs.append((str(row.get("answer", row["solution"])), str(row["solution"])))
            elif "####" in str(row.get("answer", "")):
                chain, _, gold = row["answer"].rpartition("####")
                pairs.append((gold.strip(), f"{chain}The answer is \\boxed{{{gold.strip()}}}."))
    if not pairs:
        sys.exit(f"{folder} has no JSONL file with 'solution', or with 'answer' ending in '#### n'.")
    return pairs


def _piece(text: str, rng: random.Random, longest: int = 40) -> tuple[int, int]:
    """A stretch of a text, mostly near its end, where the answer is."""
    start = max(0, len(text) - 1 - int(rng.expovariate(1 / 60))) if text else 0
    return start, min(len(text), start + rng.randint(1, longest))


def nested(text: str, rng: random.Random) -> str:
    """A part of it in many brackets of one or two kinds."""
    start, end = _piece(text, rng)
    part = text[start:end]
    for wrap in itertools.islice(
        itertools.cycle(rng.sample(WRAPS, rng.randint(1, 2))), rng.choice((1, 2, 5, 20, 80, 300))
    ):
        part = wrap.replace("%s", part)
    return text[:start] + part + text[end:]


def repeated(text: str, rng: random.Random) -> str:
    """A part of it again and again, to 10,000 characters at most."""
    start, end = _piece(text, rng, longest=12)
    part = rng.choice((text[start:end] or "x", rng.choice(SIGNS)))
    times = rng.choice((5, 40, 200, 10_000 // len(part)))
    return text[:start] + part * min(times, 10_000 // len(part)) + text[end:]


def two_boxes(text: str, rng: random.Random) -> str:
    """Another box behind it, with a run of signs between."""
    run = "".join(rng.choice(SIGNS) * rng.choice((1, 3, 12, 45)) for _ in range(rng.randint(1, 4)))
    one, other = rng.randint(1, 99), rng.randint(1, 99)
    return f"{text}\\boxed{{{one}}}{run}{rng.choice(('', '!', '**Check:** '))}\\boxed{{{other}}}"


def strange(text: str, rng: random.Random) -> str:
    """Characters of other scripts, invisible ones and controls put in."""
    characters = list(text)
    for _ in range(rng.choice((1, 4, 30))):
        characters.insert(_piece(text, rng)[0], rng.choice(STRANGE))
    return "".join(characters)


def unclosed(text: str, rng: random.Random) -> str:
    """A command that is opened and never closed, or braces taken out."""
    start, end = _piece(text, rng)
    if rng.random() < 0.5:
        return text[:start] + rng.choice(OPEN) * rng.choice((1, 1, 3, 50)) + text[start:]
    return text[:start] + re.sub(r"[{}]", "", text[start:end]) + text[end:]


def grown(text: str, rng: random.Random) -> str:
    """The answer replaced by a formula that nobody checked: towers, sums, roots and sets of each other."""
    formula = rng.choice(("2", "x", "10", r"\pi", "0.3"))
    for _ in range(rng.choice((1, 2, 3, 5, 8))):
        formula = rng.choice(FORMULAS).replace("%s", formula)
    return f"{text[:200]}\\boxed{{{formula}}}"


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (nested, repeated, two_boxes, strange, unclosed, grown)


def replies(pairs: list[Pair], n_replies: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Kind of mutation, reference answer and reply."""
    rng = random.Random(seed)
    made = 0
    while made < n_replies:
        gold, reply = rng.choice(pairs)
        cuts = [match.end() for match in TOKEN.finditer(reply)][-60:]
        batch = [("cut", gold, reply[:cut]) for cut in cuts[-12:]]
        batch += [("cut in a box", gold, f"\\boxed{{{reply[cut:][:200]}}}") for cut in cuts[:: max(1, len(cuts) // 6)]]
        for mutate in MUTATIONS * 4:
            changed = mutate(reply, rng)
            for _ in range(rng.randint(0, 2)):
                changed = rng.choice(MUTATIONS)(changed[-10_000:], rng)
            batch.append((mutate.__name__, changed[-300:] if rng.random() < 0.125 else gold, changed))
        other = rng.choice(pairs)[1]
        batch.append(("spliced", gold, reply[: len(reply) // 2] + other[len(other) // 2 :]))
        yield from batch[: n_replies - made]
        made += len(batch)


def main() -> int:
    """Grade all replies, one at a time; print counts and the slowest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with JSONL files of real chains. Default: the shipped cases.")
    parser.add_argument("--replies", type=int, default=2000, help="How many replies to grade.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the mutations.")
    options = parser.parse_args()
    pairs = shipped() if options.data is None else real(options.data)
    times: list[tuple[float, str, str, str, str]] = []
    reasons: Counter[str] = Counter()
    with Grader(n_workers=1, timeout_s=LIMIT_S) as grader:
        for number, (kind, gold, reply) in enumerate(replies(pairs, options.replies, options.seed)):
            grader.grade(
                r"\sqrt{2}", f"\\boxed{{\\sqrt{{{number + 3}}}}}"
            )  # starting a worker is not part of a verdict
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            start_s = time.perf_counter()
            verdict = grader.grade(gold, reply)
            taken_s = time.perf_counter() - start_s
            faulthandler.cancel_dump_traceback_later()
            (verdict.answer or "").encode("utf-8")
            times.append((taken_s, kind, verdict.reason, gold, reply))
            reasons[verdict.reason if not verdict.how.startswith("failed") else verdict.how] += 1
    times.sort(reverse=True)
    sys.stdout.write(
        f"{len(times)} replies by mutation of {len(pairs)}: {dict(Counter(kind for _, kind, *_ in times))}\n"
    )
    sys.stdout.write(f"verdicts: {dict(reasons.most_common())}\n")
    middle, high = times[len(times) // 2][0], times[len(times) // 100][0]
    sys.stdout.write(f"median {1000 * middle:.2f} ms, 99th percentile {1000 * high:.1f} ms; the slowest:\n")
    for taken_s, kind, reason, gold, reply in times[:5]:
        sys.stdout.write(f"  {taken_s:.2f} s, {kind}, {reason}: gold {gold[-60:]!r}, reply ...{reply[-160:]!r}\n")
    late = [entry for entry in times if entry[0] > LIMIT_S + GRACE_S]
    sys.stdout.write(f"later than {LIMIT_S + GRACE_S:.1f} s: {len(late)}\n")
    return bool(late)


if __name__ == "__main__":
    sys.exit(main())
