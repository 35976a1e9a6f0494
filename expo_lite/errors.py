"""The error tree: every expected failure is an ExpoLiteError, printed as one line, with an exit code."""


class ExpoLiteError(Exception):
    """An expected failure; its text names the fault, the given value and the remedy."""

    exit_code = 1


class ConfigError(ExpoLiteError):
    """A setting is unknown, out of range or contradicts another one."""

    exit_code = 2


class DataError(ExpoLiteError):
    """A data file is missing, malformed or empty; the text names the file and the line."""


class ModelError(ExpoLiteError):
    """A model cannot be found, read or held in memory."""


class CheckpointError(ExpoLiteError):
    """A checkpoint or run folder cannot be written, read or continued."""


class DivergedError(ExpoLiteError):
    """A loss or gradient is no longer finite; the text names the step and the last good checkpoint."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with a full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
