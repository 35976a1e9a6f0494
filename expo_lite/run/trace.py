"""A trace of where a step's time goes, for ui.perfetto.dev or chrome://tracing."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from expo_lite.errors import CheckpointError


@contextlib.contextmanager
def traced(path: Path) -> Iterator[None]:
    """Record what runs while this is open, and write it to `path` (.json or .json.gz); slows it down by a third or so.

    Raises:
        CheckpointError: the file cannot be written.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        yield
    try:
        profiler.export_chrome_trace(str(path))
    except OSError as error:
        raise CheckpointError(f"Cannot write '{path}': {error.strerror}.") from error
