"""Settings: every rule has a case that breaks it; what is written is read back."""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from expo_lite.errors import ConfigError
from expo_lite.loop import train
from expo_lite.run.target import find_target, resolve_run
from expo_lite.settings import machine as module
from expo_lite.settings.groups import (
    DpoConfig,
    ExpoConfig,
    HeldOutConfig,
    LossConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TaskOptions,
)
from expo_lite.settings.machine import default_model
from expo_lite.settings.measuring import (
    DiagnoseConfig,
    EvalConfig,
    MeasuringConfig,
    check_measuring,
)
from expo_lite.settings.methods import Method
from expo_lite.settings.models import PRESETS
from expo_lite.settings.plans import PlanConfig, ReplicateConfig, check_sweep
from expo_lite.settings.schema import from_mapping, to_json, toml_values, typed
from expo_lite.settings.train import TrainConfig, check_of_use, resolve, task_label


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_gpu", lambda: False)


def with_value(config: Any, name: str, value: Any) -> Any:
    """The settings with one field changed, in whichever group it is."""
    for field in fields(config):
        inner = getattr(config, field.name)
        if is_dataclass(inner) and name in {f.name for f in fields(inner)}:
            return replace(config, **{field.name: with_value(inner, name, value)})
    return replace(config, **{name: value})


def numbers(cls: Any) -> Iterator[tuple[str, type]]:
    """Every field that is a number, with its type."""
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from numbers(hint)
        kinds = {hint, *get_args(hint)} & {int, float}
        if kinds and Ellipsis not in get_args(hint):
            yield name, kinds.pop()


def check_any(config: Any) -> None:
    if isinstance(config, TrainConfig):
        resolve(config)
    elif isinstance(config, ReplicateConfig):
        check_sweep(config)
    elif isinstance(config, MeasuringConfig):
        check_measuring(config)
    else:
        typed(config)


SOUND = [
    TrainConfig(),
    EvalConfig(target="tiny"),
    DiagnoseConfig(),
    ReplicateConfig(),
    PlanConfig(),
]
NUMBERS = [(config, name, kind) for config in SOUND for name, kind in numbers(type(config))]


@pytest.mark.parametrize("config", SOUND, ids=lambda config: type(config).__name__)
def test_defaults_are_sound(config: Any) -> None:
    check_any(config)


@pytest.mark.parametrize(("config", "name", "kind"), NUMBERS, ids=lambda value: value if isinstance(value, str) else "")
def test_no_number_may_be_negative(config: Any, name: str, kind: type) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must .*-1") as caught:
        check_any(with_value(config, name, kind(-1)))
    assert caught.value.exit_code == 2
    if kind is float:
        with pytest.raises(ConfigError, match=f"^{name} must"):
            check_any(with_value(config, name, math.nan))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("group_size", 1),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("learning_rate", 1e20),
        ("seed", 10**60),
    ],
)
def test_a_number_out_of_bounds_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be (greater|less) than .*, not {re.escape(str(value))[:9]}"):
        resolve(with_value(TrainConfig(), name, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("explanation_filter", ("none", "lift"), "explanation_filter takes 'none' alone"),
        ("output", Path("a\0"), "a value is not UTF-8, has a NUL"),
        ("eval_every", 3, "eval_every needs --eval-problems above 0"),
        ("task", "\udcff", "a value is not UTF-8"),
        ("method", "nothing", "method must be"),
    ],
)
def test_each_rule_of_training(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(with_value(TrainConfig(evaluation=HeldOutConfig(eval_problems=0)), name, value))
    assert str(caught.value).startswith(message)


LEAST = {
    "dpo": DpoConfig(dpo_beta=0.5),
    "loss": LossConfig(kl_coef=0.1, updates_per_batch=2),
    "term": ExpoConfig(exp_sft_coef=0.1),
    "chains": ExpoConfig(explain="all"),
    "explained": ExpoConfig(explanations_per_problem=2),
    "refresh": ExpoConfig(explanation_refresh_steps=2),
    "prompt": ExpoConfig(explanation_prompt=Path("a")),
    "teacher": ExpoConfig(teacher="current"),
    "spread": ExpoConfig(exp_sft_normalisation="token"),
    "again": RolloutConfig(resample=2),
}
OF_USE: dict[Method, str] = {
    "grpo": "loss again",
    "exp-grpo": "loss term chains explained refresh spread",
    "gt-sft-grpo": "loss term chains spread",
    "star": "explained refresh spread",
    "sft": "chains spread",
    "exp-dpo": "dpo chains explained refresh",
    "insert": "loss term chains explained refresh",
    "prefix": "loss explained refresh",
    "self-distill": "loss term teacher",
    "soft-explain": "loss term chains explained refresh teacher",
    "likelihood": "loss",
    "grade-negatives": "loss term",
    "hint": "loss explained refresh",
    "reformulate": "loss",
}


@pytest.mark.parametrize("method", OF_USE)
@pytest.mark.parametrize("name", LEAST)
def test_a_setting_that_does_nothing_is_refused(method: Method, name: str) -> None:
    """In a plan, whose common settings stand before its methods, those of explanations are let pass."""
    group = LEAST[name]
    places = {DpoConfig: "dpo", LossConfig: "loss", ExpoConfig: "explanation", RolloutConfig: "sampling"}
    place = places[type(group)]
    changed: dict[str, Any] = {place: group}
    config = replace(TrainConfig(method=method), **changed)
    of_use = name in OF_USE[method].split() or name == "prompt"
    with contextlib.nullcontext() if of_use else pytest.raises(ConfigError, match="set, but of no use with"):
        check_of_use(config)
    shared = of_use or place == "explanation"
    with contextlib.nullcontext() if shared else pytest.raises(ConfigError, match="of no use"):
        resolve(config)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"loss": LossConfig(clip_low=0.1, clip_high=0.3)}, "clip_high, clip_low"),
        ({"loss": LossConfig(clip_high=0.3, updates_per_batch=2)}, ""),
        ({"explanation": ExpoConfig(max_reliance=0.2)}, "max_reliance"),
        ({"explanation": ExpoConfig(max_reliance=0.2, explanation_filter=("reliance",))}, ""),
        ({"explanation": ExpoConfig(exp_sft_coef=0.0, explanations_per_problem=2)}, "explanations_per_problem"),
        ({"method": "sft", "group_size": 4}, "group_size"),
        ({"method": "sft", "group_size": 4, "explanation": ExpoConfig(explain="all-wrong")}, ""),
        ({"method": "exp-dpo", "draw": "hard", "dpo": DpoConfig(pairs="offline")}, "draw"),
        ({"method": "exp-dpo", "draw": "hard"}, ""),
    ],
)
def test_a_setting_that_does_nothing_beside_others_is_refused(changed: dict[str, Any], names: str) -> None:
    """From Python too, before anything is loaded; not in a plan, nor where a run goes on."""
    config = TrainConfig(model="tiny", task="nothing", **changed)
    resolve(config)
    message = f"^{names} set, but of no use" if names else "unknown task 'nothing'"
    for given in (config, replace(config, levels=[])):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"(?i){message}"):
            train(given)


