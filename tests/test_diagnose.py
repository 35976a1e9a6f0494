"""The two properties of a good positive: figures by hand, by level, from the real model, and before a long run."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from smollm2 import gguf_file

from expo_lite.commands.cli import run
from expo_lite.measure import diagnose
from expo_lite.measure.diagnose import Diagnosis, Subject, chain_figures, chain_metrics, diagnosed, measure
from expo_lite.measure.verdict import ChainFigure, levels_of
from expo_lite.memory.limits import Limits
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Completion, Explanation, FinishReason, Group, Problem, Verdict
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.tasks.hidden_rules import HiddenRules

P1, P2, P3 = (Problem(f"p{i}", "q", "1", level) for i, level in enumerate((1, 2, 2)))


def completion(text: str = "", finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion((1,), (2, 3), (-0.5, -0.5), text, finish)


def group(problem: Problem, rewards: list[int], finish: FinishReason = FinishReason.STOP) -> Group:
    verdicts = tuple(Verdict(bool(reward), "", "") for reward in rewards)
    return Group(problem, tuple(completion(finish=finish) for _ in rewards), verdicts)


def explanation(problem: Problem, accepted: bool, text: str = "") -> Explanation:
    return Explanation(problem, completion(text), (1,), (2, 3), Verdict(accepted, "", ""), accepted, "")


GROUPS = [group(P1, [1, 0]), group(P2, [0, 0], FinishReason.LENGTH), group(P3, [0, 0])]
EXPLANATIONS = [explanation(P1, True), explanation(P2, True), explanation(P3, False, "The given answer is 1.")]
FIGURES = [
    *(ChainFigure(problem, "own", 0.5, -1.0) for problem in (P1, P2, P3)),
    ChainFigure(P1, "explanation", 1.0, 2.0),
    ChainFigure(P2, "explanation", 2.0, 4.0),
    ChainFigure(P3, "refused", 6.0, -3.0),
    *(ChainFigure(p, "expert", nll, 0.5) for p, nll in ((P1, 3.0), (P2, 3.0), (P3, 9.0))),
]


def test_figures_by_level_by_hand() -> None:
    one, two, everything = levels_of(GROUPS, EXPLANATIONS, FIGURES)
    assert [(row.level, row.n_problems) for row in (one, two, everything)] == [("1", 1), ("2", 2), ("all", 3)]
    assert [row.reward.value for row in (one, two, everything)] == pytest.approx([1 / 2, 0, 1 / 6])
    assert [row.all_wrong.value for row in (one, two, everything)] == pytest.approx([0, 1, 2 / 3])
    assert [row.truncated.value for row in (one, two, everything)] == pytest.approx([0, 1 / 2, 1 / 3])
    assert [row.accepted.value for row in (one, two, everything)] == pytest.approx([1, 1 / 2, 2 / 3])
    nll, lift = everything.nll, everything.lift  # own, accepted, expert; and all explanations, unfiltered
    assert [e.value for kind in nll if (e := nll[kind])] == pytest.approx([0.5, 1.5, 5.0, 3.0])
    assert [e.value for kind in lift if (e := lift[kind])] == pytest.approx([-1.0, 3.0, 0.5, 1.0])
    # on the two problems with both: (3 + 3) / (1 + 2)
    assert everything.nll_ratio is not None
    assert everything.nll_ratio.value == pytest.approx(2.0)
    assert everything.nll_ratio.low < 2.0 < everything.nll_ratio.high
    explained = nll["explanation"]
    assert explained is not None
    # of 1 and 2 by Student's interval, with one degree of freedom
    assert (explained.low, explained.high) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2))


def test_one_level_stands_alone_and_what_is_absent_is_none() -> None:
    (row,) = levels_of(GROUPS[:1], [explanation(P1, False)], FIGURES[:1])
    assert (row.level, row.nll["explanation"], row.lift["expert"], row.nll_ratio) == ("1", None, None, None)
    own = row.nll["own"]
    assert own is not None
    assert (own.value, own.low, own.high) == (0.5, -math.inf, math.inf)  # one problem says nothing about others
    assert row.to_json()["nll"]["own"] == {"value": 0.5, "low": None, "high": None}


def test_explanations_are_good_positives_for_the_tiny_model_on_hidden_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    words = ["diagnose", "--model", "tiny", "--levels", "1", "5", "--problems", "12", "--group-size", "2"]
    assert run([*words, "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "NLL, nats a token" in out and "answer lift, nats" in out
    assert "level 1: solved" in out
    assert "Verdict: yes" in out
    results: dict[str, Any] = json.loads((folder / "diagnosis.json").read_text())
    assert results["verdicts"]["5"]["outcome"] == "yes"
    assert [row["level"] for row in results["levels"]] == ["1", "5", "all"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in samples].count("rollout") == 24 * 2
    accepted = [row["accepted"] for row in samples if row["kind"] == "explanation"]
    assert results["levels"][-1]["accepted"]["value"] == pytest.approx(sum(accepted) / 24)
    hard = results["levels"][1]
    assert hard["valid"]["explanation"]["value"] > 0.8 > hard["valid"]["own"]["value"]
    assert hard["right"]["wrong-answer"]["value"] < 0.2  # another problem's answer leads elsewhere
    assert hard["lift"]["wrong-answer"]["value"] < hard["lift"]["explanation"]["value"]
    assert hard["reliance"]["explanation"]["value"] > 0
    by_quarter = [hard["anchoring"][str(quarter)]["explanation"]["value"] for quarter in range(1, 5)]
    # quarters of a chain differ by a token at most
    assert sum(by_quarter) / 4 == pytest.approx(hard["reliance"]["explanation"]["value"], abs=0.05)
    assert out.count("of quarter 4") == 2
    assert run([*words, "--output", str(folder)]) == 1  # nothing is overwritten
    # what an amount is worth cannot be known without the answer, so no such chain passes, and every known one does
    only = ["--explanation-filter", "reliance", "--max-reliance", "0.1", "--output", str(tmp_path / "reliance")]
    assert run([*words, *only]) == 0
    known, hidden, _ = json.loads((tmp_path / "reliance" / "diagnosis.json").read_text())["levels"]
    assert (known["accepted"]["value"], hidden["accepted"]["value"]) == (1.0, 0.0)


def test_anchoring_by_hand() -> None:
    """Of five tokens quarters are of 2, 1, 1 and 1; a chain of three has none; own chains are measured if asked for."""
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    problem = HiddenRules().problems("train", levels=(5,), limit=1)[0]
    plain, shown = (encode(policy.tokenizer, problem) for encode in (encode_question, encode_explanation))
    made = [
        replace(explanation(problem, True), prompt_ids=plain, target_ids=ids,
                            completion=Completion(shown, ids, (0.0,) * len(ids), "", FinishReason.STOP))
        for ids in ((11, 12, 13, 14, 15), (11, 12, 13))
    ]  # fmt: skip
    rolled = Group(
        problem, (Completion(plain, (21, 22, 23, 24), (0.0,) * 4, "", FinishReason.STOP),), (Verdict(False, "", ""),)
    )
    long, short, own = chain_figures(policy, [rolled], made, token_budget=4096)[:3]
    rows = [Row(prompt, made[0].target_ids) for prompt in (shown, plain)]
    answered, unanswered = score_rows(policy, rows, temperature=1.0, token_budget=4096)
    gap = (answered - unanswered).tolist()
    assert long.anchoring == pytest.approx(((gap[0] + gap[1]) / 2, *gap[2:]), abs=1e-5)
    assert (long.reliance, long.nll) == pytest.approx((sum(gap) / 5, -float(unanswered.mean())), abs=1e-5)
    assert short.anchoring == () and short.reliance is not None
    assert (own.kind, own.anchoring, own.reliance) == ("own", (), None)
    logged = chain_metrics(policy, [rolled], made, limits=Limits(4096, 8))
    assert [logged[f"expo/anchoring/{quarter}"] for quarter in range(1, 5)] == pytest.approx(long.anchoring, abs=1e-5)
    measured = chain_figures(policy, [rolled], made, token_budget=1, whole=True)  # a row at a time
    assert measured[0].anchoring == pytest.approx(long.anchoring, abs=1e-4)
    assert len(measured[2].anchoring) == 4 and measured[2].reliance is not None
    (row,) = levels_of([rolled], made, measured)
    assert row.anchoring["1"]["explanation"] is not None and row.anchoring["4"]["own"] is not None
    assert row.to_json()["anchoring"]["1"]["own"] == {"value": measured[2].anchoring[0], "low": None, "high": None}


def test_scoring_that_runs_out_of_memory_is_repeated_with_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []

    def once_too_many(*given: Any, token_budget: int, **others: Any) -> list[ChainFigure]:
        budgets.append(token_budget)
        if len(budgets) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return chain_figures(*given, token_budget=token_budget, **others)

    monkeypatch.setattr("expo_lite.measure.diagnose.chain_figures", once_too_many)
    words = ["diagnose", "--model", "tiny", "--problems", "1", "--levels", "1", "--group-size", "1"]
    assert run([*words, "--output", str(tmp_path / "d")]) == 0
    assert budgets[1] == budgets[0] // 2


@pytest.mark.usefixtures("unchecked")
def test_the_verdict_on_the_run_s_own_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "LONG", 2)  # or the test would take a minute
    asked: list[Subject] = []

    def measuring(subject: Subject, *more: Any) -> Diagnosis:
        asked.append(subject)
        return measure(subject, *more)

    monkeypatch.setattr(diagnose, "measure", measuring)
    words = ["train", "--model", "tiny", "--levels", "1", "5", "--eval-problems", "0", "--group-size", "4"]
    words += ["--problems-per-step", "2", "--diagnostics-every", "0", "--max-completion-tokens", "48"]
    looked = [*words, "--steps", "2", "--explanation-refresh-steps", "5"]
    looked += ["--diagnose-first", "3", "--output", str(tmp_path / "looked")]
    assert run(looked) == 0
    out = capsys.readouterr().out
    assert "diagnosing 6 of the problems to train on" in out
    assert "level 5: " in out
    kept = json.loads((tmp_path / "looked" / "diagnosis.json").read_text())
    assert kept["verdict"].startswith("Verdict: ")
    assert kept["verdict"] in " ".join(out.split())
    assert [level["n_problems"] for level in kept["levels"] if level["level"] != "all"] == [3, 3]

    (subject,) = asked
    assert set(subject.problems) < set(subject.others)  # all that the run trains on have answers to show as wrong
    assert (subject.explaining.explanation_refresh_steps, subject.explaining.explanations_per_problem) == (
        5,
        1,
    )  # the run's own

    assert run([*looked, "--resume"]) == 0
    assert "diagnosing" not in capsys.readouterr().out
    assert run([*words, "--steps", "2", "--diagnose-first", "0", "--output", str(tmp_path / "plain")]) == 0
    assert not (tmp_path / "plain" / "diagnosis.json").exists()
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("looked", "plain")]
    assert samples[0] == samples[1]


def test_short_runs_and_other_methods_are_not_diagnosed() -> None:
    config = resolve(TrainConfig(model="tiny", steps=50))
    problems = [Problem("p", "q", "1")]
    assert diagnosed(config, problems) == problems
    assert diagnosed(replace(config, steps=49), problems) == []
    assert diagnosed(replace(config, method="grpo"), problems) == []


@pytest.mark.slow
def test_a_model_that_cannot_explain_gets_a_no(
    pytestconfig: pytest.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SmolLM2-135M on the built-in task: most explanations are cut off, and none was accepted when this was written."""
    words = f"diagnose --model {gguf_file(pytestconfig)} --task hidden-rules --levels 4 --problems 8 --group-size 1"
    assert run([*words.split(), "--max-completion-tokens", "96", "--output", str(tmp_path / "d")]) == 0
    assert "Verdict: no; explanations are no good positives here." in capsys.readouterr().out
