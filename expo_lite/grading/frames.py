"""How grader and worker talk: JSON objects over pipes, each behind its length in four bytes."""

import json
import os
import select
import struct
import time
from typing import Any

_LENGTH = struct.Struct(">I")


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes with its length in front."""
    body = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def read_message(fd: int, *, deadline: float | None = None) -> dict[str, Any]:
    """The next message from a pipe.

    Raises EOFError when the other side is gone, and TimeoutError once `time.monotonic()` passes the deadline.
    """
    (length,) = _LENGTH.unpack(_read_exactly(fd, _LENGTH.size, deadline))
    message: dict[str, Any] = json.loads(_read_exactly(fd, length, deadline))
    return message


def _read_exactly(fd: int, n_bytes: int, deadline: float | None) -> bytes:
    # poll rather than select, which cannot take descriptors above 1023.
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    data = b""
    while len(data) < n_bytes:
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poller.poll(left_s * 1000):
                raise TimeoutError
        chunk = os.read(fd, n_bytes - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
