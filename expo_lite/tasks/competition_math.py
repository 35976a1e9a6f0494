"""MATH: competition problems in five levels and seven subjects (Hendrycks et al. 2021), and the MATH-500 of its test.

The answer is the data's own where it names one, else the last box of the solution; the solution is the expert chain.
MATH-500 (the 500 test problems of Lightman et al. 2023) is a test set and has no train split: all 500 are measured.
To train on a part of it all the same, read its file as `jsonl:FILE`, which holds out a fixed 10%.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.files import HubFiles
from expo_lite.tasks.jsonl import row_reader
from expo_lite.tasks.sources import find_files, fixed_task, read_splits

if TYPE_CHECKING:
    from expo_lite.grading import Grader

_HUBS = {
    "math": HubFiles("EleutherAI/hendrycks_math", all_configs=True, patterns=("*/*.parquet",)),
    "math-500": HubFiles("HuggingFaceH4/MATH-500", patterns=("test.jsonl",)),
}
_INSTEAD = {
    "math": (
        "Fetch the seven folders, algebra to precalculus, each with train-00000-of-00001.parquet and "
        "test-00000-of-00001.parquet, from https://huggingface.co/datasets/EleutherAI/hendrycks_math, and name the "
        "folder that holds them with --data FOLDER (train.jsonl and test.jsonl with problem, solution and level do "
        "too)."
    ),
    "math-500": (
        "Fetch test.jsonl from https://huggingface.co/datasets/HuggingFaceH4/MATH-500, and name it with --data FILE."
    ),
}


def load(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """Read `math` or `math-500` from the hub or from `options.data`; raises DataError, and ConfigError for subjects."""
    files = find_files(
        options, hub=_HUBS[name], instead=_INSTEAD[name], lone_file="test" if name == "math-500" else "by name"
    )
    return fixed_task(
        name,
        read_splits(files, prefix=name, read=row_reader(options)),
        license="MIT",
        source=f"{_HUBS[name].repository}, its own splits; expert chains are the data's solutions",
        grader=grader,
        subjects=options.subjects,
    )
