"""The process that does the symbolic part: `python -m expo_lite.grading.worker MEMORY_MIB LIMIT_S`.

It reads one question after the other from its standard input and leaves at the end of it. It never imports torch. It has
no time limit that it could enforce on itself in Python, since one big power holds the interpreter lock for ever: the
grader kills it, and if the grader is gone the kernel does, by an alarm that nothing catches.
"""

import logging
import os
import resource
import signal
import sys
from typing import Any

from expo_lite.grading.frames import encode, read_message


def _judge(question: dict[str, Any]) -> dict[str, Any]:
    from expo_lite.grading import symbolic

    gold, answer = question["gold"], question["answer"]
    if question["op"] == "math_verify":
        return {"equal": symbolic.math_verify_alone(gold, answer), "how": "math_verify"}
    how = symbolic.equal_deeply(gold, answer)
    return {"equal": how is not None, "how": how or "symbolic"}


def _serve(inbox: int, outbox: int, limit_s: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            question = read_message(inbox)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, limit_s + 1.0)
        try:
            reply = _judge(question)
        except MemoryError:
            reply = {"error": "out_of_memory"}
        except Exception:  # noqa: BLE001 - whatever sympy and its parsers raise on nonsense, the answer is not equal
            reply = {"equal": False, "how": "symbolic"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(outbox, encode(reply))


def main() -> None:
    """Limit the memory, load sympy, say ready, answer until the input ends."""
    memory_mib, limit_s = int(sys.argv[1]), float(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries print must not end up between the messages.
    outbox = os.dup(1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    from expo_lite.grading import symbolic

    symbolic.warm_up()
    os.write(outbox, encode({"ready": True}))
    _serve(0, outbox, limit_s)


if __name__ == "__main__":
    main()
