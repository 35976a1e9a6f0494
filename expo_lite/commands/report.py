"""`report`: one HTML file that shows what a run did, or several side by side."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from expo_lite.errors import CheckpointError, ConfigError

NAME = "report.html"


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Write what a run did into one HTML file: figures, curves, samples, settings."""

    runs: tuple[Path, ...]
    """Run folders; several are drawn over one another."""
    output: Path | None = None
    """HTML file to write; default: report.html in the run folder, of several runs in the folder that the first one lies in."""


def check_report(config: ReportConfig) -> None:
    """Every rule that a type alone does not hold; raises ConfigError."""
    if not config.runs:
        raise ConfigError("No run is named. Give at least one run folder: expo-lite report runs/NAME.")


def run_report(config: ReportConfig) -> Path:
    """Write the file and say where it is; returns its path.

    Raises:
        CheckpointError: a folder holds no run, a file of it is damaged, or the report cannot be written.
        ConfigError: no run is named.
    """
    check_report(config)
    from expo_lite.report.page import render
    from expo_lite.report.record import read_runs

    file = config.output or default_output(config.runs)
    page = render(read_runs(config.runs))
    data = page.html.encode("utf-8", "backslashreplace")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the report '{file}': {error.strerror}. Choose another --output."
        ) from error
    console = Console()
    left_out = f"; {page.n_all - page.n_kept:,} left out to stay below 5 MB" if page.n_kept < page.n_all else ""
    console.print(
        f"written to: {file} ({len(data) / 1e6:.1f} MB, {page.n_kept:,} samples{left_out})",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"open in a browser: {file.absolute().as_uri()}", markup=False, soft_wrap=True)
    return file


def default_output(runs: tuple[Path, ...]) -> Path:
    """In the run's folder; of several runs, beside the first one."""
    return runs[0] / NAME if len(runs) == 1 else runs[0].parent / NAME
