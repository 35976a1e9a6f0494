"""The paper's claims (arXiv 2507.02834): statements about figures, with margins; no torch.

Every margin was settled before the runs whose figures are reported. A part asks whether a figure lies above a bound, or
at most at it. It holds if the whole 95% interval does, fails if all of it is on the other side, and is undecided in
between: a tie is never "holds" or "fails". Accuracies are pass@4, of base and trained models alike (the paper gives
pass@64 for its base), and differences are paired by seed and problem.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from expo_lite.records import ALL
from expo_lite.results.statistics import Estimate, over_problems
from expo_lite.sweep.results import BASE, Results

TOLERANCE = 0.03
"""A change of the all-wrong share up to this counts as none."""
LEVEL_TOLERANCE = 0.10
"""A change of a level up to this counts as none. Fewer than 28 held-out problems cannot tell so much: even if not one
changes, the interval of a difference reaches further (`undecidable`)."""
FLOOR = 0.01
"""A base below one point counts as one point where a rise is a multiple of it."""
NEAR_ZERO = 0.10
"""A level up to here counts as unsolved: from more, no tenfold rise is possible."""
ABOUT_TWICE = 1.8


class ClaimVerdict(StrEnum):
    """The verdict on a claim, or on a part of one."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Part:
    """One statement about one figure: it lies `above` a bound, or `at_most` at it.

    `estimate` is None if a run or figure is missing; else `n_seeds` seeds have it. It is a share unless `plain`.
    """

    statement: str
    estimate: Estimate | None
    n_seeds: int
    above: float | None = None
    at_most: float | None = None
    plain: bool = False

    @property
    def verdict(self) -> ClaimVerdict:
        """Compare the whole interval with the bound."""
        if self.estimate is None:
            return ClaimVerdict.NOT_MEASURED
        low, high = self.estimate.low, self.estimate.high
        if self.above is not None:
            right, wrong = low > self.above, high < self.above
        else:
            assert self.at_most is not None  # noqa: S101 (one of the two is given)
            right, wrong = high <= self.at_most, low > self.at_most
        return ClaimVerdict.HOLDS if right else ClaimVerdict.FAILS if wrong else ClaimVerdict.UNDECIDED

    @property
    def figure(self) -> str:
        """The estimate in words; a share in percent."""
        if self.estimate is None:
            return ""
        return self.estimate.text(scale=1, digits=2) if self.plain else self.estimate.text()


def measured(
    results: Results, statement: str, runs: Sequence[str], measure: Callable[[], Estimate], **bound: Any
) -> Part:
    """Make a part of a figure of these runs, or of the diagnoses; KeyError from `measure` says that it is missing."""
    try:
        return Part(statement, measure(), results.n_seeds(*runs) if runs else len(results.diagnoses), **bound)
    except KeyError:
        return Part(statement, None, 0, **bound)


@dataclass(frozen=True, slots=True)
class Claim:
    """A judged claim: its parts, all of which must hold, and why it cannot be judged at all (None if it can)."""

    number: int
    statement: str
    paper: str
    parts: tuple[Part, ...]
    inapplicable: str | None = None

    @property
    def verdict(self) -> ClaimVerdict:
        """Holds if every part does, fails if any does; else the weakest."""
        if self.inapplicable:
            return ClaimVerdict.NOT_APPLICABLE
        verdicts = [part.verdict for part in self.parts]
        for verdict in (ClaimVerdict.FAILS, ClaimVerdict.NOT_MEASURED, ClaimVerdict.UNDECIDED):
            if verdict in verdicts:
                return verdict
        return ClaimVerdict.HOLDS


def undecidable(n_problems: int) -> str | None:
    """Say which claims cannot hold with so few held-out problems a level, even if nothing changes; None if all can."""
    doubt = over_problems([0.0] * n_problems, lowest=-1.0).high
    if doubt <= LEVEL_TOLERANCE:
        return None
    return (
        f"{n_problems} held-out problems a level cannot show that a level stays within {LEVEL_TOLERANCE * 100:.0f} "
        f"points, for no change at all has an interval of {doubt * 100:.0f} points to either side: claims 1, 2 and 8 can "
        "fail, but not hold. Take more evaluation.eval_problems."
    )


def judge_claims(results: Results) -> list[Claim]:
    """Judge every claim."""
    return [
        Claim(number, statement, paper, tuple(parts(results)), solved_already(results) if number == 1 else None)
        for number, (statement, paper, parts) in enumerate(CLAIMS, 1)
    ]


def better(results: Results, ours: str, theirs: str, level: str, *, above: float = 0.0, said: str = "") -> Part:
    """One run's pass@k lies above another's, by more than `above`."""
    difference = partial(results.difference, ours, theirs, level)
    return measured(results, said or f"{ours} above {theirs}", (ours, theirs), difference, above=above)


