r"""Whether a completion's final answer equals the reference answer.

The final answer is the last complete `\boxed{}`, else what follows the last "####", else the last "the answer is". It is
compared step by step, strict to loose, and the step that decided is the verdict's `how`: the same text; numbers, exactly,
with their units; lists, sets, intervals, matrices, equations, choices, words; expressions by value, in a worker process
that is killed at its time limit; math-verify for the sums and integrals that our grammar does not read.

What it makes of the cases in `tests/data/grading_cases.jsonl` (math-verify's own among them, written anew): how many of the
equal and of the different ones it calls equal, and how many math-verify does on its own. The rules were made with these
cases at hand, so that nothing is left to miss here; on cases written before anyone looked at the rules, see the README.
`python -m expo_lite.grading.table tests/data/grading_cases.jsonl` makes the table:

| kind | equal cases | ours | math-verify | near misses | ours | math-verify |
| --- | --: | --: | --: | --: | --: | --: |
| number | 171 | 171 | 128 | 144 | 0 | 7 |
| money | 27 | 27 | 13 | 20 | 0 | 5 |
| percent | 25 | 25 | 21 | 20 | 0 | 2 |
| degrees | 15 | 15 | 11 | 13 | 0 | 4 |
| units | 95 | 95 | 61 | 84 | 0 | 51 |
| rounded | 18 | 18 | 10 | 42 | 0 | 2 |
| assignment | 17 | 17 | 17 | 20 | 0 | 1 |
| tuple | 39 | 39 | 36 | 39 | 0 | 1 |
| set | 77 | 77 | 71 | 60 | 0 | 1 |
| interval | 85 | 85 | 44 | 84 | 0 | 2 |
| inequality | 13 | 13 | 11 | 15 | 0 | 0 |
| matrix | 27 | 27 | 23 | 19 | 0 | 0 |
| equation | 31 | 31 | 30 | 30 | 0 | 1 |
| choice | 24 | 24 | 13 | 23 | 0 | 1 |
| base | 19 | 19 | 9 | 22 | 0 | 10 |
| words | 45 | 45 | 12 | 36 | 0 | 0 |
| text | 45 | 45 | 33 | 45 | 0 | 3 |
| ratio | 12 | 12 | 9 | 10 | 0 | 1 |
| time | 13 | 13 | 2 | 15 | 0 | 1 |
| radical | 48 | 48 | 43 | 44 | 0 | 3 |
| algebra | 95 | 95 | 89 | 94 | 0 | 2 |
| trig | 11 | 11 | 10 | 12 | 0 | 1 |
| log | 10 | 10 | 8 | 12 | 0 | 0 |
| complex | 17 | 17 | 6 | 17 | 0 | 0 |
| piecewise | 2 | 2 | 2 | 3 | 0 | 1 |
| calculus | 4 | 4 | 4 | 5 | 0 | 0 |
| multi | 6 | 6 | 5 | 5 | 0 | 0 |
| empty | 0 | 0 | 0 | 4 | 0 | 0 |
| form | 37 | 37 | 26 | 28 | 0 | 2 |
| **all** | 1028 | 1028 | 747 | 965 | 0 | 102 |
"""

from expo_lite.grading.compare import equal_answers
from expo_lite.grading.extract import final_answer
from expo_lite.grading.files import GradeReport, grade_file
from expo_lite.grading.grader import GradeItem, Grader

__all__ = ["GradeItem", "GradeReport", "Grader", "equal_answers", "final_answer", "grade_file"]
