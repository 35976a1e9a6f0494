"""What can go wrong anywhere and is no mistake of ours: memory that runs out, and a file system that refuses."""

import errno

from expo_lite.errors import ConfigError, ExpoLiteError, ModelError
from expo_lite.memory.exhausted import free_ram_gib, out_of_memory


def as_expected(error: Exception) -> ExpoLiteError | None:
    """The error in one line, where it is of these kinds and no command has a better word for it; else None."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if out_of_memory(error):
        free = free_ram_gib()
        left = "" if free is None else f"; {free:.1f} GiB of main memory are free"
        return ModelError(
            f"Out of memory ({said}){left}. Close other programs, raise the limit (ulimit -v, ulimit -u), or take a "
            "smaller model; `expo-lite plan` says what a run needs."
        )
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename is not None else ""
        kind = ConfigError if error.errno == errno.ENAMETOOLONG else ExpoLiteError
        return kind(f"The system refuses{where}: {error.strerror or said}.")
    return None
