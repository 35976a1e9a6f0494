"""examples/smollm2_boxes.py: no product in two splits, and a valid chain told from one that copies the answer."""

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from made_run import make_run

from expo_lite.settings.plans import ReplicateConfig
from expo_lite.sweep.plan import read_plan

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTION = "Anna buys 6 boxes with 9 stickers in each, and finds 26 more stickers. How many stickers does Anna have?"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm2_boxes", EXAMPLES / "smollm2_boxes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


boxes = _load()


def numbers(rows: Sequence[dict[str, str]]) -> list[tuple[int, int]]:
    """Boxes and things in each of every question."""
    found = [re.findall(r"\d+", row["question"]) for row in rows]
    return [(int(a), int(b)) for a, b, _ in found]


def test_no_product_of_the_test_split_is_asked_for_elsewhere() -> None:
    test = numbers(boxes.problems("test", 200))
    other = numbers(boxes.problems("train", 1_000)) + numbers(boxes.problems("easy", 300))
    for of in (lambda pair: tuple(sorted(pair)), lambda pair: pair[0] * pair[1]):
        assert not {of(pair) for pair in test} & {of(pair) for pair in other}
    assert {a * b for a, b in test} == boxes.HELD_OUT == {18, 24, 28, 35, 42, 49, 63, 81}
    assert len({row["question"] for row in boxes.problems("test", 200)}) == 200


@pytest.mark.parametrize("style", ["expert_chain", "terse_chain"])
def test_expert_chains_of_both_styles_are_valid(style: str) -> None:
    for split, n in (("easy", 100), ("train", 200), ("test", 100)):
        for row in boxes.problems(split, n):
            assert boxes.check_chain(row["question"], row["answer"], row[style]) == "valid"


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (r"6 * 9 = 54, and 54 + 26 = 80. The answer is \boxed{80}.", "valid"),
        (r"$9 \times 6 = 54$. Then 26 + 54 = 80, so \boxed{80}", "valid"),
        # what SmolLM2 writes with the answer in sight
        (r"9 * 6 = 54, and 54 + 26 = 98. The answer is \boxed{80}.", "wrong_equation"),
        (r"9 * 6=<<9*6=50>>54, and 54 + 26 = 80. \boxed{80}", "wrong_equation"),
        (r"8 * 10 = 80. The answer is \boxed{80}.", "foreign_number"),
        (r"9 * 6 = 54, and 54 + 20 = 74, and 74 + 6 = 80. The answer is \boxed{80}.", "foreign_number"),
        (r"9 * 6 = 54. The answer is \boxed{80}.", "unused_number"),
        (r"6 + 9 + 26 = 41. The answer is \boxed{80}.", "elsewhere"),
        (r"6 * 9 = 54, and 54 + 26 = 80.", "elsewhere"),
        (r"The answer is \boxed{80}.", "no_equation"),
        (r"6 boxes * 9 = 54. The answer is \boxed{80}.", "unread"),
    ],
)
def test_what_is_wrong_with_a_chain(chain: str, reason: str) -> None:
    assert boxes.check_chain(QUESTION, "80", chain) == reason


def test_the_rates_of_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"prompt": QUESTION, "gold": "80"}
    good, copied = (rf"6 * 9 = 54, and 54 + 26 = {n}. The answer is \boxed{{80}}." for n in (80, 98))
    kept = [
        {"kind": "rollout", "completion": good, "correct": True},
        {"kind": "rollout", "completion": copied, "correct": False},
        {"kind": "explanation", "completion": copied, "correct": True, "accepted": True},
        {"kind": "explanation", "completion": good, "correct": True, "accepted": False},
    ]
    held_out = [{"kind": "sampled", "completion": c, "correct": True} for c in (good, copied)]
    for name in ("grpo", "exp-grpo"):
        for seed in (0, 1):
            run = make_run(tmp_path / "runs" / f"{name}-seed{seed}", seed=seed)
            (run / "evaluation" / "step-000006").mkdir()
            for file, rows in ((run, kept), (run / "evaluation" / "step-000006", held_out)):
                (file / "samples.jsonl").write_text("".join(json.dumps(row | about) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["smollm2_boxes.py", str(tmp_path)])
    boxes.main()
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "exp-grpo: accepted explanations: 0 of 2 valid (wrong_equation 2)",
        "exp-grpo: completions in training, judged right: 2 of 2 valid",
        "exp-grpo: held out, judged right: 2 of 4 valid (wrong_equation 2)",
    ]
    assert any(line.startswith("pass@1: exp-grpo above grpo: 0.0") and line.endswith("undecided") for line in said[6:])


def test_the_plan_shows_both_styles_and_the_control() -> None:
    plan = read_plan(EXAMPLES / "smollm2.toml", ReplicateConfig(model="tiny", task="jsonl:problems"))
    configs = {name: plan.config(name, 0) for name in plan.runs}
    assert list(configs) == ["grpo", "exp-grpo", "wrong-answer", "gt-sft-grpo", "gt-sft-grpo-terse"]
    assert plan.seeds == (0, 1, 2)
    assert {(config.policy.bits, config.steps, config.explanation.explain) for config in configs.values()} == {
        (16, configs["grpo"].steps, "all-wrong")
    }
    assert configs["wrong-answer"].explanation.explain_with == "wrong-answer"
    assert [c.data.fields for n, c in configs.items() if n.startswith("gt")] == [(), ("chain=terse_chain",)]
