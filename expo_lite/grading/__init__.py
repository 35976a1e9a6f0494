r"""Whether a completion's final answer equals the reference answer.

The final answer is what the last complete boxes hold (side by side they are one answer; where they contradict each
other there is none), else what follows the last <answer> tag, "####" or "the answer is". It is compared step by step,
strict to loose, and the step that decided is the verdict's `how`: the same text and plain numbers at once; everything
else in a worker process that is killed at its time limit: numbers exactly, with their units; lists, sets, intervals,
matrices, equations, choices, words; expressions by value.
"""

from expo_lite.grading.comparing.compare import equal_answers
from expo_lite.grading.files import GradeReport, grade_file
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.grading.reading.extract import final_answer

__all__ = ["GradeItem", "GradeReport", "Grader", "equal_answers", "final_answer", "grade_file"]
