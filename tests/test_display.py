"""The display while a run goes on: plain lines where there is no terminal, bars on one."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from expo_lite.results.figures import Evaluation, LevelResult
from expo_lite.results.statistics import Estimate
from expo_lite.results.tables import before_and_after
from expo_lite.run import progress as display
from expo_lite.run.dashboard import binned, sparkline
from expo_lite.run.progress import Display

METRICS = {
    "step_time": 2.0,
    "reward": 0.3125,
    "frac_all_wrong": 0.5,
    "frac_mixed": 0.25,
    "frac_all_correct": 0.25,
    "expo/explanation_accept_rate": 0.75,
    "sampling/tokens_per_s": 12345.6,
    "update/tokens_per_s": 678.9,
    "peak_memory_gib": 1.26,
}
LINE = (
    "reward 31% | all-wrong groups 50% | mixed groups 25% | all-right groups 25% | explanations accepted 75%"
    " | sampling 12,346 tokens/s | update 679 tokens/s | peak memory 1.3 GiB"
)


def console(*, terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width, color_system="standard" if terminal else None), file


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock to set."""
    now = [1000.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_plain_lines_without_a_terminal(clock: list[float]) -> None:
    """The first step's, the last one's, and at most one in LINE_SECONDS between them; nothing that moves a cursor."""
    shown, file = console(terminal=False, width=40)
    with Display(shown, 9) as view:
        for step in range(1, 10):
            clock[0] += 2.0
            view.step({"step": step, **METRICS})
    lines = file.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [f"step {n}/9" for n in (1, 4, 7, 9)]
    assert [line.split(" | ")[1] for line in lines] == ["0:16 left", "0:10 left", "0:04 left", "0:00 left"]
    assert all(line.endswith(LINE) for line in lines)  # not cut or folded to the width
    assert "\x1b" not in file.getvalue()


def test_bars_on_a_terminal() -> None:
    shown, file = console(terminal=True)
    with Display(shown, 4, title="run", rows=[{"step": 1, **METRICS}]) as view:
        view.step({"step": 2, **METRICS})
        shown.print("a line from elsewhere")
        view.step({"step": 3, **METRICS})
    text = file.getvalue()
    assert "\x1b[2K" in text  # lines are drawn anew in their place
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "2/4" in plain
    assert "3/4" in plain
    assert "left" in plain
    assert "a line from elsewhere" in plain
    assert "reward                 ▃▃▃  31% -> 31%" in plain  # three steps of 0.3125, which is in the third eighth
    assert "all-wrong groups       ▅▅▅  50% -> 50%" in plain
    assert "peak memory 1.3 GiB" in plain


def test_the_terminal_is_left_as_it_was_after_an_error() -> None:
    shown, file = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Display(shown, 4) as view:
        view.step({"step": 1, **METRICS})
        raise KeyboardInterrupt
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1


def test_sparks_by_hand() -> None:
    assert sparkline([0.0, 0.124, 0.126, 0.5, 0.99, 1.0]) == "▁▁▂▅██"
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("values", "n", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 2, [1.5, 3.5]),
        ([1.0, 2.0, 3.0], 2, [1.5, 3.0]),
        ([1.0, 2.0], 5, [1.0, 2.0]),
        ([], 30, []),
    ],
)
def test_binned_by_hand(values: list[float], n: int, expected: list[float]) -> None:
    assert binned(values, n) == expected


def result(level: str, value: float) -> LevelResult:
    estimate = Estimate(value, value - 0.05, value + 0.05)
    by_k = {1: estimate, 4: estimate}
    fields = {"level": level, "n_problems": 40, "greedy": estimate, "avg": estimate, "pass_at": by_k, "maj_at": by_k}
    fields |= {name: 0.0 for name in LevelResult.__dataclass_fields__ if name not in fields}
    return LevelResult(**fields)  # type: ignore[arg-type]


def test_the_table_has_before_and_after() -> None:
    before, after = (Evaluation((result("5", value), result("all", value)), 0.7, ()) for value in (0.1, 0.3))
    shown, file = console(terminal=False, width=160)
    shown.print(before_and_after(before, after))
    text = file.getvalue()
    assert "temperature 0.7, percent with 95% intervals" in text
    rows = [line for line in text.splitlines() if "before" in line or "after" in line]
    assert [row.count("10.0") for row in rows] == [3, 0, 3, 0]
    assert [row.count("30.0") for row in rows] == [0, 3, 0, 3]
    assert (text.count("5.0 to 15.0"), text.count("25.0 to 35.0")) == (6, 6)
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "pass@1" in text
    assert "pass@4" in text


@pytest.mark.parametrize(
    ("ks", "starts"),
    [((1, 4), 1), ((1, 4, 16), 1), ((1, 4, 16, 64), 2)],  # as it is, then closer together, then in two tables
)
def test_no_interval_is_broken_at_80_columns(ks: tuple[int, ...], starts: int) -> None:
    row = result("all", 0.95)
    after = Evaluation((replace(row, pass_at=dict.fromkeys(ks, row.greedy)),), 0.7, ())
    shown, file = console(terminal=False, width=80)
    shown.print(before_and_after(after, after))
    text = file.getvalue()
    assert text.count("90.0 to 100.0") == 2 * (1 + len(ks))
    assert text.count("before") == text.count("level") == starts
    assert text.count("held-out problems") == 1
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    heads = [head for line in text.splitlines() if "level" in line for head in line.split()[2:]]
    assert heads == ["greedy", *(f"pass@{k}" for k in ks)]


def test_an_estimate_in_words() -> None:
    assert Estimate(0.3125, 0.25, 0.381).text() == "31.2 (25.0 to 38.1)"
    assert Estimate(-0.5, -1, 0.25).text(scale=1, digits=2, signed=True) == "-0.50 (-1.00 to +0.25)"
    assert Estimate(0.5, 0.5, 0.5).text() == "50.0"
