"""The settings of the commands that measure a model, `eval` and `diagnose`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from expo_lite.records import Level
from expo_lite.settings.groups import ExplainWith, ExplanationFilter, ExpoConfig, TaskOptions, Thinking
from expo_lite.settings.machine import Backend, Sampler, check_backend
from expo_lite.settings.schema import (
    AT_LEAST_0,
    COMPLETIONS,
    POSITIVE,
    PROBLEMS,
    ROWS,
    SEED,
    SHARE,
    TEMPERATURE,
    TOKENS,
    typed,
)
from expo_lite.settings.train import check_filters


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingConfig:
    """The settings of every command that loads a run or a model."""

    bits: Literal[4, 16] | None = None
    """Bits of the base model's weights. Default: those that the adapter was trained on.
    If it does not say: 4, and 16 for chat and export."""
    revision: str | None = None
    """The revision of a hub model: a branch, tag or commit. Default: the run's own, else the newest."""
    trust_remote_code: bool = False
    """Run the Python code that a model brings with it. Read the code first: it can do all that you can."""
    thinking: Thinking | None = None
    """Let the model think before it answers: on, off or auto, as in training. Default: the run's own, else auto."""
    chat_template: Path | None = None
    """A file with a chat template, or plain, as in training. Default: the run's own, else the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringConfig(LoadingConfig):
    """The settings that `eval` and `diagnose` share."""

    levels: tuple[Level, ...] = ()
    """The levels to take problems from. Default: all."""
    problems: Annotated[int | None, PROBLEMS] = None
    """Problems of each level to take; of a task without levels, the number in all. Default: all."""
    temperature: Annotated[float, TEMPERATURE] = 1.0
    """The sampling temperature. Training samples at 1."""
    top_p: Annotated[float, SHARE] = 1.0
    """Sample only from the most probable tokens that make up this share of the probability (nucleus sampling)."""
    max_completion_tokens: Annotated[int | None, TOKENS] = None
    """Longest completion in tokens. Default: the run's own, else it depends on the model."""
    sampling_rows: Annotated[int, ROWS] = 256
    """Completions decoded at the same time. Results are written to their folder after each such batch."""
    backend: Backend | None = None
    """The backend of the model: unsloth, hf or auto, as in training. Default: the run's own, else auto."""
    sampler: Sampler | None = None
    """The sampler: own, native or auto, as in training. Default: the run's own, else auto."""
    seed: Annotated[int, SEED] = 0
    """The seed of the samples. It does not change which problems are taken."""
    question_prompt: Path | None = None
    """A text file with the prompt that asks a problem, as in training. Default: the run's own, else ours."""
    data: TaskOptions = field(default_factory=TaskOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(MeasuringConfig):
    """Measure a run or a model: greedy accuracy, avg@n, pass@k and maj@k, by level and subject."""

    target: str
    """A run folder, a checkpoint or adapter folder, or a model: an alias, OWNER/NAME, a folder or a GGUF file."""
    baseline: str | None = None
    """A second run or model to compare with, on the same problems with the same seeds."""
    task: str | None = None
    """The task to measure on. Default: the run's own task, else hidden-rules."""
    split: Literal["train", "test"] | None = None
    """The split to take problems from. Default: test, and train with --write-unsolved."""
    levels: tuple[Level, ...] = ()
    """The levels to take problems from. Default: the run's own, else all."""
    samples: Annotated[int, COMPLETIONS] = 16
    """Sampled completions of each problem, besides the greedy one."""
    temperature: Annotated[float, TEMPERATURE] = 0.7
    """The sampling temperature."""
    output: Path | None = None
    """Folder for the results. Default: evaluation/... in the run folder, else runs/eval-..."""
    write_unsolved: Path | None = None
    """Write the problems without a right completion to this JSONL file, which `train --task jsonl:FILE` reads."""
    resume: bool = False
    """Go on with what the output folder already has; problems in it are not sampled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseConfig(MeasuringConfig):
    """Measure whether explanations are good positives for a model on a task: probable, and of use for the answer."""

    model: str | None = None
    """An alias, OWNER/NAME, a folder, a GGUF file, a run folder or an adapter.
    Default: tiny without a GPU, qwen2.5-3b with one."""
    task: str = "hidden-rules"
    """The source of the problems; `expo-lite tasks` lists them."""
    split: Literal["train", "test"] = "train"
    """The split to take problems from."""
    problems: Annotated[int, PROBLEMS] = 32
    """Problems of each level to take; of a task without levels, the number in all."""
    group_size: Annotated[int, COMPLETIONS] = 8
    """Completions of each problem's plain prompt, for the share of all-wrong groups."""
    explain_with: ExplainWith = "answer"
    """The answer in the explanation prompt: answer, wrong-answer (another problem's) or no-answer, as in training."""
    explanation_filter: tuple[ExplanationFilter, ...] = ("arithmetic",)
    """The filters of explanations, as in training: arithmetic, verified, steps, lift, reliance or none."""
    max_reliance: Annotated[float, POSITIVE] = ExpoConfig().max_reliance
    """The bound of the filter reliance, as in training."""
    explanation_prompt: Path | None = None
    """A text file with the explanation prompt, or skeleton, as in training. Default: the run's own, else ours."""
    show: Annotated[int, AT_LEAST_0] = 0
    """Print this many explanations of each level, with the verdict on each."""
    output: Path | None = None
    """Folder for the figures and samples. Default: runs/diagnose-MODEL-TASK."""

    @property
    def explaining(self) -> ExpoConfig:
        """The settings of explanations, as in training: one a problem."""
        names = ("explanation_filter", "max_reliance", "explain_with")
        return ExpoConfig(**{name: getattr(self, name) for name in names})


def check_measuring(config: MeasuringConfig) -> None:
    """Hold the settings of a measuring command against all their rules; raises ConfigError."""
    typed(config)
    check_backend(config.backend)
    if isinstance(config, DiagnoseConfig):
        check_filters(config.explanation_filter)
