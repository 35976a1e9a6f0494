r"""A chain of thought without its answer, and whether a text shows one.

`before_answer` takes every statement of the answer out of a chain and leaves its steps, so that what the steps are
worth can be measured. The rule, with "the answer" for what the chain ends with as the grader reads it:

1. The last statement goes, with all that follows it.
2. Earlier statements of the same answer go, and what lies between them stays: a box, a tag, a line of ####, "the answer
   is 42", a goal ("we need to get 42"), a sentence or line of the answer alone ("42." or "42 apples."), in front or in
   the middle.
3. At the end the result of the last step goes where it is the answer ("40 + 2 = 42" becomes "40 + 2 = "), with what
   repeats it. It must follow a sign or word of a result, and no figure may follow it: then nothing more is worked
   out from it.

All else stays. The same value in the middle of the steps, with a figure after it, is a step and not a statement.
"""

import itertools
import re

from expo_lite.grading.reading.extract import answer_start, final_answer
from expo_lite.records import Problem
from expo_lite.tasks import FixedTask, Task

_SHOW = r"(?:show|prove|explain|justify|demonstrate)"
_REACH = r"(?:get|reach|obtain|arrive\s+at|end\s+(?:up\s+)?(?:with|at|in))"
_GOAL = (
    r"(?:need|needs|have|has|want|wants|trying|try|going|aim|supposed|required|goal\s+is|task\s+is)\s+to|must|should"
)
_STATED = (
    r"(?:(?:so|thus|hence|therefore|since|because|given\s+that|(?:we|i)\s+(?:know|are\s+told|are\s+given)(?:\s+that)?)"
    r",?\s+)?(?:the|our|my|this)\s+(?:final\s+|correct\s+|given\s+|right\s+|known\s+|stated\s+|expected\s+){0,2}"
    r"(?:answer|solution|(?<=(?:final|given)\s)(?:result|value)|(?<=correct\s)(?:result|value))"
    r"\s*(?:is|was|equals|must\s+be|should\s+be|will\s+be|would\s+be|comes\s+to|of|=|:)\s*"
    r"(?:(?:known|given|stated)\s+(?:to\s+be|as)\s+)?"
)
_AIM = rf"(?:(?:we|i|you)\s+)?(?:{_GOAL})\s+(?:{_REACH}|{_SHOW}\s+that\s+it\s+is)\s+"
_RESULT = (
    r"(?:[=≈:→]|\\(?:approx|to|implies|Rightarrow)|\b(?:is|are|be|was|were|gives?|get|gets|got|equals?|leaves?|makes?"
    r"|becomes?|yields?|obtain|have|has|had|to))\s*[$*(]{0,3}"
)
_OPEN, _CLOSE = r"(?:[\s$*(]|\\boxed\s*\{|\\text\s*\{|\\\(|\\\[){0,6}", r"(?:[$*)}]|\\\)|\\\]){0,6}\.?"
_FRONTS = (r"\\(?:boxed|fbox)\s*\{\s*\$?", r"<answer>\s*", r"\#\#\#\#[ \t]*")
_BACKS = (r"\s*\$?\s*\}", r"\s*</answer>", r"(?=[ \t]*(?:\n|\Z))")
_BEGINS = r"(?:\A|(?<=[.!?;\n]))[ \t$*(]*+"
_ENDS = r"[$*)]*+[^\d\n.!?;=+*/^\u2212\u00d7\u00f7\u00b7-]*+(?:[.!?;](?=\s|\Z)|(?=\n)|\Z)"
"""The borders of a sentence or line that says nothing else; words may follow the answer, but no other figure."""
_FIGURES = re.compile(r"\d")
_SPAN = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_ITEM = re.compile(r"^[ \t]*(\d{1,3})[.)](?=\s)", re.MULTILINE)
_MATH = re.compile(
    r"[\d\\=+*/^√π]|^-?[a-z]$|^(?:minus|negative|zero|half|halves|thirds?|quarters?|dozen|hundred|thousand|million"
    r"|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty)(?:-\w+)?)$",
    re.IGNORECASE,
)
"""Words that can begin or end a number or a formula."""
_MARKS = ".,;:!?\"'`*"
LONGEST_FORM = 6
"""Words of an answer that is written otherwise than in the data."""


