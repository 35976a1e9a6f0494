"""Graded completions of many problems, wave by wave into a file; stopped at any moment, sampling goes on exactly.

A wave is as many problems as are decoded together; its rows are written in one go when it is graded. Each problem has
random numbers of its own, and the waves are the same whenever they are made, so that an evaluation that was broken off
and resumed has the same samples, to the byte, as one that was not.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.results.figures import GradedProblem, Sample
from expo_lite.run.folder import JsonLines, check_new, is_new, make_folder, provenance, write_atomically
from expo_lite.step.rollout import grade_groups, stream_seed
from expo_lite.tasks import Task

SAMPLES = "samples.jsonl"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Wave:
    """Problems whose completions are decoded together."""

    kind: Literal["greedy", "sample"]
    problems: tuple[Problem, ...]
    n_completions: int

    def keys(self) -> list[tuple[str, str, int]]:
        """What tells each row of this wave from all others, in the order of the file."""
        return [(self.kind, p.problem_id, i) for p in self.problems for i in range(self.n_completions)]


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What to sample: a function of these fields alone."""

    problems: tuple[Problem, ...]
    n_samples: int
    params: SamplingParams
    seed: int
    greedy: bool = True
    """Whether each problem also gets one greedy completion."""

    def waves(self) -> list[Wave]:
        """All waves in order; greedy ones first."""
        found = []
        kinds: tuple[tuple[Literal["greedy", "sample"], int], ...] = (("greedy", 1), ("sample", self.n_samples))
        for kind, n in kinds if self.greedy else kinds[1:]:
            size = max(self.params.rows // n, 1)
            found += [Wave(kind, self.problems[i : i + size], n) for i in range(0, len(self.problems), size)]
        return found

    @property
    def n_completions(self) -> int:
        """How many completions there will be."""
        return len(self.problems) * (self.n_samples + self.greedy)

    def settings(self) -> dict[str, Any]:
        """Everything that the samples depend on beside the policy, as JSON values."""
        texts = [(p.problem_id, p.question, p.answer, *filter(None, [p.prompts.question])) for p in self.problems]
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        about = {"n_problems": len(texts), "problems_sha256": digest, "n_samples": self.n_samples, "seed": self.seed}
        return about | {"greedy": self.greedy} | asdict(self.params)


def sample_wave(policy: Policy, task: Task, wave: Wave, spec: SampleSpec, limits: Limits) -> list[dict[str, Any]]:
    """Sample and grade one wave; a row of samples.jsonl for each completion."""
    params = replace(spec.params, temperature=0.0, top_p=1.0) if wave.kind == "greedy" else spec.params
    requests = [
        SampleRequest(
            encode_question(policy.tokenizer, problem),
            wave.n_completions,
            stream_seed(spec.seed, "evaluation", problem.problem_id),
        )
        for problem in wave.problems
    ]

    def sample() -> list[tuple[Completion, ...]]:
        rows = min(params.rows, limits.sampling_rows)
        return policy.sample(requests, replace(params, rows=rows), seed=spec.seed)

    groups = grade_groups(task, wave.problems, limits.sampling(sample))
    return [
        {
            "kind": wave.kind,
            "problem_id": group.problem.problem_id,
            "sample": i,
            "level": group.problem.level,
            "subject": group.problem.subject,
            "prompt": group.problem.question,
            "completion": completion.text,
            "n_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason.value,
            "gold": group.problem.answer,
            **verdict.to_json(),
        }
        for group in groups
        for i, (completion, verdict) in enumerate(zip(group.completions, group.verdicts, strict=True))
    ]


def by_problem(spec: SampleSpec, rows: Sequence[dict[str, Any]]) -> list[GradedProblem]:
    """The rows of all waves as one record for each problem."""
    greedy: dict[str, Sample] = {}
    samples: dict[str, list[Sample]] = {problem.problem_id: [] for problem in spec.problems}
    for row in rows:
        truncated = row["finish_reason"] == FinishReason.LENGTH.value
        sample = Sample(row["correct"], row["reason"], row["answer"], truncated, row["n_tokens"])
        if row["kind"] == "greedy":
            greedy[row["problem_id"]] = sample
        else:
            samples[row["problem_id"]].append(sample)
    own_samples = ((problem, samples[problem.problem_id]) for problem in spec.problems)
    return [GradedProblem(p, greedy.get(p.problem_id, own[0]), tuple(own)) for p, own in own_samples]


class SampleFolder:
    """A folder with the samples of one policy on one plan: `config.json`, `samples.jsonl` and what is made of them."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Name the files; nothing is touched. `settings` is all that the samples depend on, as JSON values."""
        self.path = path
        self.settings = settings
        self.samples = JsonLines(path / SAMPLES)

    def check(self, *, resume: bool) -> None:
        """Whether the folder can be written to: it is new, or is to be resumed and was made with the same settings.

        Raises:
            CheckpointError: it exists and is not to be resumed, or holds something else.
            ConfigError: it was made with other settings.
        """
        if is_new(self.path):
            return
        if not resume:
            check_new(self.path)
        try:
            there = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))["settings"]
            changed = [key for key, value in self.settings.items() if there.get(key) != value]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"'{self.path}' holds nothing to resume: no readable {CONFIG}.") from error
        if changed:
            details = ", ".join(f"{key} ({there.get(key)} there, {self.settings[key]} given)" for key in changed)
            raise ConfigError(f"The samples in '{self.path}' have other settings: {details}. Choose another --output.")

    def create(self, device: str) -> None:
        """Make the folder with its config.json, unless it is there.

        Raises:
            CheckpointError: it cannot be made.
        """
        if (self.path / CONFIG).exists():
            return
        make_folder(self.path)
        self.write(CONFIG, [json.dumps({"settings": self.settings, **provenance(device)}, indent=2)])

    def kept(self, waves: Sequence[Wave]) -> list[list[dict[str, Any]]]:
        """The rows of each whole wave that the file has; what comes after them is cut off.

        Raises:
            CheckpointError: the file's rows are not those of these waves.
        """
        try:
            data = self.samples.path.read_bytes() if self.samples.path.exists() else b""
        except OSError as error:
            raise CheckpointError(f"Cannot read '{self.samples.path}': {error.strerror}.") from error
        lines = data.split(b"\n")[:-1]  # the last one is empty, or was cut off in writing
        whole: list[list[dict[str, Any]]] = []
        position = 0
        for wave in waves:
            keys = wave.keys()
            if position + len(keys) > len(lines):
                break
            whole.append(list(self._parsed(lines, position, keys)))
            position += len(keys)
        end = sum(len(line) + 1 for line in lines[:position])
        if end < len(data):
            os.truncate(self.samples.path, end)
        return whole

    def _parsed(
        self, lines: Sequence[bytes], start: int, keys: Sequence[tuple[str, str, int]]
    ) -> Iterator[dict[str, Any]]:
        for number, key in enumerate(keys, start):
            try:
                row = json.loads(lines[number])
                matches = (row["kind"], row["problem_id"], row["sample"]) == key
            except (ValueError, KeyError, TypeError, RecursionError):
                matches = False
            if not matches:
                where = f"'{self.samples.path}', line {number + 1}"
                raise CheckpointError(f"{where}: not the row expected there ({key[0]} {key[2]} of {key[1]}).")
            yield row

    def write(self, name: str, lines: Iterable[str]) -> Path:
        """Write a file of the folder atomically; returns its path."""
        write_atomically(self.path / name, "".join(line + "\n" for line in lines))
        return self.path / name


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
    waves = spec.waves()
    whole = folder.kept(waves) if folder else []
    rows = [row for wave in whole for row in wave]
    advance(len(rows))
    for wave in waves[len(whole) :]:
        new = sample_wave(policy(), task, wave, spec, limits)
        if folder:
            folder.create(str(policy().device))
            folder.samples.append(new)
        rows += new
        advance(len(new))
    return by_problem(spec, rows)
