"""The command line: each error its code, its line and its speed; each command its output."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from expo_lite import __version__
from expo_lite.commands import cli
from expo_lite.commands.eval import Eval
from expo_lite.commands.flags import flags_of
from expo_lite.commands.lists import Tasks
from expo_lite.commands.train import Train
from expo_lite.settings.measuring import DiagnoseConfig, EvalConfig
from expo_lite.settings.models import PRESETS
from expo_lite.settings.plans import ReplicateConfig, RunsConfig
from expo_lite.settings.synonyms import synonyms
from expo_lite.settings.train import RunConfig, TrainConfig
from expo_lite.sweep.plan import read_plan
from expo_lite.tasks import TASKS

LIMIT_S = 2.5
"""Commands that must take less than 1 s on a free machine."""

FRESH = """
import contextlib, io, json, os, sys, tempfile, time
from expo_lite.commands.cli import run

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "numpy", "sympy"}

def answer(words):
    out, err = io.StringIO(), io.StringIO()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(folder)
        try:
            code = run(words)
        except SystemExit as error:
            code = error.code
        left = os.listdir(folder)
        os.chdir("/")
    return dict(code=code, out=out.getvalue(), err=err.getvalue(), left=left,
                heavy=sorted(HEAVY & set(sys.modules)), took_s=time.perf_counter() - started)

