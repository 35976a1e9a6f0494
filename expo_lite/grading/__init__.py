"""Whether a completion's final answer equals the reference answer."""

from expo_lite.grading.compare import equal_answers
from expo_lite.grading.extract import final_answer
from expo_lite.grading.files import GradeReport, grade_file
from expo_lite.grading.grader import GradeItem, Grader

__all__ = ["GradeItem", "GradeReport", "Grader", "equal_answers", "final_answer", "grade_file"]
