"""A run read back from its folder: settings, metrics, samples and evaluations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.results.figures import Evaluation
from expo_lite.run.checkpoint import step_of
from expo_lite.run.folder import JsonLines, RunFolder, read_json, read_settings
from expo_lite.settings.schema import flat, from_mapping

PLACES = ("output", "resume", "log")
"""Settings of the place of a run and its loggers, which do not make it another run."""
OF_ONE_RUN = ("settings", "run_id", "prompts", "problems_sha256")
"""Entries of config.json that are not what a run was made with."""
HELD_OUT = "held-out"
"""The kind of an evaluation's samples; greedy ones are 'held-out greedy'."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out evaluation after `step` steps."""

    step: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything in a run folder; rows are in the order of the files."""

    label: str
    path: Path
    settings: dict[str, Any]
    """The settings by dotted name, flat."""
    made_with: dict[str, Any]
    """Versions, git revision and device."""
    metrics: list[dict[str, Any]] = field(repr=False)
    samples: list[dict[str, Any]] = field(repr=False)
    pairs: list[dict[str, Any]] = field(repr=False)
    held_out: list[dict[str, Any]] = field(repr=False)
    """Samples of evaluations, if they were kept; their `kind` begins with HELD_OUT."""
    evaluated: tuple[Evaluated, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict, repr=False)
    """The question's and the explanation's prompt as the model reads them; older runs have none."""

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in these folders, with labels that tell them apart.

    Raises:
        CheckpointError: a folder holds no run, or one of its files is damaged.
    """
    return [read_run(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def read_run(path: Path, label: str) -> RunRecord:
    """Read the run in a folder; a file that does not exist yet counts as empty."""
    folder = RunFolder(path)
    folder.check_is_run()
    about = read_json(folder.config_file)
    if not isinstance(about.get("settings"), dict) or "method" not in about["settings"]:
        raise CheckpointError(
            f"'{folder.config_file}' is not the config.json of a run. Give the folder that train made."
        )
    return RunRecord(
        label=label,
        path=path,
        settings={key: value for key, value in flat(about["settings"]) if key not in PLACES},
        made_with=dict(flat({key: value for key, value in about.items() if key not in OF_ONE_RUN})),
        metrics=folder.metrics.read(),
        samples=folder.samples.read(),
        pairs=folder.pairs.read(),
        prompts=about.get("prompts", {}),
        held_out=list(_held_out(path / "evaluation", about["settings"].get("task"))),
        evaluated=tuple(Evaluated(step_of(file), read_evaluation(file)) for file in folder.evaluation_files()),
    )


def labels(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that are all different; a folder given twice is numbered."""
    parts = [path.absolute().parts for path in paths]
    for n in range(1, max(map(len, parts)) + 1):
        found = ["/".join(own[-n:]) for own in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{own[-1]} ({i})" for i, own in enumerate(parts, 1)]


def differing(runs: Sequence[RunRecord]) -> list[tuple[str, list[Any]]]:
    """The settings, versions and devices that differ between runs, with each run's value or None."""
    tables = [run.settings | run.made_with for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name) for table in tables]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def shown(value: Any) -> str:
    """Write a setting as it is typed."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "unset"
    return "unset" if value is None else str(value)


def _held_out(folder: Path, task: str) -> Iterator[dict[str, Any]]:
    """The rows in folders whose name begins with the step: those in training, and those of `expo-lite eval RUN`."""
    for file in sorted(folder.glob("step-*/samples.jsonl")):
        step, about = int(file.parent.name.split("-")[1]), read_settings(file.parent)
        own = about.get("task", task) == task and about.get("split", "test") == "test"
        for row in JsonLines(file).read() if own else ():
            kind = f"{HELD_OUT} greedy" if row["kind"] == "greedy" else HELD_OUT
            yield {**row, "step": step, "kind": kind}


def read_evaluation(file: Path) -> Evaluation:
    """Read an evaluation; raise CheckpointError if its file is damaged."""
    values = read_json(file)
    try:
        return from_mapping(Evaluation, values)
    except ConfigError as error:
        raise CheckpointError(f"The evaluation in '{file}' is damaged: remove that file to go on.") from error
