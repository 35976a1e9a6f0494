r"""Two-step word problems for a small language model: `uv run python examples/smollm2_problems.py problems.jsonl`.

In the manner of GSM8K, with numbers that a model of 135 million parameters can just about multiply and add:

    Anna buys 7 boxes with 12 stickers in each, and finds 25 more stickers. How many stickers does Anna have?

The expert chain is terse, as a teacher's margin note: `7 * 12 = 84, and 84 + 25 = 109. The answer is \boxed{109}.` The same file
every time; a tenth of it is held out by the reader of `--task jsonl:PATH`, by question text.
"""

import argparse
import json
import random
from pathlib import Path

NAMES = ("Anna", "Ben", "Clara", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "books", "cards", "coins", "marbles", "pencils", "shells", "stamps", "stickers", "tickets")
N_PROBLEMS = 1_000


def problem(rng: random.Random) -> dict[str, str]:
    """One row of the file."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, more = rng.randint(3, 12), rng.randint(3, 12), rng.randint(2, 30)
    product, total = boxes * each, boxes * each + more
    return {
        "question": f"{name} buys {boxes} boxes with {each} {things} in each, and finds {more} more {things}. "
        f"How many {things} does {name} have?",
        "answer": str(total),
        "expert_chain": f"{boxes} * {each} = {product}, and {product} + {more} = {total}. The answer is \\boxed{{{total}}}.",
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write two-step word problems as JSONL.")
    parser.add_argument("file", type=Path)
    rng = random.Random(0)
    rows = {row["question"]: row for row in (problem(rng) for _ in range(2 * N_PROBLEMS))}
    lines = [json.dumps(row) + "\n" for row in list(rows.values())[:N_PROBLEMS]]
    parser.parse_args().file.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
