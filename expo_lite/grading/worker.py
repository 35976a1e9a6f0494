"""The process that compares answers: `python -m expo_lite.grading.worker MEMORY_MIB LIMIT_S`.

It reads one question after the other from its standard input and leaves at the end of it. It never imports torch, and
sympy only for the first question that needs it. It has no time limit that it could enforce on itself in Python, since
one big power or one pattern holds the interpreter lock for ever: the grader kills it, and if the grader is gone the
kernel does, by an alarm that nothing catches.
"""

import logging
import os
import resource
import signal
import sys
from typing import Any

from expo_lite.grading.comparing.compare import judge
from expo_lite.grading.comparing.leaves import Outcome
from expo_lite.grading.frames import encode, read_message


class _Judge:
    """Answers questions; loads sympy when it is first needed, and says so."""

    def __init__(self, outbox: int, limit_s: float) -> None:
        self._outbox = outbox
        self._limit_s = limit_s
        self._loaded = False

    def reply(self, question: dict[str, Any]) -> dict[str, Any]:
        """The reply to one question."""
        self.set_alarm()
        try:
            return self._judge(question)
        except MemoryError:
            return {"error": "out_of_memory"}
        except Exception as error:  # noqa: BLE001 - whatever sympy and its parsers raise on nonsense: not equal
            return {"equal": False, "how": f"failed: {type(error).__name__}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def set_alarm(self) -> None:
        """Let the kernel end this process a second after the grader should have."""
        signal.setitimer(signal.ITIMER_REAL, self._limit_s + 1.0)

    def _judge(self, question: dict[str, Any]) -> dict[str, Any]:
        gold, answer = question["gold"], question["answer"]
        if question["op"] == "math_verify":
            self._load()
            from expo_lite.grading.comparing import symbolic

            return {"equal": symbolic.math_verify_alone(gold, answer), "how": "math_verify"}
        rounding = question.get("rounding", "never")
        outcome, how = judge(gold, answer, None, rounding=rounding)
        if outcome is not Outcome.OPEN:
            return {"equal": outcome is Outcome.EQUAL, "how": how}
        self._load()
        from expo_lite.grading.comparing import symbolic

        equal, how = symbolic.equal_deeply(gold, answer, rounding=rounding)
        return {"equal": equal, "how": how}

    def _load(self) -> None:
        """Load sympy and math-verify, outside the time limit."""
        if self._loaded:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(self._outbox, encode({"loading": True}))
        from expo_lite.grading.comparing import symbolic

        symbolic.warm_up()
        self._loaded = True
        os.write(self._outbox, encode({"ready": True}))
        self.set_alarm()


def main() -> None:
    """Limit the memory, say ready, answer until the input ends."""
    memory_mib, limit_s = int(sys.argv[1]), float(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries print must not end up between the messages.
    outbox = os.dup(1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    judge_of = _Judge(outbox, limit_s)
    os.write(outbox, encode({"ready": True}))
    while True:
        try:
            question = read_message(0)
        except EOFError:
            return
        os.write(outbox, encode(judge_of.reply(question)))


if __name__ == "__main__":
    main()
