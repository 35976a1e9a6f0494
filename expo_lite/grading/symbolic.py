"""What only a worker runs: math-verify, on sympy."""

from math_verify import parse, verify


def warm_up() -> None:
    """Load everything once."""
    math_verify_alone("1/2", "0.5")


def math_verify_alone(gold: str, completion: str) -> bool:
    """What math-verify says by itself, with its time limits off, since the worker can be killed."""
    return bool(
        verify(
            parse(f"${gold}$", parsing_timeout=None), parse(completion, parsing_timeout=None), timeout_seconds=None
        )
    )


def equal_deeply(gold: str, answer: str) -> str | None:
    """The name of the step that finds the answers equal, or None."""
    return "math_verify" if math_verify_alone(gold, f"\\boxed{{{answer}}}") else None