@pytest.mark.parametrize(
    ("dpo", "refused"),
    [(DpoConfig("offline"), "refresh"), (DpoConfig(chosen="expert"), "explained"), (DpoConfig(chosen="expert"), "")],
)
def test_what_is_of_use_depends_on_the_pairs(dpo: DpoConfig, refused: str) -> None:
    config = TrainConfig(method="exp-dpo", dpo=dpo, explanation=LEAST.get(refused, ExpoConfig()))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="of no use") if refused else contextlib.nullcontext():
        check_of_use(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EvalConfig(target="tiny", samples=0), "samples must be greater than or equal to 1, not 0."),
        (EvalConfig(target="tiny", split="dev"), "split must be 'train' or 'test', not 'dev'."),  # type: ignore[arg-type]
        (ReplicateConfig(seeds=(0, -1)), "seeds must be greater than or equal to 0, not -1."),
        (ReplicateConfig(ray="auto", jobs=2), "jobs is not for a Ray cluster"),
        (DiagnoseConfig(explanation_filter=()), "explanation_filter takes 'none' alone"),
    ],
)
def test_each_rule_of_measuring(config: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_any(config)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("gpu", "model"), [(False, "tiny"), (True, "qwen2.5-3b")])
def test_the_default_model_is_what_the_machine_can_hold(gpu: bool, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_gpu", lambda: gpu)
    assert default_model() == model
    assert resolve(TrainConfig()).model == model


@pytest.mark.parametrize("alias", PRESETS)
def test_what_is_left_open_follows_from_the_model(alias: str) -> None:
    config = resolve(TrainConfig(model=alias, task="jsonl:some/file.jsonl", seed=2))
    preset = PRESETS[alias]
    assert (config.steps, config.optimizer.learning_rate) == (preset.steps, preset.learning_rate)
    assert config.sampling.max_completion_tokens == preset.max_completion_tokens
    assert config.output == Path(f"runs/{alias}-jsonl-file-exp-grpo-seed2")


@pytest.mark.parametrize(("task", "label"), [
    ("hidden-rules", "hidden-rules"),
    ("jsonl:sums.jsonl", "jsonl-sums"),
    ("jsonl:/data/my sums.v2.jsonl.gz", "jsonl-my-sums.v2"),
    ("csv:../a.csv", "csv-a"),
    ("parquet:folder/", "parquet-folder"),
    ("hub:openai/gsm8k", "hub-gsm8k"),
    ("hub:openai/gsm8k:main", "hub-gsm8k-main"),
    ("reasoning-gym:chain_sum,leg_counting", "reasoning-gym-chain_sum,leg_counting"),
    ("jsonl:\x1b[2J\u202e.jsonl", "jsonl-2J"),
    ("jsonl:..", "jsonl"),
    (f"jsonl:{'x' * 300}.jsonl", f"jsonl-{'x' * 54}"),
])  # fmt: skip
def test_each_file_has_a_run_folder_of_its_own(task: str, label: str) -> None:
    assert task_label(task) == label


def test_pairs_are_learned_from_at_a_rate_of_their_own() -> None:
    assert resolve(TrainConfig(model="tiny", method="exp-dpo")).optimizer.learning_rate == 1e-4
    given = with_value(TrainConfig(model="tiny", method="exp-dpo"), "learning_rate", 0.5)
    assert resolve(given).optimizer.learning_rate == 0.5
    assert resolve(resolve(TrainConfig(model="tiny", method="exp-dpo"))).optimizer.learning_rate == pytest.approx(1e-4)


def test_what_is_given_stays(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    given = with_value(TrainConfig(model=f"{tmp_path}/my-model/", steps=3), "learning_rate", 0.5)
    config = resolve(with_value(given, "max_completion_tokens", 7))
    assert (config.steps, config.optimizer.learning_rate, config.sampling.max_completion_tokens) == (3, 0.5, 7)
    assert config.output == Path("runs/my-model-hidden-rules-exp-grpo-seed0")
    assert resolve(config) == config


CHANGED = [
    resolve(with_value(TrainConfig(levels=(4, 5), output=Path("x"), resume=True), "data", Path("some/folder"))),
    EvalConfig(target="runs/x", task="math", bits=16, output=Path("y")),
    DiagnoseConfig(model="tiny", explanation_filter=("verified", "lift"), bits=4),
]


@pytest.mark.parametrize("config", [*SOUND, *CHANGED], ids=lambda config: type(config).__name__)
def test_json_and_back(config: Any) -> None:
    assert from_mapping(type(config), to_json(config), "here") == config


def read_toml(path: Path) -> TrainConfig:
    """As `--config` reads a file."""
    return from_mapping(TrainConfig, toml_values(path), str(path))


def test_a_revision_of_what_is_not_on_the_hub_and_a_folder_of_gguf_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for model in ("tiny", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"--revision does nothing for .*, which is no model of the hub"):
            resolve(TrainConfig(model=model, policy=PolicyConfig(revision="v1")))
        with pytest.raises(ConfigError, match="--revision does nothing for"):
            find_target(model, revision="v1")
    with pytest.raises(ConfigError, match="lora_targets has a name twice"):
        resolve(TrainConfig(policy=PolicyConfig(lora_targets=("q_proj", "q_proj"))))
    assert find_target("qwen3-0.6b", revision="v1").policy.revision == "v1"
    (tmp_path / "config.json").rename(tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match=r"Give the file itself, such as '.*/m\.gguf'"):
        find_target(str(tmp_path))


def test_values_from_python_are_of_the_fields_type() -> None:
    """A text is a path where one is wanted, and a list a tuple, in groups too; a path keeps its `~` nowhere."""
    given: Any = {"output": "runs/x", "levels": [5, "hard"], "data": TaskOptions(data="~/d")}  # type: ignore[arg-type]
    config = resolve_run(TrainConfig(model="tiny", **given))
    assert (config.output, config.levels) == (Path("runs/x"), (5, "hard"))
    assert config.data.data == Path("~/d").expanduser()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "5"}, "steps must be a valid integer, not '5'"),
        ({"output": 5}, "output must be .*, not 5"),
        ({"log": "wandb"}, "log must be a valid array, not 'wandb'"),
        ({"optimizer": OptimizerConfig(learning_rate="1e-3")}, "learning_rate must be a valid number, not '1e-3'"),  # type: ignore[arg-type]
        ({"evaluation": 3}, "evaluation must be an object, not 3"),
    ],
)
def test_a_value_of_another_type_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        resolve_run(TrainConfig(model="tiny", **given))


