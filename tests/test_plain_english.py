"""A docstring names the thing or begins with an imperative: not with What, Whether or How."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUESTION = re.compile(r"(What|Whether|How)\b")
FRAGMENT = re.compile(r"(And|As|At|By|For|From|In|It|None|Of|On|So|Those|To|Where|With)\b")
"""First words after which neither an imperative nor a name can come; tests may begin with one."""


def folder_of(path: Path) -> str:
    """The folder of a file at the top."""
    return path.relative_to(ROOT).parts[0]


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands alone: of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def test_docstrings_name_the_thing() -> None:
    files = sorted(path for folder in ("expo_lite", "examples", "tests") for path in (ROOT / folder).rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in files
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if QUESTION.match(text.strip()) or (folder_of(path) != "tests" and FRAGMENT.match(text.strip()))
    ]
    assert found == []
