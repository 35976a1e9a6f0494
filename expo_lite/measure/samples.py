"""Graded completions of many problems, kept in a folder while they come.

Each problem has its own random numbers: an evaluation that was broken off and resumed has the same samples as one that
was not.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import FinishReason, Group, Problem, SampleRequest, SamplingParams
from expo_lite.results.figures import GradedProblem, Sample
from expo_lite.run.folder import (
    JsonLines,
    check_new,
    differing,
    is_new,
    make_folder,
    provenance,
    read_settings,
    write_json,
)
from expo_lite.run.metrics import sample_row
from expo_lite.step.rollout import grade_groups, sample, stream_seed
from expo_lite.tasks import Task

SAMPLES = "samples.jsonl"
CONFIG = "config.json"

SampleRow = dict[str, Any]
"""A line of samples.jsonl: one graded completion."""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """The samples to make: a function of these fields alone."""

    problems: tuple[Problem, ...]
    n_samples: int
    params: SamplingParams
    seed: int

    @property
    def kinds(self) -> dict[str, tuple[int, SamplingParams]]:
        """Completions a problem and how they are sampled, by kind; greedy ones first."""
        greedy = replace(self.params, temperature=0.0, top_p=1.0)
        return {"greedy": (1, greedy), "sample": (self.n_samples, self.params)}

    @property
    def n_completions(self) -> int:
        """The number of completions that will be sampled."""
        return len(self.problems) * (self.n_samples + 1)

    def settings(self) -> dict[str, Any]:
        """Everything that the samples depend on beside the policy, as JSON values."""
        n, digest = len(self.problems), problems_sha256(self.problems)
        about = {"n_problems": n, "problems_sha256": digest, "n_samples": self.n_samples, "seed": self.seed}
        params = {name: value for name, value in asdict(self.params).items() if name != "rows"}
        return about | {"greedy": True} | params


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Digest what samples depend on of the problems, in their order."""
    texts = [(p.problem_id, p.question, p.answer, *filter(None, [p.prompts.question])) for p in problems]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


class SampleFolder:
    """A folder with the samples of one policy on one plan: `config.json`, `samples.jsonl` and what is made of them."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Name the files; nothing is touched. `settings` is all that the samples depend on, as JSON values."""
        self.path = path
        self.settings = settings
        self.samples = JsonLines(path / SAMPLES)

    def check(self, *, resume: bool) -> None:
        """Check that the folder is new, or is to be resumed and was made with the same settings.

        Raises:
            CheckpointError: it exists and is not to be resumed, or holds something else.
            ConfigError: it was made with other settings.
        """
        if not resume:
            check_new(self.path)
        elif not is_new(self.path) and (details := differing(read_settings(self.path), self.settings)):
            raise ConfigError(f"The samples in '{self.path}' have other settings: {details}. Choose another --output.")

    def create(self, device: str) -> None:
        """Make the folder with its config.json, unless it is there."""
        if not (self.path / CONFIG).exists():
            make_folder(self.path)
            write_json(self.path / CONFIG, {"settings": self.settings, **provenance(device)})

    def kept(self, spec: SampleSpec) -> list[SampleRow]:
        """The rows of every problem that is whole; the rest, which was cut off in writing, is taken out of the file.

        Raises:
            CheckpointError: the file has rows that are not of this specification.
        """
        rows = self.samples.read()
        counts: Counter[tuple[str, str]] = Counter()
        known = {problem.problem_id for problem in spec.problems}
        for number, row in enumerate(rows, 1):
            kind, problem_id, place = (row.get(name) for name in ("kind", "problem_id", "sample"))
            if kind not in spec.kinds or problem_id not in known or place != counts[kind, problem_id]:
                raise CheckpointError(f"'{self.samples.path}', line {number}: not the row expected there.")
            counts[kind, problem_id] += 1
        whole = [row for row in rows if counts[row["kind"], row["problem_id"]] == spec.kinds[row["kind"]][0]]
        if self.samples.path.exists():
            self.samples.replace(whole)
        return whole


def graded_problems(
    spec: SampleSpec,
    task: Task,
    policy: Callable[[], Policy],
    *,
    limits: Limits,
    folder: SampleFolder | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[GradedProblem]:
    """Sample and grade what the folder lacks of the specification; returns every problem with its completions.

    Args:
        spec: what to sample.
        task: what grades.
        policy: asked for the policy only if there is something to sample.
        limits: how many completions are decoded at the same time; halved where memory runs out.
        folder: where samples are kept while they come; None keeps them in memory alone.
        advance: told how many completions have been made, each time that some have.
    """
    rows = folder.kept(spec) if folder else []
    advance(len(rows))
    for kind, (n, params) in spec.kinds.items():
        done = {row["problem_id"] for row in rows if row["kind"] == kind}
        missing = [problem for problem in spec.problems if problem.problem_id not in done]
        size = max(spec.params.rows // n, 1)
        for start in range(0, len(missing), size):
            problems = missing[start : start + size]
            tokenizer = policy().tokenizer
            requests = [
                SampleRequest(encode_question(tokenizer, p), n, stream_seed(spec.seed, "evaluation", p.problem_id))
                for p in problems
            ]
            sampled = sample(policy(), requests, params, limits=limits, seed=spec.seed)
            new = [row for group in grade_groups(task, problems, sampled) for row in _rows(kind, group)]
            if folder:
                folder.create(str(policy().device))
                folder.samples.append(new)
            rows += new
            advance(len(new))
    return _by_problem(spec.problems, rows)


def _rows(kind: str, group: Group) -> list[SampleRow]:
    about = {"kind": kind, "subject": group.problem.subject}
    graded = zip(group.completions, group.verdicts, strict=True)
    return [about | {"sample": i} | sample_row(group.problem, *each) for i, each in enumerate(graded)]


def _by_problem(problems: Sequence[Problem], rows: Sequence[SampleRow]) -> list[GradedProblem]:
    """The rows as one record for each problem."""
    graded: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for row in rows:
        truncated = row["finish_reason"] == FinishReason.LENGTH.value
        one = Sample(row["correct"], row["reason"], row["answer"], truncated, row["n_tokens"], row.get("valid"))
        graded[row["kind"], row["problem_id"]].append(one)
    return [
        GradedProblem(p, graded["greedy", p.problem_id][0], tuple(graded["sample", p.problem_id])) for p in problems
    ]
