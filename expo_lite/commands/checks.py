"""What `doctor` looks at on a machine, from the quick to the slow; each check says what it saw and what to do."""

import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from expo_lite.errors import ConfigError
from expo_lite.grading import GradeItem, Grader
from expo_lite.memory.exhausted import free_ram_gib
from expo_lite.memory.parts import GIB
from expo_lite.memory.plan import ram_bytes
from expo_lite.settings.machine import ON_WINDOWS, in_wsl, is_installed, on_windows

PACKAGE = "expo-lite"
TESTED = ("torch", "transformers", "peft", "bitsandbytes", "trl", "unsloth")
"""What a run stands or falls with; the tested versions are those that the package's metadata asks for."""
RUNS = Path("runs")
LEAST_FREE_GIB, SOME_FREE_GIB = 0.5, 5.0
HUB_TIMEOUT_S = 3.0
GRADER_TIMEOUT_S = 2.0
ITEMS = (
    (GradeItem("1/2", r"So it is \boxed{0.5}."), True),
    (GradeItem("3", r"\boxed{4}"), False),
    (GradeItem(r"\sqrt8", r"\boxed{2\sqrt2}"), True),
    (GradeItem("x^2+2x+1", r"\boxed{(x+1)^2}"), True),
    (GradeItem("(1,2)", r"\boxed{(2,1)}"), False),
    (GradeItem("7", "I do not know."), False),
)
"""Replies with what the grader must say of them."""
AFTER_DEATH = GradeItem(r"\sqrt{12}", r"\boxed{2\sqrt3}")
SLOW = GradeItem("x", r"\boxed{x+10^{1900}-10^{1900}" + "".join(f"+({9000 + n}+x)!" for n in range(20)) + "}")
"""Twenty gamma functions to thousands of digits: more than there is time for."""


class Check(NamedTuple):
    """One line: how it stands, what was seen, and what to do."""

    state: Literal["ok", "warning", "problem"]
    what: str
    remedy: str = ""


def machine_checks(*, training: bool) -> Iterator[Check]:
    """Everything about this machine; with `training`, a short run of the built-in model too."""
    yield python()
    yield memory()
    yield busy()
    yield from versions()
    yield disk(RUNS)
    yield hub()
    if on_windows():
        return
    yield grader()
    if not is_installed("torch"):
        return
    from expo_lite.commands import self_test

    card = self_test.gpu()
    yield card
    yield self_test.four_bits()
    if training and card.state != "problem":  # training would only say the same
        yield self_test.training()


def python() -> Check:
    """Python and the system; Windows itself cannot train."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    if on_windows():
        return Check("problem", f"{system}.", ON_WINDOWS)
    return Check("ok", f"{system}{', inside WSL2' if in_wsl() else ''}.")


def memory() -> Check:
    """Cores that this process may use, main memory, and what is free of it."""
    try:
        total = f"{ram_bytes() / GIB:.1f} GiB of main memory"
    except ConfigError:
        total = "main memory of unknown size"
    free = free_ram_gib()
    what = f"{n_cores()} cores, {total}" + ("" if free is None else f", {free:.1f} GiB of it free")
    if free is not None and free < 2:
        return Check("warning", f"{what}.", "Close other programs: loading torch and a model takes 2 GiB at least.")
    return Check("ok", f"{what}.")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> Check:
    """Whether other programs have the cores: torch's threads then wait for one another, at every product."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return Check("ok", "How busy this machine is cannot be told.")
    what = f"The cores were busy with {load:.1f} processes in the last minute."
    if load <= n_cores() / 2:
        return Check("ok", what)
    remedy = "Close other programs. Where that cannot be, OMP_NUM_THREADS=1 makes a small model several times faster."
    return Check("warning", what, remedy)


