"""For all tests: no network, no surprises from the machine; gpu tests need a GPU."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: a test never waits for a network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or tokenizers warn when a process is started
os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip gpu tests where there is none, so that `-m gpu` says so."""
    if Path("/dev/nvidia0").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))
