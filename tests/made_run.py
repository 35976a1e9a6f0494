"""A run folder written by the functions that training writes with, without training."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from expo_lite.records import Completion, Explanation, FinishReason, Group, Problem, Verdict
from expo_lite.results.figures import GradedProblem, Sample, evaluation_of
from expo_lite.run.folder import RunFolder
from expo_lite.run.metrics import explanation_metrics, group_metrics, sample_rows
from expo_lite.settings.methods import Method
from expo_lite.settings.train import TrainConfig, resolve

GROUP_SIZE = 4

AS_READ = {
    "question": "<user>{question} Box it.<assistant>",
    "explanation": "<user>{question} It is {answer}.<assistant>",
}
"""Prompts with a chat template around them."""


def make_run(
    path: Path,
    *,
    steps: int = 6,
    problems: int = 3,
    method: Method = "exp-grpo",
    seed: int = 0,
    text: str = "It is",
    words: int = 0,
) -> Path:
    """`problems` problems of levels 1 and 2, all drawn at every step; `words` random words lengthen each completion."""
    config = resolve(TrainConfig(model="tiny", method=method, steps=steps, seed=seed, output=path))
    folder, rng = RunFolder(path), random.Random(seed)
    folder.create(config, device="cpu: 1 threads")
    folder.complete(template="", prompts=AS_READ)
    pool = [Problem(f"made/{i}", f"What is {i} + {i}?", str(2 * i), i % 2 + 1) for i in range(problems)]
    samples: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        groups = [_group(problem, rng, step / steps, text, words) for problem in pool]
        explanations = [_explanation(problem, rng, text, words) for problem in pool] if method == "exp-grpo" else []
        samples += sample_rows(groups, explanations, step=step)
        extra = explanation_metrics(explanations) if explanations else {}
        times = {"step_time": 2.0, "time/sample_s": 1.5, "time/score_s": 0.1, "time/update_s": 0.4}
        memory = {"peak_memory_gib": 1.0 + step / 100, "memory/planned_gib": 1.5}
        metrics.append({"step": step, **group_metrics(groups), **extra, "loss": 1 / step, **times, **memory})
    folder.samples.append(samples)
    folder.metrics.append(metrics)
    for step, n_correct in ((0, (0, 0, 2, 1)), (steps, (3, 0, 4, 0))):
        write_evaluation(folder.evaluation_file(step), n_correct)
    return path


def write_evaluation(file: Path, n_correct: tuple[int, ...], n: int = 4, *, counts: bool = True) -> None:
    """An evaluation of as many held-out problems, level 1 and 2 by turns, with so many of `n` samples right."""
    measured = []
    for i, right in enumerate(n_correct):
        samples = tuple(
            Sample(j < right, "equal" if j < right else "different", str(j < right), False, 9) for j in range(n)
        )
        measured.append(GradedProblem(Problem(f"held/{i}", "?", "True", i % 2 + 1), samples[0], samples))
    values = evaluation_of(measured, 0.7).to_json()
    if not counts:
        del values["problems"]
    file.write_text(json.dumps(values))


def _completion(rng: random.Random, said: str, words: int) -> Completion:
    text = " ".join([said, *(f"w{rng.randrange(5_000)}" for _ in range(words))])
    return Completion((1, 2), (3,) * (5 + words), (-0.5,) * (5 + words), text, FinishReason.STOP)


def _group(problem: Problem, rng: random.Random, chance: float, text: str, words: int) -> Group:
    right = [rng.random() < chance for _ in range(GROUP_SIZE)]
    answers = [problem.answer if r else "-1" for r in right]
    completions = tuple(_completion(rng, f"{text} \\boxed{{{answer}}}", words) for answer in answers)
    verdicts = tuple(
        Verdict(r, "equal" if r else "different", "number", a) for r, a in zip(right, answers, strict=True)
    )
    return Group(problem, completions, verdicts)


def _explanation(problem: Problem, rng: random.Random, text: str, words: int) -> Explanation:
    accepted = rng.random() < 0.5
    completion = _completion(rng, f"Because {text}", words)
    verdict = Verdict(accepted, "equal" if accepted else "no_answer", "text", problem.answer if accepted else None)
    made = Explanation(problem, completion, (1,), completion.token_ids, verdict, True, "accepted", 1.25)
    return made if accepted else replace(made, accepted=False, reason="no_answer", lift_nats=None)
