"""README and guides: every command is run, or it is said why not; the example runs; no link is dead."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from made_run import make_run
from packaging.specifiers import SpecifierSet

from expo_lite.commands import cli
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.tasks.hidden_rules import EXAMPLE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "examples").rglob("*.md"))
MOST_LINES, WIDEST = 140, 160
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")

STEP = "--steps 1 --group-size 2 --problems-per-step 2 --max-completion-tokens 16"
FEW = "--problems 1 --group-size 2 --max-completion-tokens 16"
SHORT = f"{STEP} --diagnostics-every 0 --eval-problems 0 --output runs/new"

RUN = {
    "train --model tiny": SHORT,
    "report runs/a": "",
    "doctor runs/a": "",
    "doctor": "--skip-training",
    "report runs/a runs/b --output both.html": "",
    "report runs/a runs/b": "",
    "report runs/a runs/b --json": "",
    "report runs/a runs/b --latex": "",
    "report runs/a runs/b --markdown": "",
    "plan --model all --vram 8 12 16 24": "",
    "plan --model qwen2.5-3b --vram 24": "",
    "plan --model qwen2.5-3b --card 4090": "",
    "models": "",
    "grade replies.jsonl": "",
    "diagnose --model tiny": FEW,
    "diagnose --model tiny --show 4": FEW,
    "diagnose --model tiny --levels 5 --problems 200 --temperature 2": FEW,
    "diagnose --model tiny --task jsonl:problems.jsonl --show 4": FEW,
    "eval tiny --task jsonl:problems.jsonl --write-unsolved runs/hard.jsonl": "--max-completion-tokens 8",
    "train --model tiny --task jsonl:problems.jsonl": SHORT,
    "train --model tiny --task csv:problems.csv --fields question=text answer=result": SHORT,
    "train --model tiny --task jsonl:runs/hard.jsonl": SHORT,
}
"""Each is run below, with what is added here so that it takes seconds."""

CHATTED = "test_chat.py: test_base_and_trained_answer_the_same_question"
LOGGED = "test_logs.py: test_tensorboard_has_what_the_run_has"
TOGETHER = "test_commands_together.py: test_unsolved_then_train_then_eval_against_the_base"
ELSEWHERE = {
    "eval runs/a --baseline tiny --samples 64": TOGETHER,
    "train --model tiny --log tensorboard trackio": LOGGED,
    f'chat runs/a --prompt "{EXAMPLE}"': "test_chat.py: test_base_and_trained_answer_the_same_question",
    "chat runs/a": "test_chat.py: test_lines_of_a_pipe_are_questions_and_a_long_reply_is_cut",
    "export runs/a": "test_export.py: test_a_merged_model_answers_alike_and_its_card_has_the_figures",
    "export runs/a --to adapter": "test_export.py: test_an_adapter_loads_on_the_base_that_it_names",
    "export runs/a --to gguf --dtype q8_0": "test_export.py: test_a_gguf_file_is_read_back",
    "export runs/a --to ollama": "test_export.py: test_llama_cpp_answers_alike",
    "watch runs/a": "test_watch.py: test_the_command",
    "train --model runs/a --output runs/more": "test_warm_start.py: test_a_run_begins_where_another_ended",
    "sweep ablate-positives --quick": "test_sweep.py: test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep ablate-coef --quick": "test_sweep.py: test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep ablate-gate --quick": "test_sweep.py: test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep examples/expert_styles.toml --model tiny --output runs/expert-styles": "test_sweep.py: "
    "test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep examples/other_tiny.toml --model runs/other-tiny --output runs/other": "test_sweep.py: "
    "test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep examples/first_command.toml --model tiny --output runs/first-command": "test_sweep.py: "
    "test_the_plan_of_the_first_command",
    "sweep remedies": "test_sweep.py: test_every_plan_can_be_read_and_controls_differ_alone",
    "sweep examples/star.toml --model tiny --output runs/star": "test_sweep.py: "
    "test_every_plan_can_be_read_and_controls_differ_alone",
    "replicate": "test_sweep.py: test_finished_runs_stay_and_broken_ones_go_on",
    "replicate --seeds 0 1 2": "test_sweep.py: test_finished_runs_stay_and_broken_ones_go_on",
    "replicate --quick": "test_sweep.py: test_the_plan_of_replicate",
}
"""Run by another test, on a smaller scale."""

HUB_AND_GPU = "the model comes from the hub, and it is too large for a CPU"
SMOLLM2 = "needs SmolLM2-135M-Instruct, a download of 90 MB, taught for an hour; tests -m slow run that model"
NOT_RUN = {
    "train --model qwen2.5-3b --task math": HUB_AND_GPU,
    "diagnose --model qwen2.5-3b --task math --explanation-filter verified": HUB_AND_GPU,
    "diagnose --model qwen2.5-3b --task math": HUB_AND_GPU,
    "replicate --model qwen2.5-3b --task math": HUB_AND_GPU,
    "train --model qwen2.5-0.5b --task hub:OWNER/NAME": "model and data are the hub's; OWNER/NAME stands for yours",
    "sweep examples/pretrained.toml --model boxes --task python:examples/boxes.py --output runs/pretrained": SMOLLM2
    + "; the runs take ten hours",
    "diagnose --model boxes --bits 16 --task python:examples/boxes.py --split test --levels 5 --problems 200 "
    "--group-size 16 --max-completion-tokens 64 --temperature 1 --explanation-filter verified": SMOLLM2,
    "diagnose --model boxes --bits 16 --task gsm8k --split test --problems 60 --group-size 8 "
    "--max-completion-tokens 96 --temperature 1 --show 4 --explanation-filter verified": SMOLLM2
    + "; the data are the hub's",
}
"""With the reason. They are parsed all the same."""


def lines() -> list[str]:
    """Every line of the fenced blocks without a language; a line that ends in a backslash goes on in the next."""
    found = []
    for file in (README, *GUIDES):
        for language, block in BLOCK.findall(file.read_text(encoding="utf-8")):
            if not language:
                found += block.replace("\\\n", " ").splitlines()
    return found


def commands() -> list[str]:
    """The words after `expo-lite` in these lines."""
    parts = [part.strip() for line in lines() for part in line.split("&&")]
    words = [re.fullmatch(r"(?:uv run (?:--extra \w+ )?)?expo-lite (.+)", part) for part in parts]
    return sorted({" ".join(found[1].split()) for found in words if found})


def test_the_lists_have_every_command_and_no_other() -> None:
    listed = [*RUN, *ELSEWHERE, *NOT_RUN]
    assert len(listed) == len(set(listed))
    assert sorted(listed) == commands()
    assert all(NOT_RUN.values())


def test_the_first_command_sets_everything_up() -> None:
    text = README.read_text(encoding="utf-8")
    first = BLOCK.search(text)
    assert first is not None
    assert first[2].splitlines() == [
        "git clone REPOSITORY expo-lite && cd expo-lite",
        "pip install uv && uv run expo-lite train --model tiny",
    ]


def test_the_command_for_a_card_installs_unsloth_and_a_trl_that_fits_the_trainer() -> None:
    (extra,) = re.findall(r"^uv run --extra (\w+) expo-lite train", README.read_text(encoding="utf-8"), re.MULTILINE)
    packages = {each["name"]: each for each in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    own = packages["expo-lite"]
    asked = {each["name"]: each["specifier"] for each in own["metadata"]["requires-dist"] if each.get("marker")}
    locked = {each["name"]: packages[each["name"]] for each in own["optional-dependencies"][extra]}
    assert set(locked) == {"unsloth", "unsloth-zoo"}
    assert all(locked[name]["version"] in SpecifierSet(asked[name]) for name in locked)
    assert "trl" in {each["name"] for each in locked["unsloth"]["dependencies"]}
    assert packages["trl"]["version"] in SpecifierSet(asked["trl"])  # one lock for both extras: uv finds no other


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.parse(shlex.split(command))


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_what_runs_a_command_elsewhere_is_there(place: str) -> None:
    file, _, name = place.partition(": ")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the commands read: problems, replies and finished runs."""
    problems = [{"question": f"What is {i} + {i * 7 % 5}?", "answer": str(i + i * 7 % 5)} for i in range(24)]
    text = "".join(json.dumps(row) + "\n" for row in problems)
    (tmp_path / "problems.jsonl").write_text(text)
    csv = ["text,result", *(f"{row['question']},{row['answer']}" for row in problems)]
    (tmp_path / "problems.csv").write_text("\n".join(csv) + "\n")
    rows = [{"gold": "1/2", "reply": "\\boxed{0.5}"}, {"gold": "3", "reply": "\\boxed{4}"}]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "runs").mkdir()
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name, seed=len(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", RUN)
def test_the_commands_run(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "jsonl:runs/hard.jsonl" in command:
        (folder / "problems.jsonl").rename(folder / "runs" / "hard.jsonl")
    assert cli.run(shlex.split(f"{command} {RUN[command]}")) == 0
    assert capsys.readouterr().out.strip()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ((_, code),) = [block for block in BLOCK.findall(README.read_text(encoding="utf-8")) if block[0] == "python"]
    assert len(code.splitlines()) <= 10
    made = resolve(TrainConfig(model="tiny")).output
    make_run(tmp_path / made)  # by the first command
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 (our own text)
    *levels, folder = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in levels] == [f"level {level}" for level in (1, 2, 3, 4, 5, "all")]
    assert all(re.fullmatch(r"level \w+: pass@4 \d+% -> \d+%", line) for line in levels)
    assert Path(folder) != made
    assert len((tmp_path / folder / "metrics.jsonl").read_text().splitlines()) == 5


def test_settings_files_that_are_shown_are_read(tmp_path: Path) -> None:
    shown = [block for file in GUIDES for language, block in BLOCK.findall(file.read_text()) if language == "toml"]
    assert shown
    for block in shown:
        (tmp_path / "run.toml").write_text(block)
        assert cli.parse(["train", "--config", str(tmp_path / "run.toml")])


@pytest.mark.parametrize("file", [README, ROOT / "CONTRIBUTING.md", *GUIDES], ids=lambda file: file.stem)
def test_links_lead_to_files(file: Path) -> None:
    links = LINK.findall(file.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert not dead


def test_scripts_that_are_named_exist() -> None:
    named = {word for line in lines() for word in line.split() if word.startswith("examples/")}
    assert {"examples/check_gpu.py", "examples/benchmark_vs_trl.py", "examples/boxes.py"} <= named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_index_has_every_guide() -> None:
    index = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for guide in (ROOT / "examples" / "guides").glob("*.md"):
        assert f"(guides/{guide.name})" in index


def test_the_readme_is_short() -> None:
    rows = README.read_text(encoding="utf-8").splitlines()
    assert len(rows) <= MOST_LINES
    assert max(map(len, rows)) <= WIDEST
