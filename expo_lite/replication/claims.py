"""The paper's claims (arXiv 2507.02834), each with its figures there and what must be true of ours for it to hold; free of torch.

Every criterion was settled before the runs whose figures are reported. A claim holds if it is true in every seed. Accuracies are
pass@4, of base and trained models alike (the paper gives pass@64 for its base).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo_lite.measure.figures import Evaluation
from expo_lite.measure.statistics import Estimate, over_seeds
from expo_lite.run.metrics import mean

K = 4
TOLERANCE = 0.03
"""What counts as no change: three points, the noise of some 600 completions a level."""
FLOOR = 0.01
"""A base below one point counts as one point where a rise is a multiple of it."""
ABOUT_TWICE = 1.8


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run: its evaluation after training, and the rows of its metrics.jsonl."""

    after: Evaluation
    metrics: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured; runs by name, then by seed; `diagnoses` has the "all" row of diagnosis.json by seed."""

    base: Evaluation
    runs: Mapping[str, Mapping[int, RunResult]]
    diagnoses: Mapping[int, Mapping[str, Any]]
    seeds: tuple[int, ...]

    @property
    def levels(self) -> list[str]:
        """The levels, the hardest last; of a task without levels, "all"."""
        return [row.level for row in self.base.levels if row.level != "all"] or ["all"]

    @property
    def hardest(self) -> str:
        """The hardest level."""
        return self.levels[-1]


Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: `measure` gives a seed's named figures, and whether it is true of them.

    Looking up a run or figure that is missing raises KeyError: the claim is then not measured.
    """

    number: int
    statement: str
    paper: str
    measure: Callable[[Results, int], tuple[Figures, bool]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim's result: figures by name with one value a seed; `holds` is None where something was not measured."""

    claim: Claim
    figures: dict[str, list[float]]
    true_in: int
    n_seeds: int

    @property
    def holds(self) -> bool | None:
        """Whether the claim is true in every seed."""
        return self.true_in == self.n_seeds if self.n_seeds else None

    @property
    def verdict(self) -> str:
        """In words, with the seeds where it is a matter of them."""
        if self.holds is None:
            return "not measured"
        word = "holds" if self.holds else "fails"
        return (
            word
            if self.n_seeds == 1 or self.true_in in (0, self.n_seeds)
            else f"{word} ({self.true_in} of {self.n_seeds} seeds)"
        )

    def estimates(self) -> dict[str, Estimate]:
        """Each figure's mean and interval over seeds."""
        return {name: over_seeds(values) for name, values in self.figures.items()}


def judge_claims(results: Results) -> list[Judgement]:
    """The outcome of every claim."""
    return [_judged(claim, results) for claim in CLAIMS]


def _judged(claim: Claim, results: Results) -> Judgement:
    try:
        measured = [claim.measure(results, seed) for seed in results.seeds]
    except KeyError:
        return Judgement(claim, {}, 0, 0)
    figures = {name: [own[name] for own, _ in measured] for name in measured[0][0]}
    return Judgement(claim, figures, sum(true for _, true in measured), len(measured))


def pass_at_4(evaluation: Evaluation, level: str) -> float:
    """pass@4 at a level, or at "all"; of a task with one level, "all" is that level."""
    by_level = {row.level: row for row in evaluation.levels}
    return (by_level[level] if level in by_level else evaluation.levels[-1]).pass_at[K].value


def _after(results: Results, run: str, seed: int, level: str) -> float:
    return pass_at_4(results.runs[run][seed].after, level)


def change(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """A metric's mean over the first and over the last quarter of a run's steps that have it."""
    values = [row[name] for row in metrics if name in row]
    if not values:
        raise KeyError(name)
    quarter = max(len(values) // 4, 1)
    return mean(values[:quarter]), mean(values[-quarter:])


def hard_only(results: Results, seed: int) -> tuple[Figures, bool]:
    """GRPO near the base, ExP-GRPO ten times as high, both trained on the hardest level alone."""
    level = results.hardest
    base = pass_at_4(results.base, level)
    grpo, exp = (_after(results, run, seed, level) for run in ("grpo-hard", "exp-grpo-hard"))
    figures = {"base": base, "GRPO": grpo, "ExP-GRPO": exp}
    return figures, grpo <= base + TOLERANCE and exp >= 10 * max(base, FLOOR)


def by_level(results: Results, seed: int) -> tuple[Figures, bool]:
    """The order at the hardest level, and no level worse than the base under ExP-GRPO."""
    names = {"GRPO": "grpo-all", "GT-SFT-GRPO": "gt-sft-grpo-all", "ExP-GRPO": "exp-grpo-all"}
    figures = {"base": pass_at_4(results.base, results.hardest)}
    figures |= {name: _after(results, run, seed, results.hardest) for name, run in names.items()}
    base, grpo, gt_sft, exp = figures.values()
    changes = [
        _after(results, "exp-grpo-all", seed, level) - pass_at_4(results.base, level) for level in results.levels
    ]
    figures["ExP-GRPO's worst change of a level"] = min(changes)
    return figures, base - TOLERANCE <= grpo < gt_sft < exp and min(changes) >= -TOLERANCE


def offline_dpo(results: Results, seed: int) -> tuple[Figures, bool]:
    """Explanations against expert chains, pairs made once."""
    ours, expert = (_after(results, run, seed, "all") for run in ("dpo-offline", "dpo-offline-expert"))
    return {"explanations": ours, "expert chains": expert}, ours > expert


def online_dpo(results: Results, seed: int) -> tuple[Figures, bool]:
    """The same with pairs of the updated policy; and against offline pairs."""
    names = ("dpo-online", "dpo-online-expert", "dpo-offline")
    ours, expert, offline = (_after(results, run, seed, "all") for run in names)
    return {"explanations": ours, "expert chains": expert, "offline": offline}, ours > expert and ours > offline


def _kinds(row: Mapping[str, Any], figure: str, kinds: Sequence[str]) -> list[float]:
    if any(row[figure][kind] is None for kind in kinds):
        raise KeyError(figure)
    return [row[figure][kind]["value"] for kind in kinds]


def likelihood(results: Results, seed: int) -> tuple[Figures, bool]:
    """NLL a token of expert chains over that of explanations."""
    row = results.diagnoses[seed]
    if row["nll_ratio"] is None:
        raise KeyError("nll_ratio")
    expert, explanation = _kinds(row, "nll", ("expert", "explanation"))
    ratio = row["nll_ratio"]["value"]
    return {"expert": expert, "explanation": explanation, "ratio": ratio}, ratio >= ABOUT_TWICE


def answer_lift(results: Results, seed: int) -> tuple[Figures, bool]:
    """What chains do for the answer's log-probability."""
    explanation, own = _kinds(results.diagnoses[seed], "lift", ("explanation", "own"))
    return {"explanations": explanation, "own chains": own}, explanation > own


def coefficients(results: Results, seed: int) -> tuple[Figures, bool]:
    """No term, a moderate coefficient and a large one."""
    names = {"0": "grpo-all", "0.04": "exp-grpo-all", "0.5": "exp-grpo-all-0.5"}
    figures = {name: _after(results, run, seed, "all") for name, run in names.items()}
    none, moderate, large = figures.values()
    return figures, moderate > max(none, large) and large < none


def expert_dpo(results: Results, seed: int) -> tuple[Figures, bool]:
    """DPO on expert chains: what falls, and what does not rise."""
    first, last = change(results.runs["dpo-offline-expert"][seed].metrics, "dpo_loss")
    base, after = pass_at_4(results.base, "all"), _after(results, "dpo-offline-expert", seed, "all")
    figures = {"loss first": first, "loss last": last, "base": base, "after": after}
    return figures, last < first and after <= base + TOLERANCE


def all_wrong(results: Results, seed: int) -> tuple[Figures, bool]:
    """All-wrong groups in the first and the last quarter of training on the hardest level."""
    changes = [change(results.runs[run][seed].metrics, "frac_all_wrong") for run in ("exp-grpo-hard", "grpo-hard")]
    (exp_first, exp_last), (grpo_first, grpo_last) = changes
    figures = {
        "ExP-GRPO first": exp_first,
        "ExP-GRPO last": exp_last,
        "GRPO first": grpo_first,
        "GRPO last": grpo_last,
    }
    return figures, exp_last < exp_first - TOLERANCE and grpo_last >= grpo_first - TOLERANCE


CLAIMS = (
    Claim(1, "Trained on the hardest level alone, GRPO stays near zero and ExP-GRPO rises at least tenfold.", "GRPO at most 5% in 700 steps; ExP-GRPO 8% at step 100, 24% at step 600", hard_only),
    Claim(2, "Trained on all levels: base, GRPO, GT-SFT-GRPO, ExP-GRPO in this order at the hardest level; no level gets worse under ExP-GRPO.", "level 5: base 4 (pass@64), GRPO 2, GT-SFT-GRPO 12, ExP-GRPO 23; its levels 1 to 4: 96, 91, 86, 76", by_level),
    Claim(3, "Offline DPO: self-explanations beat expert chains as the preferred side.", "MATH 54.3 against 43.7, GSM8K 80.1 against 69.6", offline_dpo),
    Claim(4, "Online DPO: the same, and online beats offline.", "MATH 60.4 against 49.3, offline 54.3", online_dpo),
    Claim(5, "Expert chains have at least about twice the negative log-likelihood a token of explanations.", "about twice", likelihood),
    Claim(6, "Explanations raise the answer's log-probability more than own chains do.", "more", answer_lift),
    Claim(7, "exp_sft_coef: a moderate value is best, a large one is worse than none.", "0.04 best; 0.5 worse than GRPO", coefficients),
    Claim(8, "With expert chains the DPO loss falls and pass@4 does not rise.", "loss falls, pass@4 does not rise", expert_dpo),
    Claim(9, "The fraction of all-wrong groups falls under ExP-GRPO and not under GRPO.", "falls; does not", all_wrong),
)  # fmt: skip
