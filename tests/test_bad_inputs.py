"""Bad inputs through the real command line: one clear line, no traceback, nothing for the terminal to obey, in time."""

import time
from pathlib import Path

import pytest
from bad_inputs import CASES, Case, table

from expo_lite.commands import cli
from expo_lite.terminal import visible

GUIDE = Path(__file__).parent.parent / "examples" / "guides" / "robustness.md"
LIMIT_S = 60.0
"""No case may take longer, once torch is there; on a free machine all take 3 s at most."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {visible(case.name)}")
def test_a_bad_input(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = case.prepare()
    started = time.monotonic()
    code = cli.run(words)
    took_s = time.monotonic() - started
    said = capsys.readouterr()
    assert code == case.code, said.err
    assert visible(said.out + said.err) == said.out + said.err
    assert case.said in said.out + said.err
    if code:
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert len(said.err) < 5_000
    assert took_s < LIMIT_S


def test_the_guides_table_is_that_of_the_cases() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    found = text.split("<!-- tried -->\n")[1].split("<!-- /tried -->")[0]
    assert found == table(), "run: uv run python tests/bad_inputs.py"
