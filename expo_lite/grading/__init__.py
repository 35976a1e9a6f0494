r"""Whether a completion's final answer equals the reference answer.

The final answer is what the last complete boxes hold (side by side they are one answer; where they contradict each
other there is none), else what follows the last <answer> tag, "####" or "the answer is". It is compared step by step,
strict to loose, and the step that decided is the verdict's `how`: the same text and plain numbers at once; everything
else in a worker process that is killed at its time limit: numbers exactly, with their units; lists, sets, intervals,
matrices, equations, choices, words; expressions by value; math-verify for the sums and integrals that our grammar does
not read.

What it makes of the cases in `tests/data/grading_cases.jsonl` (math-verify's own among them, written anew): how many
of the equal and of the different ones it calls equal, and how many math-verify does on its own. The rules were made
with these cases at hand, so that nothing is left to miss here. `examples/compare_math_verify.py` makes the comparison
on two sets that others wrote, and that nobody had read who wrote rules. At the first look it accepted 551 of 572 right
and 4 of 856 wrong replies of set A (math-verify 451 and 58), and after rules were mended for what A showed, 664 of 681
right and 11 of 934 wrong ones of set B (597 and 53).
`python -m expo_lite.grading.table tests/data/grading_cases.jsonl` makes the table:

| kind | equal cases | ours | math-verify | near misses | ours | math-verify |
| --- | --: | --: | --: | --: | --: | --: |
| number | 218 | 218 | 154 | 158 | 0 | 8 |
| money | 42 | 42 | 21 | 27 | 0 | 6 |
| percent | 34 | 34 | 30 | 24 | 0 | 2 |
| degrees | 38 | 38 | 26 | 17 | 0 | 7 |
| units | 197 | 197 | 114 | 182 | 0 | 66 |
| rounded | 7 | 7 | 6 | 78 | 0 | 11 |
| assignment | 17 | 17 | 17 | 20 | 0 | 1 |
| tuple | 66 | 66 | 54 | 51 | 0 | 3 |
| set | 99 | 99 | 92 | 75 | 0 | 5 |
| interval | 124 | 124 | 49 | 100 | 0 | 2 |
| inequality | 29 | 29 | 18 | 25 | 0 | 0 |
| matrix | 42 | 42 | 32 | 22 | 0 | 0 |
| equation | 56 | 56 | 47 | 42 | 0 | 4 |
| choice | 54 | 54 | 24 | 46 | 0 | 1 |
| base | 25 | 25 | 11 | 24 | 0 | 11 |
| words | 89 | 89 | 21 | 65 | 0 | 0 |
| text | 44 | 44 | 32 | 46 | 0 | 4 |
| ratio | 20 | 20 | 14 | 11 | 0 | 1 |
| time | 32 | 32 | 3 | 25 | 0 | 4 |
| radical | 71 | 71 | 61 | 48 | 0 | 7 |
| algebra | 150 | 150 | 132 | 117 | 0 | 10 |
| trig | 16 | 16 | 15 | 12 | 0 | 1 |
| log | 24 | 24 | 18 | 12 | 0 | 0 |
| complex | 26 | 26 | 8 | 19 | 0 | 0 |
| piecewise | 2 | 2 | 2 | 3 | 0 | 1 |
| calculus | 10 | 10 | 9 | 19 | 0 | 0 |
| multi | 33 | 33 | 25 | 46 | 0 | 3 |
| empty | 0 | 0 | 0 | 4 | 0 | 0 |
| form | 90 | 90 | 55 | 32 | 0 | 3 |
| **all** | 1655 | 1655 | 1090 | 1350 | 0 | 161 |
"""

from expo_lite.grading.comparing.compare import equal_answers
from expo_lite.grading.files import GradeReport, grade_file
from expo_lite.grading.grader import GradeItem, Grader
from expo_lite.grading.reading.extract import final_answer

__all__ = ["GradeItem", "GradeReport", "Grader", "equal_answers", "final_answer", "grade_file"]
