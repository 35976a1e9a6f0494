"""Base and trained model answer for real: piped, on a terminal, with the answer shown."""

import io
from pathlib import Path

import pytest

from expo_lite.commands import cli
from expo_lite.commands.chat import show
from expo_lite.tasks.hidden_rules import EXAMPLE, in_lines, read_question
from expo_lite.terminal import Terminal

QUESTION = "Start with 4.\nA: blorp.\nB: hop.\nWrite the results one after the other."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "--model", "tiny", "--steps", "2", "--learning-rate", "0.5", "--eval-problems", "0"]
    assert cli.run([*words, "--output", str(folder)]) == 0
    return folder


def test_base_and_trained_answer_the_same_question(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", QUESTION, "--temperature", "0"]
    assert cli.run(["chat", "tiny", "--bits", "4", *words]) == 0
    alone = capsys.readouterr().out.split("tiny:\n")[1].strip()
    assert alone.startswith("A:4 blorp")
    assert cli.run(["chat", str(run), *words]) == 0
    base, trained = capsys.readouterr().out.split("base:\n")[1].split("trained")
    assert base.strip() == alone  # the adapter is off
    assert trained.strip() != f":\n{alone}"  # two steps at this rate break the model
    assert not trained.strip().endswith(alone)


@pytest.mark.parametrize("end", ["quit", " Exit "])
def test_lines_of_a_pipe_are_questions_and_a_long_reply_is_cut(
    end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Start with 1.\n\nStart with 2.\n{end}\nStart with 3.\n"))
    assert cli.run(["chat", "tiny", "--max-completion-tokens", "5", "--temperature", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("tiny (cut off at 5 tokens):") == 2
    first, second = out.split("> Start with 1.\n")[1].split("> Start with 2.\n")  # each before its reply
    assert first.startswith("tiny (cut off") and second.startswith("tiny (cut off")


def test_tiny_says_what_it_can_be_asked_and_takes_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chat", "tiny", "--temperature", "0", "--prompt"]
    assert cli.run([*words, EXAMPLE]) == 0
    out = capsys.readouterr().out
    assert f"such as: {EXAMPLE}\n" in out
    assert cli.run([*words, QUESTION]) == 0
    assert capsys.readouterr().out == out
    assert read_question(in_lines(EXAMPLE)).answer == "A=0, B=3"  # 4 and 6 is 0, and 3 more; as the guide has it


def test_a_reply_longer_than_the_context_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["chat", "tiny", "--prompt", "a", "--max-completion-tokens", "5000"]) == 2
    assert "leaves no room for a question" in capsys.readouterr().err


def test_what_was_exported_answers_as_the_run_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model by itself is not quantised again: that would be another model than the one that was exported."""
    words = ["--prompt", QUESTION, "--temperature", "0", "--max-completion-tokens", "32"]
    assert cli.run(["chat", str(run), *words]) == 0
    trained = capsys.readouterr().out.split("trained")[1].partition(":\n")[2]
    folder = run / "export" / "merged"
    assert cli.run(["export", str(run), "--dtype", "f32", "--output", str(folder)]) == 0
    capsys.readouterr()
    assert cli.run(["chat", str(folder), *words]) == 0
    assert capsys.readouterr().out.partition(":\n")[2] == trained


def test_replies_stand_side_by_side_on_a_terminal() -> None:
    """Escape codes that a model writes are shown as text."""
    file = io.StringIO()
    show({"base": "a\x1b[2Jb", "trained": "[bold]c[/]\u202ed"}, Terminal(file=file, width=80, force_terminal=True))
    text = file.getvalue()
    assert "a\\x1b[2Jb" in text and "[bold]c" in text and "\\u202ed" in text
    assert "\x1b[2J" not in text
