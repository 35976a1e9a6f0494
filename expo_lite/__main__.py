"""`expo-lite` and `python -m expo_lite`."""

import sys

from expo_lite.commands.cli import run
from expo_lite.settings.machine import own_process


def main() -> None:
    """Run the command line and exit with its code."""
    own_process()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
