"""The findings of the rules on made-up metrics, and that a run on hopeless problems says so itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from expo_lite.commands.cli import run
from expo_lite.run.health import STALLED_STEPS, findings, no_gradient

GOOD = {
    "grad_norm": 0.1,
    "update/n_rows": 16.0,
    "reward": 0.5,
    "frac_all_wrong": 0.25,
    "frac_all_correct": 0.25,
    "completions/clipped_ratio": 0.1,
    "completions/max_length": 64.0,
    "verdicts/equal": 0.5,
    "expo/explanation_accept_rate": 0.75,
    "sampling/logp_difference/mean": 0.01,
}
DEAD = GOOD | {"grad_norm": 0.0, "update/n_rows": 0.0, "reward": 0.0, "frac_all_wrong": 1.0, "frac_all_correct": 0.0}
REFUSED = {"expo/explanation_accept_rate": 0.0}
PAIRS = {"grad_norm": 0.0, "update/n_rows": 0.0, "pairs/used": 0}


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


CAUSES: list[tuple[dict[str, Any], str, str]] = [
    (
        DEAD | REFUSED | {"completions/clipped_ratio": 1.0},
        "cut off before they have an answer",
        "--max-completion-tokens",
    ),
    (DEAD | {"frac_all_wrong": 0.0, "frac_all_correct": 1.0}, "every completion is right already", "--write-unsolved"),
    (DEAD | REFUSED | {"verdicts/no_answer": 1.0}, "no final answer", "--method sft"),
    (DEAD | REFUSED | {"expo/refused/different": 1.0}, "no explanation is accepted", "--explanations-per-problem"),
    (without(DEAD, "expo/explanation_accept_rate"), "every completion is wrong", "--method exp-grpo"),
    (
        without(DEAD | {"frac_all_wrong": 0.5, "frac_all_correct": 0.5}, "expo/explanation_accept_rate"),
        "every group is all right or all wrong",
        "--group-size",
    ),
    (DEAD | {"update/n_rows": 16.0}, "has a gradient of 0", "--exp-sft-coef"),
    (PAIRS | {"pairs/none_wrong": 2, "pairs/no_chosen": 0}, "no completion is wrong", "harder problems"),
    ({"grad_norm": 0.0, "update/n_rows": 0.0}, "no problem has a chain", "--fields chain="),
]


@pytest.mark.parametrize(("row", "what", "remedy"), CAUSES)
def test_a_run_without_a_gradient_is_told_its_cause(row: dict[str, Any], what: str, remedy: str) -> None:
    finding = no_gradient([row] * 6)
    assert finding is not None
    assert finding.what.startswith("Nothing is learned: ")
    assert what in finding.what
    assert finding.figures.startswith("6 of 6 steps had no gradient")
    assert remedy in finding.remedy
    assert findings([row] * 6)[0] == finding


def test_how_many_steps_without_a_gradient_are_no_chance() -> None:
    n = STALLED_STEPS
    assert no_gradient([]) is None
    assert no_gradient([GOOD] * 50) is None
    assert no_gradient([GOOD] * 50 + [DEAD] * (n - 1)) is None
    ended = no_gradient([GOOD] * 50 + [DEAD] * n)
    assert ended is not None
    assert ended.figures.startswith(f"the last {n} of {50 + n} steps had no gradient; all-wrong groups 100%")
    assert no_gradient([DEAD] * 50 + [GOOD] * 51) is None  # it has got going: 50 of 101
    most = no_gradient([DEAD, GOOD] * 10)
    assert most is not None
    assert most.what.startswith("Most steps teach nothing: ")
    assert most.figures.startswith("10 of 20 steps had no gradient")
    assert no_gradient([DEAD, GOOD] * 8) is None  # half of a few is chance, where each is one with a chance of 0.3
    assert no_gradient([without(GOOD, "grad_norm")] * 9) is None  # what was not measured is not judged


def test_the_figures_are_means_of_the_dead_steps_alone() -> None:
    half = DEAD | {"completions/clipped_ratio": 0.5}
    finding = no_gradient([GOOD] + [DEAD] * 3 + [half] * 3)
    assert finding is not None
    assert "cut off 30%" in finding.figures  # (3 x 0.1 + 3 x 0.5) / 6
    assert "explanations accepted 75%" in finding.figures


@pytest.mark.parametrize(
    ("harm", "what", "figures"),
    [
        ({"completions/clipped_ratio": 0.21}, "Many completions are cut off", "21%"),
        (
            {"expo/explanation_accept_rate": 0.09, "expo/refused/no_lift": 0.9},
            "Hardly any",
            "9.0%; most refused as no_lift",
        ),
        ({"verdicts/timeout": 0.06}, "The grader runs out of time", "6.0% of verdicts"),
        ({"sampling/logp_difference/mean": 0.2}, "What is sampled is not what is scored", "0.2 nats a token apart"),
        ({"kl": 1.5}, "The policy is far from its base model", "KL 1.5 nats a token"),
    ],
)
def test_one_thing_that_is_wrong(harm: dict[str, float], what: str, figures: str) -> None:
    assert findings([GOOD] * 30) == []
    (finding,) = findings([GOOD] * 10 + [GOOD | harm] * 20)  # the last 20 count
    assert finding.what.startswith(what)
    assert finding.figures == figures
    assert finding.remedy.endswith(".")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("no_lift", "Take lift out"),
        ("wrong_step", "wrong equation"),
        ("unread_steps", "cannot be read"),
        ("different", "diagnose --show"),
    ],
)
def test_the_remedy_is_that_of_the_commonest_refusal(reason: str, said: str) -> None:
    harm = {"expo/explanation_accept_rate": 0.05, f"expo/refused/{reason}": 0.9, "expo/refused/no_answer": 0.05}
    (finding,) = findings([GOOD | harm] * 20)
    assert said in finding.remedy


def test_a_reason_that_few_verdicts_had_counts_where_it_is_absent() -> None:
    """One step of 20 with 60% timeouts is 3%, below the limit of 5%."""
    assert findings([GOOD] * 19 + [GOOD | {"verdicts/timeout": 0.6}]) == []


def test_a_fall_of_the_reward() -> None:
    worse = GOOD | {"reward": 0.2}
    assert findings([GOOD] * 30 + [worse] * 9) == []
    (finding,) = findings([GOOD] * 30 + [worse] * 20)
    assert finding.figures == "mean reward 0.50 at its best, 0.20 now"
    assert findings([GOOD] * 30 + [worse] * 20, draw="hard") == []  # it draws what is failed
    pairs = {"pairs/used": 8}  # rewards are of the problems that had no pair yet
    assert findings([GOOD | pairs] * 30 + [worse | pairs] * 20) == []


def test_what_is_used_again_counts_as_accepted() -> None:
    refused = GOOD | {"expo/explanation_accept_rate": 0.0}
    assert [finding.what for finding in findings([refused] * 30)] == ["Hardly any explanation is accepted"]
    assert findings([refused | {"expo/reused": 0.75}] * 30) == []
    assert findings([refused] * 29 + [refused | {"expo/reused": 0.75}])  # one step of twenty: 4%


def test_accepted_explanations_with_wrong_steps() -> None:
    """Where the task can check steps; a few steps may be chance."""
    half = {"grad_norm": 0.1, "reward": 0.1, "expo/explanation_accept_rate": 0.9, "expo/explanation_valid_rate": 0.5}
    (found,) = findings([half] * 5)
    assert found.what == "Explanations with wrong steps are trained on"
    assert "50%" in found.figures and "--explanation-filter steps" in found.remedy
    assert not findings([half] * 4)
    assert not findings([half | {"expo/explanation_valid_rate": 0.95}] * 30)


def test_hints_and_forms_of_no_use() -> None:
    """In steps that asked for some; a method without them has no such figure."""
    useless = GOOD | {"second/accept_rate": 0.0}
    (found,) = findings([GOOD] * 10 + [useless] * 5)
    assert found.what.startswith("Hardly any hint or form") and "written" in found.remedy
    assert not findings([useless] * 4) and not findings([GOOD | {"second/accept_rate": 0.2}] * 20)


def test_train_says_so_once_while_it_runs_and_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": "99999"} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"train --model tiny --task jsonl:{tmp_path / 'data.jsonl'} --steps 8 --group-size 2 --problems-per-step 2"
    words += f" --max-completion-tokens 4 --eval-problems 0 --diagnostics-every 0 --output {tmp_path / 'run'}"
    assert run(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    early, late = (i for i, line in enumerate(lines) if line.startswith("warning: Nothing is learned: "))
    assert "(5 of 5 steps had no gradient; all-wrong groups 100%; " in lines[early]
    assert "; steps 1 to 5). " in lines[early]
    assert "(8 of 8 steps had no gradient; all-wrong groups 100%; " in lines[late]
    assert early < next(i for i, line in enumerate(lines) if line.startswith("step 8/8")) < late
