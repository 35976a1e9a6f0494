"""`expo-lite` and `python -m expo_lite`."""

import sys

from expo_lite.commands.cli import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
