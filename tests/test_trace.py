"""A trace names what ran, and a place that cannot be written to is an error of the tree."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from expo_lite.errors import CheckpointError
from expo_lite.run.trace import traced


def test_a_trace_holds_the_operators_that_ran(tmp_path: Path) -> None:
    file = tmp_path / "trace.json.gz"
    with traced(file), torch.profiler.record_function("update"):
        torch.ones(4, 4) @ torch.ones(4, 4)
    names = {event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert {"aten::mm", "update"} <= names


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"), traced(tmp_path / "file" / "trace.json.gz"):
        torch.ones(2)
