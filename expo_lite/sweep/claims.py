"""The paper's claims (arXiv 2507.02834) and our own comparisons: what must be true, with which margin; no torch.

Every margin was settled before the runs whose figures are reported. A part asks whether a figure lies above a bound, or
at most at it. It holds if the whole 95% interval does, fails if all of it is on the other side, and is undecided in
between: a tie is never "holds" or "fails". Accuracies are pass@4, of base and trained models alike (the paper gives
pass@64 for its base), and differences are paired by seed and problem.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from expo_lite.records import ALL
from expo_lite.results.statistics import Estimate
from expo_lite.sweep.results import BASE, Results, minus

K = 4
TOLERANCE = 0.03
"""What counts as no change of the all-wrong share."""
LEVEL_TOLERANCE = 0.10
"""What counts as no change of a level. With 60 held-out problems nothing finer can be told: even where not one problem
changes, the interval of a difference reaches 6 points to either side."""
FLOOR = 0.01
"""A base below one point counts as one point where a rise is a multiple of it."""
NEAR_ZERO = 0.10
"""Up to here a level counts as one that the model cannot solve; a tenfold rise of more cannot be."""
ABOUT_TWICE = 1.8


class Verdict(StrEnum):
    """What the figures say about a claim, or about a part of one."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Part:
    """One statement about one figure: that it lies `above` a bound, or `at_most` at it.

    `measure` raises KeyError where a run or figure is missing. `runs` are those that it needs. A figure is a share
    unless it is `plain`.
    """

    statement: str
    runs: tuple[str, ...]
    measure: Callable[[], Estimate]
    above: float | None = None
    at_most: float | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class JudgedPart:
    """A part with its figure; `estimate` is None where it was not measured, and `n_seeds` is how many seeds it has."""

    part: Part
    estimate: Estimate | None
    n_seeds: int

    @property
    def verdict(self) -> Verdict:
        """Whether the whole interval is on the right side, or all of it on the wrong one."""
        if self.estimate is None:
            return Verdict.NOT_MEASURED
        low, high = self.estimate.low, self.estimate.high
        if self.part.above is not None:
            return _side(low > self.part.above, high < self.part.above)
        assert self.part.at_most is not None  # noqa: S101 (one of the two is given)
        return _side(high <= self.part.at_most, low > self.part.at_most)

    @property
    def figure(self) -> str:
        """The estimate in words; a share in percent."""
        if self.estimate is None:
            return ""
        return self.estimate.text(scale=1, digits=2) if self.part.plain else self.estimate.text()


