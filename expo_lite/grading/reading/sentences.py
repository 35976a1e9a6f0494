"""Answers in a sentence: "She has 45 apples", "Total: 45", "the ratio is 3:4" say what stands behind the verb."""

import re

_VERBS = frozenset(
    "is are was were be equals equal has have had needs need gets get makes make made earns earned costs cost "
    "pays paid takes "
    "took spends spent saves saved sells sold buys bought gives gave contains contain requires require receives "
    "received owes "
    "weighs ate eats drinks reads read walks walked travels travelled traveled ran runs becomes totals".split()
)
_DENIED = frozenset(
    "not no never neither nor none nothing isn't aren't wasn't doesn't don't didn't cannot can't won't hardly "
    "except unless if "
    "than false wrong incorrect without instead rather either or both maybe perhaps possibly probably might "
    "could but".split()
)
_MAX_WORDS = 10
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*[,:]?$")
_TEXT = re.compile(r"^\\text\{([^{}]*)\}$")
_TEXT_IN_FRONT = re.compile(r"^\\text\{([^{}]*)\} ?(?=\S)")
_CHOSEN = re.compile(r"^ ?\(?[A-J]\)?(?:(?:,| and| or|, and) ?\(?[A-J]\)?)+ ?$")  # "(B) and (D)"
_AMOUNT = re.compile(r"^(?:a total of|equal to|in total|exactly|just|only) ", re.IGNORECASE)
_ARROW = re.compile(r"^ ?(?:\\(?:therefore|Rightarrow|implies|to|rightarrow|Longrightarrow)(?![A-Za-z])|=>|→|⇒|∴|➡) ?")
_MARK = re.compile(r" ?(?:\\(?:checkmark|blacksquare|square|qed|Box)(?![A-Za-z])|[✓✔✅☑■□∎]\ufe0f?)$")
_ALL = re.compile(
    r"^(?:\\text\{ ?)?(?:for )?all (?:real )?(?:numbers? |values? |of )*(?:\} ?)?(?=[A-Za-z] ?(?:[<>]|\\(?:le|ge"
    r"|ne)(?![A-Za-z])))",
    re.IGNORECASE,
)


def stated(text: str) -> str:
    """What a normalised answer says, without the sentence around it; a text that is no such sentence as it is."""
    text = _MARK.sub("", _ARROW.sub("", text))
    if not re.search(r"[A-Za-z]{2}|\\text", text):
        return text
    text = _ALL.sub("", text)
    whole = _TEXT.match(text)
    if whole is not None and _CHOSEN.match(whole.group(1)):
        return whole.group(1).strip()
    if whole is not None:
        said = _behind_verb(whole.group(1).strip())
        return text if said is None else said
    front = _TEXT_IN_FRONT.match(text)
    if front is not None:
        words = front.group(1).split()
        return text[front.end() :] if _leads(words) else text
    said = _behind_verb(text)
    return text if said is None else said


def _leads(words: list[str]) -> bool:
    """Whether words are a subject with its verb or a heading with its colon, and deny nothing."""
    if not 0 < len(words) <= _MAX_WORDS or not all(map(_WORD.match, words)):
        return False
    last = words[-1].lower()
    is_heading = last.endswith(":") and len(" ".join(words)) > 3
    return (is_heading or last in _VERBS) and not _DENIED.intersection(word.lower().strip(",:") for word in words)


def _behind_verb(text: str) -> str | None:
    amount = _AMOUNT.match(text)
    if amount is not None:
        return text[amount.end() :]
    words = text.split(" ", _MAX_WORDS + 1)
    for count in range(1, min(len(words), _MAX_WORDS + 1)):
        word = words[count - 1]
        if not _WORD.match(word):
            return None
        if word.lower() in _VERBS or word.endswith(":"):
            rest = " ".join(words[count:])
            amount = _AMOUNT.match(rest)
            return (rest if amount is None else rest[amount.end() :]) if _leads(words[:count]) else None
    return None
