"""The terminal: text from outside as visible text, whichever way it goes there."""

import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hostile import CODE, HOSTILE, bare
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from expo_lite.commands import cli
from expo_lite.run.progress import CompletionBar
from expo_lite.settings.models import PRESETS
from expo_lite.terminal import Terminal, as_started, latex, markdown, new_table, program, say, visible, wrapped

BIN = Path(sys.executable).parent
PACKAGE = Path(__file__).parent.parent / "expo_lite"
SHOWN = "\\x1b[38;5;201m\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202e[/] [/bold] [bold]:bug:"


def terminal() -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(file=file, force_terminal=True, width=160, color_system="256"), file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00\x07\x08\r\x7f", "\\x00\\x07\\x08\\x0d\\x7f"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("\u202eabc\u2066\u200f\u061c", "\\u202eabc\\u2066\\u200f\\u061c"),
        ("\U000e0041", "\\U000e0041"),  # a tag: letters that nobody sees
        ("\ud800\udcff", "\\ud800\\udcff"),
        ("a\tb\n\xa0c\u3000", "a\tb\n\xa0c\u3000"),
        ("\\frac{1}{2} é 数 🐛 [bold]", "\\frac{1}{2} é 数 🐛 [bold]"),
    ],
)
def test_each_kind_of_character(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("started", "path", "uv", "words"),
    [
        (str(BIN / "expo-lite"), BIN, False, "expo-lite"),  # in an environment that is active
        (".venv/bin/expo-lite", "/usr/bin", False, ".venv/bin/expo-lite"),
        ("my env/bin/expo-lite", "/usr/bin", False, "'my env/bin/expo-lite'"),
        (str(BIN / "expo-lite"), BIN, True, "uv run expo-lite"),
        (str(PACKAGE / "__main__.py"), BIN, False, "python -m expo_lite"),
        (str(PACKAGE / "__main__.py"), "/usr/bin", False, f"{sys.executable} -m expo_lite"),
        ("-c", BIN, False, "expo-lite"),  # from Python
        ("-c", "/usr/bin", False, f"{sys.executable} -m expo_lite"),
    ],
)
def test_commands_are_named_as_the_program_was_started(
    started: str, path: Path, uv: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setenv("PATH", str(path))
    if uv:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
        monkeypatch.chdir(BIN.parent.parent)
    assert program() == words
    for verb in (*cli.COMMANDS, "--help"):
        named = f"Run `{words} {verb} x`; see {words} {verb}."
        assert as_started(f"Run `expo-lite {verb} x`; see expo-lite {verb}.") == named
        assert as_started(named) == named  # a console names it, and so does what prints to it
    kept = "Made by expo-lite 0.1.0 in /home/expo-lite train/my-expo-lite train"
    assert as_started(kept) == kept


def test_nothing_that_can_be_copied_is_broken() -> None:
    line = "Read `expo-lite train --resume --output runs/a`, then '/home/me/my runs/a b.jsonl': it's the run's own."
    for width in range(1, 121):
        parts = wrapped(line, width).split("\n")
        assert " ".join(parts) == line
        for whole in ("`expo-lite train --resume --output runs/a`,", "'/home/me/my runs/a b.jsonl':"):
            assert any(whole in part for part in parts)
        assert all(len(part) <= max(width, 43) for part in parts)
    assert wrapped("  ok  it fits", 8) == "  ok  it\nfits"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_word_of_a_table_is_broken_where_another_column_can_give_way(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    cli.run(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    for alias, preset in PRESETS.items():
        assert {alias, *(["built"] if alias == "tiny" else preset.source.split()), *preset.license.split()} <= {*words}
    assert (
        len([line for line in lines if line.strip()]) <= 2 * len(PRESETS) + 24
    )  # seven licences take up to three lines


def test_nothing_that_has_no_shape_is_left_of_all_of_unicode() -> None:
    text = "".join(map(chr, range(0x110000)))
    left = {c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left == {"\n", "\t"}
    visible(text).encode()


def test_strings_texts_tables_titles_rules_and_bars() -> None:
    """As a string each keeps its width too: a table's cells are as wide as what is shown."""
    console, file = terminal()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "bold"))
    for each in (HOSTILE, Text(HOSTILE, "red"), table, Rule(HOSTILE)):
        console.print(each)
    console.print(HOSTILE, style="bold", markup=True, emoji=True, highlight=True)
    console.print(HOSTILE, 1, HOSTILE, sep="")
    say(console, HOSTILE)
    with CompletionBar(console, HOSTILE, 3) as advance:
        advance(2)
    with Live(HOSTILE, console=console) as live:
        live.update(Text(HOSTILE))
    written = file.getvalue()
    assert CODE not in written
    # as strings: a line, title, column and cell, a rule, styled, twice in one call, said, live
    assert bare(written).count(SHOWN) == 1 + 3 + 1 + 1 + 2 + 1 + 1
    # as Text, of which rich takes the bell away: a line, a cell, live; bars are cut to their column
    assert bare(written).count(SHOWN.replace("\\x07", "")) == 1 + 1 + 1
    assert visible(bare(written)) == bare(written)


def test_a_table_for_other_programs() -> None:
    table = new_table("run_1", "pass@1", title="50% & more")
    table.add_row("a|b", Text("31.2\n25.0 to 38.1"))
    table.add_row("c", "0.0 to 1.0\n+1.0 (0.5 to 1.5)")
    table.add_row("d", Text.assemble("0.0 to 1.0\n", ("+1.0 (0.5 to 1.5)", "bold")))
    assert markdown(table).splitlines() == [
        "## 50% & more",
        "",
        "| run_1 | pass@1 |",
        "| --- | --- |",
        "| a\\|b | 31.2 (25.0 to 38.1) |",
        "| c | 0.0 to 1.0 +1.0 (0.5 to 1.5) |",
        "| d | 0.0 to 1.0 **+1.0 (0.5 to 1.5)** |",
    ]
    lines = latex(table).splitlines()
    assert lines[:2] == [r"\begin{table}", r"\caption{50\% \& more}"]
    assert r"run\_1 & pass@1 \\" in lines
    assert r"a|b & 31.2 (25.0 to 38.1) \\" in lines
    assert r"d & 0.0 to 1.0 \textbf{+1.0 (0.5 to 1.5)} \\" in lines
    assert (markdown("Two\nlines."), latex("Two\nlines.")) == ("Two\nlines.\n", "% Two\n% lines.\n")


def test_one_console_in_one_place() -> None:
    """No other file makes a console, reads markup, or writes to a stream by itself, but for what is listed."""
    direct = r"\b(Console\(|print\(|from_markup|print_exc|print_exception|markup=True)"
    direct += r"|rich\.(logging|panel|prompt|spinner|status|traceback)"
    for file in PACKAGE.rglob("*.py"):
        name, source = str(file.relative_to(PACKAGE)), file.read_text(encoding="utf-8")
        if name != "terminal.py":
            assert not re.search(r"(?<!\.)" + direct, source), name
        if name not in ("terminal.py", "commands/cli.py", "commands/arguments.py"):
            assert not re.search(r"std(out|err)\.write", source), name


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--method", HOSTILE]) == 2
    said = capsys.readouterr()
    assert CODE not in said.err
    assert visible(bare(said.err + said.out)) == bare(said.err + said.out)


def problems(folder: Path) -> Path:
    """Problems with hostile identifiers, questions, answers and subjects, in a file whose name is hostile."""
    rows = [
        {"problem_id": f"{i}{HOSTILE}", "question": f"{i}? {HOSTILE}", "answer": f"{i}{HOSTILE}", "level": i % 2}
        | {"subject": f"s{HOSTILE}", "expert_chain": f"{HOSTILE} \\boxed{{{i}}}"}
        for i in range(6)
    ]
    file = folder / f"{HOSTILE.replace('/', '')}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.usefixtures("unchecked")
def test_a_walk_through_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal, with live bars; run folders are named as badly as the data, and a reply to grade as both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    data, run = f"jsonl:{problems(tmp_path)}", f"r{HOSTILE.replace('/', '')}"
    # the very same text: right without asking a worker, and the label says otherwise
    reply = {"gold": f"1{HOSTILE}", "reply": f"\\boxed{{1{HOSTILE}}}", "label": False}
    (tmp_path / "replies.jsonl").write_text(json.dumps(reply) + "\n")
    few = ["--max-completion-tokens", "4"]
    train = ["train", "--model", "tiny", "--task", data, "--steps", "1", "--group-size", "2"]
    train += ["--problems-per-step", "2", *few, "--eval-problems", "2", "--eval-samples", "1"]
    lines = [
        [*train, "--output", f"{run}1"],
        [*train, "--output", f"{run}1"],  # it is there
        [*train, "--output", f"{run}1", "--resume", "--lora-rank", "4"],  # it has other settings
        ["report", f"{run}1"],
        ["eval", f"{run}1", "--samples", "1", "--split", "train", *few],
        ["eval", "tiny", "--task", data, "--samples", "1", "--write-unsolved", f"u{run[1:]}", *few],
        ["diagnose", "--model", "tiny", "--task", data, "--group-size", "2", "--problems", "2", "--show", "2", *few],
        ["grade", "replies.jsonl"],
        ["plan", "--model", HOSTILE],
        ["tasks"],
    ]
    codes, written = [], ""
    for words in lines:
        codes.append(cli.run(words))
        said = capsys.readouterr()
        assert CODE not in said.out + said.err, words
        plain = bare(said.out + said.err)
        assert visible(plain) == plain, words
        written += plain
    assert codes == [0, 1, 2, 0, 0, 0, 0, 0, 2, 0]
    assert written.count(SHOWN.replace("/", "")) > 15
    assert "[/bold]" in written