def _side(right: bool, wrong: bool) -> Verdict:
    return Verdict.HOLDS if right else Verdict.FAILS if wrong else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: its parts, all of which must hold, and why it cannot be judged at all (None if it can)."""

    number: int
    statement: str
    paper: str
    parts: Callable[[Results], Iterator[Part]]
    inapplicable: Callable[[Results], str | None] = lambda results: None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim's outcome."""

    claim: Claim
    parts: tuple[JudgedPart, ...]
    inapplicable: str | None

    @property
    def verdict(self) -> Verdict:
        """Holds if every part does, fails if any does; else what is weakest."""
        if self.inapplicable:
            return Verdict.NOT_APPLICABLE
        verdicts = [part.verdict for part in self.parts]
        for verdict in (Verdict.FAILS, Verdict.NOT_MEASURED, Verdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return Verdict.HOLDS


def judge_claims(results: Results) -> list[Judgement]:
    """The outcome of every claim."""
    return [
        Judgement(claim, tuple(judged(part, results) for part in claim.parts(results)), claim.inapplicable(results))
        for claim in CLAIMS
    ]


def judged(part: Part, results: Results) -> JudgedPart:
    """A part with its figure, or without where that is not there."""
    try:
        return JudgedPart(part, part.measure(), results.n_seeds(*part.runs) if part.runs else len(results.diagnoses))
    except KeyError:
        return JudgedPart(part, None, 0)


def better(results: Results, ours: str, theirs: str, level: str, *, above: float = 0.0, said: str = "") -> Part:
    """That one run's pass@k lies above another's, by more than `above`."""
    runs = (ours,) if theirs == BASE else (ours, theirs)
    return Part(said or f"{ours} above {theirs}", runs, lambda: results.difference(ours, theirs, level), above=above)


def hard_only(results: Results) -> Iterator[Part]:
    """Both trained on the hardest level alone."""
    level = results.hardest
    enough = 10 * max(_base_solves(results) or 0.0, FLOOR)
    yield Part(
        f"GRPO stays within {NEAR_ZERO:.0%}",
        ("grpo-hard",),
        lambda: results.accuracy("grpo-hard", level),
        at_most=NEAR_ZERO,
    )
    yield Part(
        f"ExP-GRPO reaches more than {enough:.0%}",
        ("exp-grpo-hard",),
        lambda: results.accuracy("exp-grpo-hard", level),
        above=enough,
    )


def solved_already(results: Results) -> str | None:
    """Why a tenfold rise cannot be judged, if it cannot."""
    base = _base_solves(results)
    return f"the base solves {base:.0%} of the hardest level" if base and base > NEAR_ZERO else None


def _base_solves(results: Results) -> float | None:
    """Of the hardest level, the policy that `exp-grpo-hard` starts from; None where that was not measured."""
    try:
        return results.accuracy(results.base_of("exp-grpo-hard"), results.hardest).value
    except KeyError:
        return None


def by_level(results: Results) -> Iterator[Part]:
    """The order at the hardest level, and no other level worse than the base under ExP-GRPO."""
    level = results.hardest
    yield better(results, "gt-sft-grpo", "grpo", level)
    yield better(results, "exp-grpo", "gt-sft-grpo", level)
    yield better(results, "exp-grpo", "grpo", level)
    for other in results.levels[:-1]:
        said = f"exp-grpo loses less than {LEVEL_TOLERANCE * 100:.0f} points of level {other}"
        yield better(results, "exp-grpo", BASE, other, above=-LEVEL_TOLERANCE, said=said)


def offline_dpo(results: Results) -> Iterator[Part]:
    """Explanations against expert chains, pairs made once."""
    yield better(results, "dpo-offline", "dpo-offline-expert", ALL)


def online_dpo(results: Results) -> Iterator[Part]:
    """The same with pairs of the updated policy; and against offline pairs."""
    yield better(results, "dpo-online", "dpo-online-expert", ALL)
    yield better(results, "dpo-online", "dpo-offline", ALL)


def likelihood(results: Results) -> Iterator[Part]:
    """NLL a token of expert chains over that of explanations."""
    yield Part("the ratio", (), lambda: results.diagnosed(lambda row: row["nll_ratio"]), above=ABOUT_TWICE, plain=True)


def answer_lift(results: Results) -> Iterator[Part]:
    """What chains do for the answer's log-probability, in nats: explanations minus own chains."""

    def lift(kind: str) -> Estimate:
        return results.diagnosed(lambda row: row["lift"].get(kind))

    def more(kind: str) -> Callable[[], Estimate]:
        return lambda: minus(lift(kind), lift("own"))

    yield Part("all explanations, unfiltered, more by (nats)", (), more("unfiltered"), above=0.0, plain=True)
    yield Part("accepted explanations, more by (nats)", (), more("explanation"), above=0.0, plain=True)


def coefficients(results: Results) -> Iterator[Part]:
    """No term, a moderate coefficient and a large one; over all levels."""
    yield better(results, "exp-grpo", "grpo", ALL, said="0.04 above 0")
    yield better(results, "exp-grpo", "exp-grpo-0.5", ALL, said="0.04 above 0.5")
    yield better(results, "grpo", "exp-grpo-0.5", ALL, said="0 above 0.5")


def expert_dpo(results: Results) -> Iterator[Part]:
    """DPO on expert chains: what falls, and what does not rise."""
    run = "dpo-offline-expert"
    yield Part("the loss falls", (run,), lambda: results.shift(run, "dpo_loss"), at_most=0.0, plain=True)
    for level in results.levels:
        yield Part(
            f"level {level} rises by at most {LEVEL_TOLERANCE * 100:.0f} points",
            (run,),
            lambda level=level: results.difference(run, BASE, level),  # type: ignore[misc]
            at_most=LEVEL_TOLERANCE,
        )


def all_wrong(results: Results) -> Iterator[Part]:
    """All-wrong groups in the last quarter of training on the hardest level, minus the first."""
    yield Part(
        f"ExP-GRPO: they fall by more than {TOLERANCE * 100:.0f} points",
        ("exp-grpo-hard",),
        lambda: results.shift("exp-grpo-hard", "frac_all_wrong"),
        at_most=-TOLERANCE,
    )
    yield Part(
        "GRPO: they do not",
        ("grpo-hard",),
        lambda: results.shift("grpo-hard", "frac_all_wrong"),
        above=-TOLERANCE,
    )


CLAIMS = (
    Claim(1, "Trained on the hardest level alone, GRPO stays near zero and ExP-GRPO rises at least tenfold.", "GRPO at most 5% in 700 steps; ExP-GRPO 8% at step 100, 24% at step 600", hard_only, solved_already),
    Claim(2, "Trained on all levels: GRPO, GT-SFT-GRPO, ExP-GRPO in this order at the hardest; no level gets worse under ExP-GRPO.", "level 5: GRPO 2, GT-SFT-GRPO 12, ExP-GRPO 23; ExP-GRPO's levels 1 to 4: 96, 91, 86, 76", by_level),
    Claim(3, "Offline DPO: self-explanations beat expert chains as the preferred side.", "MATH 54.3 against 43.7, GSM8K 80.1 against 69.6", offline_dpo),
    Claim(4, "Online DPO: the same, and online beats offline.", "MATH 60.4 against 49.3, offline 54.3", online_dpo),
    Claim(5, "Expert chains have at least about twice the negative log-likelihood a token of explanations.", "about twice", likelihood),
    Claim(6, "Explanations raise the answer's log-probability more than own chains do.", "more", answer_lift),
    Claim(7, "exp_sft_coef: a moderate value is best, a large one is worse than none.", "0.04 best; 0.5 worse than GRPO", coefficients),
    Claim(8, "With expert chains the DPO loss falls and pass@4 does not rise.", "loss falls, pass@4 does not rise", expert_dpo),
    Claim(9, "The fraction of all-wrong groups falls under ExP-GRPO and not under GRPO.", "falls; does not", all_wrong),
)  # fmt: skip

QUESTIONS = {
    "Mechanism: does the shown answer matter?": [
        ("exp-grpo", "wrong-answer"),
        ("exp-grpo", "no-answer"),
        ("exp-grpo-all-wrong", "wrong-answer-all-wrong"),
        ("exp-grpo-all-wrong", "no-answer-all-wrong"),
    ],
    "Gain: against what else could be done": [
        ("exp-grpo", "grpo"),
        ("exp-grpo", "grpo-equal-tokens"),
        ("exp-grpo", "gt-sft-grpo"),
        ("exp-grpo", "sft"),
        ("exp-grpo", "star"),
        ("exp-grpo-all-wrong", "grpo"),
        ("exp-grpo-all-wrong", "grpo-equal-tokens"),
        ("exp-grpo-all-wrong", "star"),
        ("exp-grpo-all-wrong", "exp-grpo"),
        ("exp-grpo-kl", "exp-grpo"),
        ("exp-grpo-token-5", "exp-grpo"),
    ],
}
"""Beside the paper's claims: pairs of runs at the hardest level, of which the first is asked to lie above the second.
Those of the gate (exp-grpo-all-wrong), and its controls, were added after its runs had been looked at."""


def answers(results: Results) -> dict[str, list[JudgedPart]]:
    """The outcome of every question that has a measured pair."""
    found = {
        heading: [judged(better(results, ours, theirs, results.hardest), results) for ours, theirs in pairs]
        for heading, pairs in QUESTIONS.items()
    }
    measured = {heading: [p for p in parts if p.estimate is not None] for heading, parts in found.items()}
    return {heading: parts for heading, parts in measured.items() if parts}


def one_seed(parts: Sequence[JudgedPart]) -> bool:
    """Whether some verdict rests on a single seed."""
    return any(part.n_seeds == 1 for part in parts)
