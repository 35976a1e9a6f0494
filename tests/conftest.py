"""For all tests: no network, an empty working directory, no surprises from the machine; gpu tests need a GPU."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: a test never waits for a network
if "PYTEST_XDIST_WORKER" in os.environ:
    # a core each: threads of one would wait for those of another
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or tokenizers warn when a process is started
os.environ.pop("COLUMNS", None)
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # messages name the program as it was started: here as `expo-lite`
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
gc.disable()  # while the modules of all tests are imported

from expo_lite.settings.machine import has_gpu


def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run all tests in an empty folder: no test sees what a user has trained in the clone, nor writes beside it."""
    folder = tmp_path_factory.mktemp("working-directory")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(autouse=True)
def nothing_written(working_directory: Path) -> Iterator[None]:
    """Fail a test that writes into the working directory; it has `tmp_path` for that."""
    yield
    if left := sorted(path.name for path in working_directory.iterdir()):
        for path in working_directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        pytest.fail(f"This test wrote into the working directory: {', '.join(left)}. Take tmp_path.")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the self-check of runs, which is half of a short one; test_self_check.py tests it."""
    monkeypatch.setattr("expo_lite.step.run.check_sampler", lambda *_: None)


LONGEST = ("sweep", "resume", "loop", "grading", "memory", "check_gpu", "trl", "page_in_browser", "commands_together",
           "readme", "bad_inputs")  # fmt: skip
"""Files that take longest; they start first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and skip gpu tests if there is no GPU."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
    if has_gpu():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