def versions() -> Iterator[Check]:
    """What is installed against what is tested, as the package's own metadata has it."""
    try:
        asked_for = [Requirement(text) for text in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        yield Check("warning", f"{PACKAGE} is not installed, so its tested versions are not known.", "pip install it.")
        return
    fitting = [f"{PACKAGE} {version(PACKAGE)}"]
    for name in TESTED:
        ranges = {str(each.specifier): each for each in asked_for if each.name == name}
        optional = all(each.marker is not None and "extra" in str(each.marker) for each in ranges.values())
        check = one_version(name, " or ".join(ranges), list(ranges.values()), optional=optional)
        if check.state == "ok":
            fitting.append(check.what)
        else:
            yield check
    yield Check("ok", f"as tested: {', '.join(fitting)}.")


def one_version(name: str, tested: str, ranges: list[Requirement], *, optional: bool) -> Check:
    """One package against its tested range."""
    try:
        found = version(name)
    except PackageNotFoundError:
        if optional:
            return Check("ok", f"no {name}")
        return Check("problem", f"{name} is not installed; {tested} is needed.", f"pip install '{name}{tested}'")
    if any(each.specifier.contains(found, prereleases=True) for each in ranges):
        return Check("ok", f"{name} {found}")
    remedy = f"If something fails, pip install '{name}{next(iter(ranges)).specifier}' first."
    return Check("warning", f"{name} {found} is installed; tested is {tested}.", remedy)


def disk(folder: Path) -> Check:
    """Whether runs can be written, and how much room they have."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free / GIB
    except OSError as error:
        remedy = "Change to a folder that you may write to, or give --output."
        return Check("problem", f"Runs cannot be written to '{there}': {error.strerror}.", remedy)
    what = f"{free:.1f} GiB are free where runs go ('{there}')."
    remedy = "Free some space, or give another --output: each run keeps two checkpoints and every sample."
    if free < SOME_FREE_GIB:
        return Check("problem" if free < LEAST_FREE_GIB else "warning", what, remedy)
    return Check("ok", what)


def hub() -> Check:
    """Whether the model hub answers; that it does not is no error, for what is in the cache can be used."""
    import httpx
    from huggingface_hub import constants, get_token

    offline = "tiny and the built-in tasks need no hub; other models must be in its cache, or a folder."
    if constants.HF_HUB_OFFLINE:
        return Check("ok", f"The model hub is switched off (HF_HUB_OFFLINE): {offline}")
    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except httpx.HTTPError as error:
        what = f"The model hub ({constants.ENDPOINT}) cannot be reached ({type(error).__name__}): {offline}"
        return Check("warning", what, "Look at the network and at HTTPS_PROXY, if you need the hub.")
    token = "with" if get_token() else "without"
    return Check("ok", f"The model hub ({constants.ENDPOINT}) answers; {token} a token, which gated models need.")


def grader() -> Check:
    """Verdicts that are known, a worker that is killed and replaced, and one that is stopped at its limit."""
    remedy = "Please report it, with the output of `expo-lite doctor`."
    with Grader(n_workers=1, timeout_s=GRADER_TIMEOUT_S) as own:
        verdicts = own.grade_many([item for item, _ in ITEMS])
        for (item, right), verdict in zip(ITEMS, verdicts, strict=True):
            if verdict.correct != right:
                what = f"The grader says '{verdict.reason}' of {item.completion!r} where {item.gold!r} is right."
                return Check("problem", what, remedy)
        for pid in own.worker_pids:
            os.kill(pid, signal.SIGKILL)
        if not own.grade_many([AFTER_DEATH])[0].correct:
            return Check("problem", "The grader's worker is not replaced after it was killed.", remedy)
        stopped = own.grade(SLOW.gold, SLOW.completion)
    if stopped.reason != "timeout":
        what = f"The grader does not stop at its limit of {GRADER_TIMEOUT_S:.0f} s of CPU time ({stopped.reason})."
        return Check("problem", what, remedy)
    return Check("ok", f"The grader judges {len(ITEMS)} replies rightly, survives a kill, and stops at its limit.")
