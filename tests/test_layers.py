"""CONTRIBUTING.md against the code: its table of files, its glossary, its worked example of a task."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from expo_lite.tasks import load_task

ROOT = Path(__file__).parent.parent
FILE = ROOT / "CONTRIBUTING.md"
MARKS = re.compile(r"(<!-- layers -->\n).*?(<!-- /layers -->)", re.DOTALL)


def layers() -> list[list[str]]:
    """The names of the modules of each layer in pyproject.toml, highest layer first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.split(r" [|:] ", layer) for layer in found]


def table() -> str:
    """The table as it must be."""
    lines = ["| layer | file | one line |", "| --- | --- | --- |"]
    for number, names in zip(range(len(layers()), 0, -1), layers(), strict=True):
        for name in names:
            folder = ROOT / "expo_lite" / name
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
            about = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
            lines.append(f"| {number} | `{name}{'/' if folder.is_dir() else '.py'}` | {about} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_files_is_that_of_the_code() -> None:
    found = MARKS.search(FILE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"<!-- layers -->\n{table()}<!-- /layers -->", "run: uv run python tests/test_layers.py"


def test_every_module_has_a_layer() -> None:
    there = {path.stem for path in (ROOT / "expo_lite").glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / "expo_lite").glob("*/__init__.py")}
    assert sorted(name for names in layers() for name in names) == sorted(there)


def test_the_glossary_knows_the_coefficients() -> None:
    text = FILE.read_text(encoding="utf-8")
    for word in ("kl_coef", "exp_sft_coef", "clip_low", "clip_high", "group_size", "old_logprobs", "ref_logprobs"):
        assert word in text.split("## Axis key")[0]


def test_a_task_can_be_added(tmp_path: Path) -> None:
    """The worked example runs as it is printed, and keeps what `Task` promises."""
    section = FILE.read_text(encoding="utf-8").split("## Add a task", 1)[1].split("\n## ", 1)[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    (tmp_path / "reversal.py").write_text(found[1])
    task = load_task(f"python:{tmp_path / 'reversal.py'}")
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (150, 150)
    assert not {problem.question for problem in train} & {problem.question for problem in test}
    assert {problem.level for problem in task.problems("train", levels=(2,), limit=7)} == {2}
    assert len(task.problems("train", limit=7)) == 21
    assert task.problems("train") == train
    problem = train[0]
    assert task.grade(problem, f"So it is \\boxed{{{problem.answer}}}.").correct
    for reply, reason in (("\\boxed{no}", "different"), ("no box", "no_answer")):
        verdict = task.grade(problem, reply)
        assert (verdict.correct, verdict.reason) == (False, reason)
    assert task.grade(problem, f"\\boxed{{{problem.answer}}}", truncated=True).reason == "truncated"
    from expo_lite.errors import ConfigError

    with pytest.raises(ConfigError):
        task.problems("train", levels=(9,))


def test_the_last_line_of_ci_is_pytests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "uv run --no-sync pytest -q"
    assert "set -euo pipefail" in lines


def test_commits_are_checked_as_ci_checks() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in ("ruff format", "ruff check", "mypy --strict", "lint-imports"):
        assert f"uv run --no-sync {tool}" in ci
        assert f"uv run --no-sync {tool}" in hooks


def test_the_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


if __name__ == "__main__":
    FILE.write_text(
        MARKS.sub(lambda found: found[1] + table() + found[2], FILE.read_text(encoding="utf-8")), encoding="utf-8"
    )
