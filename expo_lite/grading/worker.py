"""The process that compares answers: `python -m expo_lite.grading.worker MEMORY_MIB`. It never imports torch."""

import sys

from expo_lite.grading import judge
from expo_lite.grading.comparing import values  # noqa: F401 - imported before the first question, off its clock
from expo_lite.grading.process import Reply, serve


def reply(question: Reply) -> Reply:
    """Compare a gold answer with another one."""
    try:
        equal, how = judge(question["gold"], question["answer"], rounding=question["rounding"])
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        equal, how = False, f"failed: {type(error).__name__}"
    return {"equal": equal, "how": how}


if __name__ == "__main__":
    serve(reply, memory_mib=int(sys.argv[1]))