def test_toml_fills_what_it_has(tmp_path: Path) -> None:
    text = 'model = "tiny"\nlevels = [4, 5]\noutput = "~/x"\noptimizer.learning_rate = 1\nevaluation.eval_every = 4\n'
    (tmp_path / "run.toml").write_text(text)
    config = read_toml(tmp_path / "run.toml")
    assert (config.model, config.levels, config.output) == ("tiny", (4, 5), Path.home() / "x")
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.evaluation == replace(TrainConfig().evaluation, eval_every=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 3", "unknown setting 'step'. Did you mean 'steps'?"),
        ("zzzzzz = 3", "unknown setting 'zzzzzz'."),
        (
            "kl_coef = 0.1",
            "unknown setting 'kl_coef'. It stands in the table [loss], or is written as loss.kl_coef = ...",
        ),
        (
            "[loss]\nbits = 4",
            "loss: unknown setting 'bits'. It stands in the table [policy], or is written as policy.b",
        ),
        ("[loss]\nsteps = 4", "loss: unknown setting 'steps'. It stands at the top, before the first table."),
        ("[loss]\nkl_coeff = 0.1", "loss: unknown setting 'kl_coeff'. Did you mean 'kl_coef'?"),
        ("steps = true", "steps must be a valid integer, not True."),
        ("resume = 1", "resume must be a valid boolean, not 1."),
        ('method = "ppo"', "method must be 'grpo', "),
        ("steps = 1\nsteps = 2", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'model = "\xe9"')
    for name, message in [("missing", "No such file"), (".", "it is a folder"), ("latin", "is not valid TOML")]:
        with pytest.raises(ConfigError, match=message):
            read_toml(tmp_path / name)