def before_answer(text: str) -> str:
    """A chain without its answer (the rule is the module's); the text and a line break if it states none.

    What is stated counts as the grader counts it, in a box or in words: an answer that is still in the chain would
    raise its own probability, whatever the steps before it are worth.
    """
    start = answer_start(text)
    if start is None:
        return text.rstrip() + "\n"
    answer, _ = final_answer(text)
    if answer is None:
        return text[:start]
    written = _as_written(answer)
    stated = list(_statements(written).finditer(text))
    steps, at = "", 0
    for found in stated:  # a box wins over words after it: the last statement need not be the one that is graded
        if found.start() >= start and found is not stated[-1]:
            start = stated[-1].start()
        if found.start() < start:
            steps += text[at : found.start()]
            at = found.end()
    return _without_last_result(steps + text[at:start], written)


def up_to_answer(text: str) -> str:
    """A chain up to where it first states the answer that it ends with; the text and a line break if it states none.

    Results of steps stay, unlike in `before_answer`: an answer is put after this.
    """
    if answer_start(text) is None:
        return text.rstrip() + "\n"
    answer, _ = final_answer(text)
    while (start := answer_start(text)) is not None and final_answer(text)[0] == answer:
        text = text[:start]
    return text


def shows_answer(task: Task, problem: Problem, text: str) -> bool:
    """Tell whether the problem's answer is in a text, in any form that the task's grader takes for it.

    Graded are formulas between dollars, and up to `LONGEST_FORM` words that follow each other: of an answer with
    figures those that can be a number or a formula. A number that the question has too, and a product that is yet to be
    worked out, show the answer as well. Numbers that count the lines of a list do not.
    """
    count = itertools.count(1)
    text = _ITEM.sub(lambda found: "" if int(found[1]) == next(count) else found[0], text)
    if re.search(_as_written(problem.answer), text, re.IGNORECASE):
        return True
    forms = dict.fromkeys(next(filter(None, found.groups())) for found in _SPAN.finditer(text))
    words, any_word = text.split(), not _FIGURES.search(problem.answer)
    ends = [i for i, word in enumerate(words) if any_word or _MATH.search(word.strip(_MARKS))]
    for first, last in itertools.product(ends, range(LONGEST_FORM)):
        if first + last in ends:
            forms[" ".join(words[first : first + last + 1]).rstrip(_MARKS).lstrip("\"'`*")] = None
    return any(is_answer(task, problem, form) for form in forms if form)


def is_answer(task: Task, problem: Problem, text: str) -> bool:
    """Tell whether a text is the problem's answer; of a task with a judge of one's own, whether the two are equal."""
    boxed = f"\\boxed{{{text}}}"
    graded = task.grader.grade(problem.answer, boxed) if isinstance(task, FixedTask) else task.grade(problem, boxed)
    return graded.correct


def _as_written(answer: str) -> str:
    """A pattern for an answer as chains write it: 1234 also as 1,234 or 1234.00, else with spaces where one likes."""
    plain = answer.strip(" $").replace(",", "")
    if re.fullmatch(r"-?\d+(?:\.\d+)?", plain):
        sign, whole, fraction = re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?", plain).groups()  # type: ignore[union-attr]
        digits = ",?".join(whole)
        decimals = rf"\.{fraction}0*" if fraction and fraction.strip("0") else r"(?:\.0+)?"
        return rf"(?<![\d.,]){re.escape(sign)}{digits}{decimals}(?![\d%]|[.,]\d)"
    parts = r"\s*".join(re.escape(part) for part in re.findall(r"\w+|[^\w\s]", answer))
    return rf"(?<!\w){parts}(?!\w)"


def _statements(written: str) -> re.Pattern[str]:
    """The statements of an answer, however they are introduced."""
    worded = rf"(?:{_STATED}|{_AIM}){_OPEN}{written}{_CLOSE}"
    marked = (rf"{front}{written}{back}" for front, back in zip(_FRONTS, _BACKS, strict=True))
    return re.compile("|".join((*marked, worded, f"{_BEGINS}{written}{_ENDS}")), re.IGNORECASE)


def _without_last_result(steps: str, written: str) -> str:
    """The steps without the answer as the result of the last one, and as what repeats it."""
    end = len(steps)
    for found in reversed(list(re.finditer(rf"(?P<mark>{_RESULT}){written}", steps, re.IGNORECASE))):
        if _FIGURES.search(re.sub(written, "", steps[found.end() : end], flags=re.IGNORECASE)):
            break
        end = found.end("mark")
    return steps[:end]
