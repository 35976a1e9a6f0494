"""The process that compares answers: `python -m expo_lite.grading.worker MEMORY_MIB`. It never imports torch."""

import sys

from expo_lite.grading.comparing import identity
from expo_lite.grading.comparing.compare import judge
from expo_lite.grading.comparing.leaves import Outcome
from expo_lite.grading.process import Reply, serve


def reply(question: Reply) -> Reply:
    """Compare a gold answer with another one."""
    try:
        outcome, how = judge(question["gold"], question["answer"], identity, rounding=question["rounding"])
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        return {"equal": False, "how": f"failed: {type(error).__name__}"}
    return {"equal": outcome is Outcome.EQUAL, "how": how}


if __name__ == "__main__":
    serve(reply, memory_mib=int(sys.argv[1]))