print(json.dumps([answer(words) for words in json.load(sys.stdin)]))
"""
"""Answers command lines one after the other in one process that nothing heavy was imported into before."""

QUICK = ["--version", "--help", "models", "tasks", "plan --vram 24 --model all", *(f"{v} --help" for v in cli.COMMANDS)]
"""Lines that succeed."""

WRONG = {
    "trian": "error: There is no command 'trian'. Did you mean 'train'?",
    "train --modle tiny": "error: There is no flag '--modle'. Did you mean '--model'?",
    "train tiny": "error: 'tiny' belongs to no flag. Did you mean --model tiny?",
    "train --resume runs/x": "error: --resume takes no value. Did you mean --resume --output runs/x?",
    "train --resume=runs/x": "error: --resume takes no value. Did you mean --resume --output runs/x?",
    "train run.toml": "Did you mean --config run.toml?",
    "train --lr 1e-5": "error: There is no flag '--lr'. Here it is called --learning-rate.",
    "train --num-samples 4": "Here it is called --group-size.",
    "eval x --num_samples 4": "Here it is called --samples.",
    "train --quantize": "Here it is called --bits 4.",
    "train --wandb": "Here it is called --log wandb.",
    "train --beta 0.1": "Here it is called --kl-coef or --dpo-beta or --exp-sft-coef.",
    "eval --model tiny": "Here it is called TARGET. It stands without a flag.",
    "train --zzz": "error: There is no flag '--zzz'. `expo-lite train --help`",
    "train --steps": "error: --steps needs a value.",
    "train --bits=5": "error: --bits must be one of 4, 16, not '5'.",
    "plan --vram x": "error: --vram must be a number, not 'x'.",
    "report": "Give at least one run folder",
    "train --model qwen-2.5-3b": "error: Unknown model 'qwen-2.5-3b'. Did you mean 'qwen2.5-3b'?",
    "train --model nothing-like-it.gguf": "error: There is no GGUF file at 'nothing-like-it.gguf'.",
    "train --task hidden-rule": "error: Unknown task 'hidden-rule'. Did you mean 'hidden-rules'?",
    "train --task jsonl": "It is written jsonl:PATH.",
    "train --task hidden-rules --data x": "Task 'hidden-rules' has no use for --data.",
    "train --method ppo": "error: --method must be one of grpo, exp-grpo, gt-sft-grpo, exp-dpo, star, sft,",
    "train --method GRPO": "reformulate, not 'GRPO'. Did you mean 'grpo'?",
    "train --task data/my.jsonl": "Did you mean 'jsonl:data/my.jsonl'?",
    "train --model tiny --max-completion-tokens 100000": "the context of model 'tiny' has 1,024.",
    "eval tiny --max-completion-tokens 100000": "the context of model 'tiny' has 1,024.",
    "train --steps ten": "error: --steps must be a whole number, not 'ten'.",
    "train --group-size 1": "error: group_size must be",
    "train --explanation-filter none,verified": "error: explanation_filter takes 'none' alone",
    "train --explanation-filter verify": "one of arithmetic, verified, steps, lift, reliance, none, not 'verify'.",
    "train --dpo-beta 0.2": "error: dpo_beta set, but of no use with method 'exp-grpo'",
    "train --method grpo --explain-with answer --explain all": "error: explain set, but of no use with method 'grpo'",
    "train --config missing.toml": "error: Cannot read the settings file 'missing.toml'",
    "eval": "error: TARGET is missing: A run folder, a checkpoint or adapter folder,",
    "diagnose --problems 0": "error: problems must be",
    "replicate --seeds 1 1": "seeds, and they differ",
    "replicate --plan missing.toml": "error: There is no plan 'missing.toml'.",
    "plan --vram 0": "error: vram must be",
    "chat tiny --temperature -1": "error: temperature must be",
    "export tiny --to adapter": "without an adapter",
    "grade": "error: FILE is missing:",
}
"""Lines that are refused with code 2, and what is said of each."""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    """The answers to all these lines, none of which may import anything heavy, take long, or leave a file."""
    lines = [*QUICK, *WRONG]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH],
        input=json.dumps([words.split() for words in lines]),
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "160"},
        check=True,
    )
    found = {}
    for words, answer in zip(lines, json.loads(done.stdout), strict=True):
        assert (answer["heavy"], answer["left"]) == ([], []), words
        assert answer["took_s"] < LIMIT_S, words
        found[words] = Answer(answer["code"], answer["out"], answer["err"])
    return found


def in_this_process(capsys: pytest.CaptureFixture[str], *words: str) -> Answer:
    try:
        code = cli.run(words)
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return Answer(code, captured.out, captured.err)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, such as runs/, lead nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def test_what_needs_no_model_is_quick(answers: dict[str, Answer], capsys: pytest.CaptureFixture[str]) -> None:
    for words in QUICK:
        assert (answers[words].code, answers[words].err) == (0, ""), words
    assert answers["--version"].out == f"expo-lite {__version__}\n"
    for verb in cli.COMMANDS:
        assert re.search(rf"^{verb} +[A-Z]", answers["--help"].out, re.MULTILINE)
        assert answers[f"{verb} --help"].out.startswith(f"usage: expo-lite {verb}")
    assert len(cli.COMMANDS) == 14
    assert in_this_process(capsys).out == answers["--help"].out
    assert "without a GPU the built-in model, in minutes, and with one qwen2.5-3b." in answers["--help"].out


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_answered_at_once(words: str, answers: dict[str, Answer]) -> None:
    answer = answers[words]
    text = answer.err
    assert (answer.code, answer.out) == (2, "")
    assert WRONG[words] in text
    assert text.startswith("error: ") and text.count("\n") == 1
    if re.search("flag|must be .* not '|takes no value|is missing", text):
        assert f"`expo-lite {words.split()[0]} --help` lists the flags." in text


def test_an_existing_run_folder_is_an_error_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").touch()
    outcome = in_this_process(capsys, "train", "--output", "mine")
    assert outcome.code == 1
    assert "'mine'" in outcome.err and "--resume" in outcome.err


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RunConfig]]:
    """The settings that the training loop was called with; the loop itself stays away."""
    seen: list[RunConfig] = []
    monkeypatch.setattr("expo_lite.settings.machine.has_gpu", lambda: False)
    monkeypatch.setattr("expo_lite.commands.train.load_task", lambda *_, **__: None)

    def train_on(_task: object, config: RunConfig, _console: object) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(finished=True)

    loop = SimpleNamespace(train_on=train_on)
    monkeypatch.setitem(sys.modules, "expo_lite.loop", loop)
    yield seen


@pytest.mark.parametrize("words", [["tasks"], ["--help"], ["plan", "--help"]])
def test_commands_in_tables_and_helps_are_named_as_the_program_was_started(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expo_lite.terminal.program", lambda: "uv run expo-lite")
    out = in_this_process(capsys, *words).out
    assert "uv run expo-lite " in out and not re.search(r"(?<!run )expo-lite (?!0)", out)


def test_the_plan_in_the_help_of_sweep_is_one(tmp_path: Path, answers: dict[str, Answer]) -> None:
    lines = re.findall(r"^  ([a-z.]+ = .*)$", answers["sweep --help"].out, re.MULTILINE)
    (tmp_path / "plan.toml").write_text("\n".join(lines))
    plan = read_plan(tmp_path / "plan.toml", RunsConfig(model="tiny"))
    assert (len(lines), plan.seeds) == (5, (0, 1))
    found = {name: (run.method, run.steps, run.sampling.temperature) for name, run in plan.runs.items()}
    assert found == {
        "plain-temperature=0.7": ("grpo", 100, 0.7),
        "plain-temperature=1.0": ("grpo", 100, 1.0),
        "gated-temperature=0.7": ("exp-grpo", 100, 0.7),
        "gated-temperature=1.0": ("exp-grpo", 100, 1.0),
    }


def test_train_alone_trains_the_built_in_model(trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["train"]) == 0
    (config,) = trained
    assert (config.model, config.task, config.method, config.steps) == ("tiny", "hidden-rules", "exp-grpo", 100)
    assert config.output == Path("runs/tiny-hidden-rules-exp-grpo-seed0")
    monkeypatch.setattr("expo_lite.settings.machine.has_gpu", lambda: True)
    assert cli.run(["train"]) == 0
    assert trained[1].model == "qwen2.5-3b"  # as the help says


def test_the_flags_people_type_most(trained: list[RunConfig]) -> None:
    words = "train --model qwen2.5-3b --task math --levels 4 5 --method grpo --steps 7 --group-size 4 --seed 3"
    assert cli.run([*words.split(), "--output", "runs/x", "--resume"]) == 0
    (config,) = trained
    assert (config.model, config.task, config.levels, config.method) == ("qwen2.5-3b", "math", (4, 5), "grpo")
    assert (config.steps, config.group_size, config.seed) == (7, 4, 3)
    assert (config.output, config.resume) == (Path("runs/x"), True)


@pytest.mark.parametrize("typed", [["1", "4", "16"], ["1,4", "16"]])
def test_lists_with_spaces_or_commas(typed: list[str]) -> None:
    command = cli.parse(
        ["train", "--levels", *typed, "--explanation-filter", "verified,lift", "--fields", "level=A, B", "chain=C"]
    )
    assert isinstance(command, Train)
    assert command.settings.levels == (1, 4, 16)
    assert command.settings.explanation.explanation_filter == ("verified", "lift")
    assert command.settings.data.fields == ("level=A, B", "chain=C")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path, trained: list[RunConfig]) -> None:
    toml = "steps = 9\nseed = 5\nresume = true\nlevels = [4]\n[loss]\nkl_coef = 0.1\nclip_low = 0.3\n"
    toml += 'updates_per_batch = 2\n[data]\nfields = ["level=A"]'
    (tmp_path / "run.toml").write_text(toml + "\n")
    command = "train --config run.toml --task jsonl:x --seed 6 --clip-low 0.4 --no-resume --levels unset"
    assert cli.run(command.split()) == 0
    (config,) = trained
    assert (config.steps, config.loss.kl_coef, config.data.fields) == (9, 0.1, ("level=A",))
    assert (config.seed, config.loss.clip_low, config.resume, config.levels) == (6, 0.4, False, ())
    assert (config.group_size, config.loss.clip_high) == (8, 0.2)


def test_a_file_may_leave_out_what_must_be_given(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text("samples = 4\nbits = 16\n")
    command = cli.parse(["eval", "--config=e.toml", "runs/x"])
    assert isinstance(command, Eval)
    assert (command.settings.target, command.settings.samples, command.settings.bits) == ("runs/x", 4, 16)


def flags(cls: Any) -> Iterator[str]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        if is_dataclass(hints[field.name]):
            yield from flags(hints[field.name])
        else:
            yield field.name.upper() if field.name == "target" else "--" + field.name.replace("_", "-")


@pytest.mark.parametrize(
    ("verb", "cls"),
    [
        ("train", TrainConfig),
        ("eval", EvalConfig),
        ("diagnose", DiagnoseConfig),
        ("replicate", ReplicateConfig),
    ],
)
def test_one_field_is_one_flag(
    verb: str, cls: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # wider, panels may stand side by side
    text = in_this_process(capsys, verb, "--help").out
    shown = re.findall(r"^  (--[\w-]+|TARGET)\b", text, re.MULTILINE)
    forms = ["--json", "--markdown", "--latex"] if verb in ("eval", "replicate") else []
    assert sorted(shown) == sorted([*flags(cls), "--config", "--debug", *forms])
    assert not re.search(r"None|unset|\(default: \)", text)
    theirs = r"dr_grpo|comet_ml|[a-z]+_proj"
    assert not re.search(r"(?<![-\w`])[a-z]+_[a-z_]+", re.sub(theirs, "", text))  # Python's
    assert all(len(line) <= 100 for line in text.splitlines())
    assert all(line.count("`") % 2 == 0 for line in text.splitlines())  # no command is broken


def test_help_has_an_example_that_works_first_and_then_what_people_need(answers: dict[str, Answer]) -> None:
    for verb in cli.COMMANDS:
        (example,) = re.findall(rf"^Example: expo-lite ({verb}.*)$", answers[f"{verb} --help"].out, re.MULTILINE)
        assert isinstance(cli.parse(example.split()), cli.COMMANDS[verb])
    sections = re.findall(r"^([a-z ]+):$", answers["train --help"].out, re.MULTILINE)
    assert sections == ["flags", "data", "sampling", "explanation", "optimizer", "evaluation", "policy", "loss", "dpo",
                        "every command"]  # fmt: skip
    assert re.findall(r"^([a-z ]+):$", answers["eval --help"].out, re.MULTILINE)[0] == "arguments"
    assert (
        "Every filter but none requires a right answer. verified, the paper's filter, requires nothing more."
        in re.sub(r"\s+", " ", answers["train --help"].out)
    )
    assert "(default: arithmetic)" in answers["train --help"].out and "at most --max-reliance" in re.sub(
        r"\s+", " ", answers["train --help"].out
    )


def test_help_shows_the_values_of_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("group_size = 77\n")
    assert "(default: 77)" in in_this_process(capsys, "train", "--config", "run.toml", "--help").out


@pytest.mark.parametrize(("file", "said"), [
    ("lr = 1", "unknown setting 'lr'. Here it is called learning_rate. It stands in the table [optimizer],"),
    ("[optimizer]\nlr = 1", "unknown setting 'lr'. Here it is called learning_rate.\n"),
    ("beta = 1", "setting 'beta'. Here it is called explanation.exp_sft_coef or loss.kl_coef or dpo.dpo_beta."),
    ("method = 'GRPO'", "not 'GRPO'. Did you mean 'grpo'?"),
    ("max_steps = 1", "unknown setting 'max_steps'. Here it is called steps.\n"),
])  # fmt: skip
def test_names_of_others_in_a_settings_file(
    file: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(file)
    assert said in in_this_process(capsys, "train", "--config", "run.toml").err


def test_every_name_of_others_leads_to_a_flag_that_exists() -> None:
    known = {flag.name for command in cli.COMMANDS.values() for flag in flags_of(command)}
    assert {ours.split()[0] for ours in synonyms()} <= known


def test_on_a_terminal_an_error_is_plain_and_folded_between_words() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    words = [sys.executable, "-m", "expo_lite", "train", "--steps", "ten"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    assert process.wait(60) == 2
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said == (
        "error: --steps must be a whole number, not 'ten'.\r\n`python -m expo_lite train --help` lists the flags.\r\n"
    )


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tasks, "run", interrupt)
    assert in_this_process(capsys, "tasks") == Answer(130, "", "interrupted\n")


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "expo_lite", "models"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() != 0
    assert err == ""


def test_models_and_tasks_are_complete(answers: dict[str, Answer]) -> None:
    models, tasks = answers["models"].out, answers["tasks"].out
    for alias, preset in PRESETS.items():
        row, defaults = (line for line in models.splitlines() if line.split()[:1] == [alias])
        assert defaults.split()[1:] == [preset.parameters, str(preset.steps), f"{preset.learning_rate:g}",
                                        f"{preset.dpo_learning_rate:g}", str(preset.max_completion_tokens)]  # fmt: skip
        source = "built in" if alias == "tiny" else preset.source
        assert all(text in row for text in (preset.license, source))
    for kind, spec in TASKS.items():
        origin = [kind, spec.license, spec.chains, spec.held_out]
        assert any(spec.shape in line and spec.about in line for line in tasks.splitlines())
        assert any(line.split() == " ".join(origin).split() for line in tasks.splitlines())


def test_grade_counts_and_compares_with_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"gold": "1/2", "reply": "\\boxed{0.5}", "label": True},
        {"gold": "3", "reply": "\\boxed{4}", "label": True},
        {"gold": "3", "reply": "no idea"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = in_this_process(capsys, "grade", "in.jsonl", "--output", "out.jsonl")
    assert outcome.code == 0
    assert "1 of 3 correct" in outcome.out
    assert "against 2 labels: recall 50.0%, precision 100.0%" in outcome.out
    assert "line 2: gold '3', answer '4': wrong" in outcome.out
    more = {"gold": "5", "reply": "\\boxed{5}"}
    rows += [more | {"label": True}, more | {"label": False}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # of three labelled right two are found; of three found two are right
    assert "against 4 labels: recall 66.7%, precision 66.7%" in in_this_process(capsys, "grade", "more.jsonl").out
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in graded] == [True, False, False]
    assert graded[0]["reply"] == "\\boxed{0.5}"
    (tmp_path / "in.jsonl").write_text(json.dumps({"gold": "0.3333", "reply": "\\boxed{1/3}"}) + "\n")
    assert "0 of 1 correct" in in_this_process(capsys, "grade", "in.jsonl").out
    assert "1 of 1 correct" in in_this_process(capsys, "grade", "in.jsonl", "--rounding", "gold").out
