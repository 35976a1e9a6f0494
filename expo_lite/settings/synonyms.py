"""The names that TRL, Unsloth, Axolotl and others have for our settings: the table is in synonyms.toml."""

import tomllib
from functools import cache
from pathlib import Path


@cache
def synonyms() -> dict[str, str]:
    """Return the words of others for each of our flags, which may have a value with it."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def our_flags(word: str) -> list[str]:
    """Return our flags for a name of others, written as a flag or as a setting; those that a command has count."""
    name = word.lower().lstrip("-").replace("_", "-")
    return [ours for ours, others in synonyms().items() if name in others.split()]