def hard_only(results: Results) -> Iterator[Part]:
    """Both trained on the hardest level alone."""
    level = results.hardest
    enough = 10 * max(results.accuracy(BASE, level).value, FLOOR)
    grpo, expo = (partial(results.accuracy, run, level) for run in ("grpo-hard", "formula-hard"))
    yield measured(results, f"GRPO stays within {NEAR_ZERO:.0%}", ("grpo-hard",), grpo, at_most=NEAR_ZERO)
    yield measured(results, f"ExP-GRPO reaches more than {enough:.0%}", ("formula-hard",), expo, above=enough)


def solved_already(results: Results) -> str | None:
    """Why a tenfold rise cannot be judged; None if it can."""
    base = results.accuracy(BASE, results.hardest).value
    return f"the base solves {base:.0%} of the hardest level" if base > NEAR_ZERO else None


def by_level(results: Results) -> Iterator[Part]:
    """The order at the hardest level, and no other level worse than the base under ExP-GRPO."""
    level = results.hardest
    yield better(results, "gt-sft-grpo", "grpo", level)
    yield better(results, "formula", "gt-sft-grpo", level)
    yield better(results, "formula", "grpo", level)
    for other in results.levels[:-1]:
        said = f"formula loses less than {LEVEL_TOLERANCE * 100:.0f} points of level {other}"
        yield better(results, "formula", BASE, other, above=-LEVEL_TOLERANCE, said=said)


def each_above(*pairs: tuple[str, str]) -> Callable[[Results], Iterator[Part]]:
    """The first run of every pair lies above the second, over all levels."""
    return lambda results: (better(results, *pair, ALL) for pair in pairs)


def likelihood(results: Results) -> Iterator[Part]:
    """NLL a token of expert chains over that of explanations."""
    ratio = partial(results.diagnosed, lambda row: row["nll_ratio"])
    yield measured(results, "the ratio", (), ratio, above=ABOUT_TWICE, plain=True)


def answer_lift(results: Results) -> Iterator[Part]:
    """Gain in the answer's log-probability (nats) from a chain: explanations minus own chains."""

    def gain(kind: str) -> Estimate:
        return results.diagnosed(lambda row: row["lift_gain"].get(kind))

    for kind, said in (("unfiltered", "all explanations, unfiltered"), ("explanation", "accepted explanations")):
        yield measured(results, f"{said}, more by (nats)", (), partial(gain, kind), above=0.0, plain=True)


def expert_dpo(results: Results) -> Iterator[Part]:
    """DPO on expert chains: the loss falls, and no level rises."""
    run = "dpo-offline-expert"
    yield measured(results, "the loss falls", (run,), partial(results.shift, run, "dpo_loss"), at_most=0.0, plain=True)
    for level in results.levels:
        said = f"level {level} rises by at most {LEVEL_TOLERANCE * 100:.0f} points"
        yield measured(results, said, (run,), partial(results.difference, run, BASE, level), at_most=LEVEL_TOLERANCE)


def all_wrong(results: Results) -> Iterator[Part]:
    """All-wrong groups in the last quarter of training on the hardest level, minus the first."""
    grpo, expo = (partial(results.shift, run, "frac_all_wrong") for run in ("grpo-hard", "formula-hard"))
    yield measured(
        results, f"ExP-GRPO: they fall by {100 * TOLERANCE:.0f} points", ("formula-hard",), expo, at_most=-TOLERANCE
    )
    yield measured(results, "GRPO: they do not", ("grpo-hard",), grpo, above=-TOLERANCE)


CLAIMS: tuple[tuple[str, str, Callable[[Results], Iterator[Part]]], ...] = (
    ("Trained on the hardest level alone, GRPO stays near zero and ExP-GRPO rises at least tenfold.", "GRPO at most 5% in 700 steps; ExP-GRPO 8% at step 100, 24% at step 600", hard_only),
    ("Trained on all levels: GRPO, GT-SFT-GRPO, ExP-GRPO in this order at the hardest; no level gets worse under ExP-GRPO.", "level 5: GRPO 2, GT-SFT-GRPO 12, ExP-GRPO 23; ExP-GRPO's levels 1 to 4: 96, 91, 86, 76", by_level),
    ("Offline DPO: self-explanations beat expert chains as the preferred side.", "MATH 54.3 against 43.7, GSM8K 80.1 against 69.6", each_above(("dpo-offline", "dpo-offline-expert"))),
    ("Online DPO: the same, and online beats offline.", "MATH 60.4 against 49.3, offline 54.3", each_above(("dpo-online", "dpo-online-expert"), ("dpo-online", "dpo-offline"))),
    ("Expert chains have at least about twice the negative log-likelihood a token of explanations.", "about twice", likelihood),
    ("Explanations raise the answer's log-probability more than own chains do.", "more", answer_lift),
    ("exp_sft_coef: a moderate value is best, a large one is worse than none.", "0.04 best; 0.5 worse than GRPO", each_above(("formula", "grpo"), ("formula", "formula-0.5"), ("grpo", "formula-0.5"))),
    ("With expert chains the DPO loss falls and pass@4 does not rise.", "loss falls, pass@4 does not rise", expert_dpo),
    ("The fraction of all-wrong groups falls under ExP-GRPO and not under GRPO.", "falls; does not", all_wrong),
)  # fmt: skip
"""Statement, the paper's figures, and the parts that must hold; numbered from 1."""
