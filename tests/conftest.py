"""For all tests: no network, no surprises from the machine; gpu tests need a GPU."""

import gc
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: a test never waits for a network
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each: threads of one would wait for those of another
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or tokenizers warn when a process is started
os.environ.pop("COLUMNS", None)
gc.disable()  # while the modules of all tests are imported


def pytest_collection_finish() -> None:
    """What is imported stays: no search for garbage need go over it."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the check at their start, which is half of a short one: test_self_check.py has it."""
    monkeypatch.setattr("expo_lite.loop.check_sampler", lambda *_: None)


LONGEST = ("sweep", "resume", "loop", "grading", "memory", "check_gpu", "trl", "page_in_browser", "commands_together",
           "readme", "bad_inputs")  # fmt: skip
"""Files that take longest: begun first, or one process would be left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. Skip gpu tests where there is no GPU, so that `-m gpu` says so."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
    if Path("/dev/nvidia0").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
