r"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021).

The expert chain is the data's own solution without its calculator annotations (`<<48/2=24>>`), ending in the boxed
answer, so that it can be trained on as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo_lite.errors import DataError
from expo_lite.records import Problem
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.fields import Fields, answer_text_of, question_of, split_at_hashes
from expo_lite.tasks.files import DataRow, HubFiles
from expo_lite.tasks.sources import find_files, fixed_task, read_splits

if TYPE_CHECKING:
    from expo_lite.grading import Grader

_HUB = HubFiles("openai/gsm8k", config="main", patterns=("main/*.parquet",))
_INSTEAD = (
    "Fetch main/train-00000-of-00001.parquet and main/test-00000-of-00001.parquet from "
    "https://huggingface.co/datasets/openai/gsm8k (or train.jsonl and test.jsonl from "
    "https://github.com/openai/grade-school-math) into one folder, and name it with --data FOLDER."
)


def load(name: str, grader: Grader, options: TaskOptions) -> FixedTask:
    """Read the two splits from the hub or from `options.data`; raises DataError."""
    fields = Fields.of(options)

    def read(row: DataRow, problem_id: str) -> Problem:
        at_hashes = split_at_hashes(answer_text_of(row, fields))
        if at_hashes is None:
            raise DataError(f"{row.where}: the answer does not end with '#### NUMBER', as GSM8K's do.")
        return Problem(problem_id, question_of(row, fields), at_hashes[0], expert_chain=at_hashes[1])

    files = find_files(options, hub=_HUB, instead=_INSTEAD, lone_file="by name")
    return fixed_task(
        name,
        read_splits(files, prefix=name, read=read),
        license="MIT",
        source="openai/gsm8k, configuration main, its own splits; expert chains from the data",
        grader=grader,
    )
