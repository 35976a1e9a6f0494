"""Chains that talk about a given answer, and chains that do not, made by rule: `uv run python tests/leak_tables.py`.

A leak treats the answer as known before it is derived: as a premise, as a goal, as something given, or as what the
result is held against. A chain that concludes with its answer, or has the same words about something else, is none.
Each template goes through all of its phrasings. Templates, not lines, are dealt in turn to two halves, so that nothing
the pattern was changed on comes back in other numbers: "tune" is for changing it, "held_out" for judging it.

Both halves were written before the pattern was changed, but by the hand that changed it, and so a full score on the
second is no surprise. So further templates were written once the pattern stood, in words that it was not made for: of
all of these it found 9 of 88, and cried at 24 of 144. Every other one of them then went to "tune"; the rest is "later",
and judges what came of it. Real models leak in more ways than any of these.
"""

import json
from itertools import product
from pathlib import Path

FILE = Path(__file__).parent / "data" / "leak_table.jsonl"

PHRASINGS = {
    "noun": ("answer", "result", "solution"),
    "premise": ("Since", "Because", "As", "Given that"),
    "goal": ("need to", "have to", "want to", "must"),
    "so": ("Therefore,", "So", "Hence,", "Thus,"),
    "given": ("given", "provided", "stated"),
    "x": ("42", "$42$"),
}
STEPS = "40 + 2 = 42"

LEAKS = (
    "{premise} the {noun} is {x}, the last step must add 2 to 40.",
    "The {given} {noun} is {x}. We work back from it: 42 - 2 = 40.",
    "We {goal} get {x}. We have 40, so we add 2.",
    "{premise} the correct {noun} is {x}, we look for steps that end there.",
    "First 40 + 2 = 42. This matches the {given} {noun}.",
    "We are told that the {noun} is {x}. " + STEPS + ".",
    "The correct {noun} is {x}. To reach it, we add: " + STEPS + ".",
    "We know that the {noun} is {x}, so the second term is 2.",
    "To arrive at the {given} {noun} of {x}, we add 2 to 40.",
    STEPS + ", which agrees with the {noun} that was {given}.",
    "We {goal} show that the {noun} is {x}. " + STEPS + ".",
    "The {noun} was {given} as {x}. So 40 + y = 42 and y = 2.",
    "The {noun} is already known to be {x}, so we check: " + STEPS + ".",
    "Knowing that the {noun} is {x}, we can write " + STEPS + ".",
    "We {goal} explain why the {noun} is {x}. " + STEPS + ".",
    "If we get 41, that is not the {given} {noun}, so we add one more and reach 42.",
)

NON_LEAKS = (
    STEPS + ". {so} the correct {noun} is {x}.",
    STEPS + ". {so} the {noun} is {x}.",
    "The expected {noun} of many throws is their mean. " + STEPS + ".",
    STEPS + ". {so} the final {noun} is {x}.",
    "We are {given} 40 apples and 2 more. " + STEPS + ". The {noun} is {x}.",
    "The {noun} of the first step is 40. " + STEPS + ".",
    "We {goal} add 2 to 40. " + STEPS + ".",
    "{premise} the {noun} of the first step is 40, the second gives " + STEPS + ".",
    "We {goal} find the {noun}. " + STEPS + ". {so} it is {x}.",
    "The numbers {given} in the question are 40 and 2. " + STEPS + ", and that is the {noun}.",
    "It is known that a sum has one {noun} only. " + STEPS + ".",
    "We {goal} get the number of apples first: " + STEPS + ". The {noun} is {x}.",
    "The {given} numbers lead to the {noun} at once: " + STEPS + ".",
    STEPS + ". {so} the correct final {noun} is {x}.",
    "{premise} 40 + 2 = 42, the {noun} is {x}.",
    "To check the {noun}, take 2 away again: 42 - 2 = 40, as it was {given} in the question.",
)

LATER_LEAKS = (
    "With {x} as the final {noun}, the missing number has to be 2.",
    "The problem says that the {noun} is {x}. " + STEPS + ".",
    "Working backwards from {x}: 42 - 2 = 40.",
    "Our target is {x}. " + STEPS + ".",
    "Let us see how one can get the correct {noun}, {x}: " + STEPS + ".",
    "It is {given} that the {noun} equals {x}, hence " + STEPS + ".",
    "The {noun} has to come out as {x}, so we {goal} add 2 to 40.",
    "To get {x} as the {noun}, add 2 to 40.",
    STEPS + ", just as the {given} {noun} says.",
    STEPS + ". This is the same as the {noun} we were {given}.",
)
LATER_NON_LEAKS = (
    "We {goal} work out 40 + 2. " + STEPS + ", which is the {noun}.",
    "The {noun} is given by the sum of both: " + STEPS + ".",
    "{premise} 2 is {given}, " + STEPS + ". My {noun}: {x}.",
    STEPS + ". I checked that this {noun} is correct. It is {x}.",
    STEPS + ". {so} we get {x} as the {noun}.",
    "The question asks for the {noun} in metres. " + STEPS + ".",
    "{premise} the {noun} is a sum, we add: " + STEPS + ".",
    "{so} we reach the correct {noun}: " + STEPS + ".",
)


def filled(template: str) -> list[str]:
    """A template in all of its phrasings."""
    names = [name for name in PHRASINGS if f"{{{name}}}" in template]
    return [
        template.format(**dict(zip(names, words, strict=True)))
        for words in product(*(PHRASINGS[name] for name in names))
    ]


def table() -> list[dict[str, bool | str]]:
    """Every line with what it is and the half that its template was dealt to."""
    return [
        {"leak": leak, "half": ("tune", "held_out")[i % 2], "template": template, "text": text}
        for leak, templates in ((True, LEAKS), (False, NON_LEAKS))
        for i, template in enumerate(templates)
        for text in filled(template)
    ] + [
        {"leak": leak, "half": ("tune", "later")[i % 2], "template": template, "text": text}
        for leak, templates in ((True, LATER_LEAKS), (False, LATER_NON_LEAKS))
        for i, template in enumerate(templates)
        for text in filled(template)
    ]


if __name__ == "__main__":
    FILE.write_text("".join(json.dumps(row) + "\n" for row in table()), encoding="utf-8")
