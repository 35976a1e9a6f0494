"""Write the built-in task as files with expert chains in two styles: `uv run python examples/expert_styles.py FOLDER`.

`expert_chain` is the task's own, in a style that the built-in model has hardly read. `own_style` has the same steps in
the model's own style, with the true amounts. examples/expert_styles.toml compares learning from each.
"""

import argparse
import json
from pathlib import Path

from expo_lite.tasks.hidden_rules import HiddenRules, read_question


def main() -> None:
    """Write train.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [
            {
                "problem_id": problem.problem_id,
                "question": problem.question,
                "answer": problem.answer,
                "level": problem.level,
                "expert_chain": problem.expert_chain,
                "own_style": read_question(problem.question).own_chain,
            }
            for problem in HiddenRules().problems(split)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
