"""The table of metrics: name, label, unit, and the picture that each is drawn in. Free of torch.

Names are TRL's where TRL has one (`reward`, `kl`, `completions/mean_length`, `grad_norm`, ...); others are ours. To add a
metric, write it in `loop.py` or `step/`; named here it also gets a label and a place, else a picture of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["share", "nats", "tokens", "tokens/s", "s", "GiB", ""]
LEVEL_REWARD = "reward/level/"
"""The mean reward of the problems of a level, which follows."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A name that ends in / stands for all metrics that begin with it."""

    name: str
    label: str
    """Its label where it stands alone."""
    line: str = ""
    """Its label in its panel, if shorter."""
    colour: str | None = None
    """A colour of the page's style, where it means something; default: by place."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a report: its metrics, their unit, and what to look for in it."""

    title: str
    about: str
    unit: Unit
    metrics: tuple[Metric, ...]
    stacked: bool = False
    """Shares of one whole, drawn upon one another if there is a single run."""
    whole: str | None = None
    """The metric beside which an absent one means 0: a reason that no verdict had is not written."""


SECTIONS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Learning", (
        Panel("Reward", "The share of completions with the right answer, on the problems that are trained on. With exp-dpo: on those that had no pair; offline, by the base model.", "share",
              (Metric("reward", "reward"),)),
        Panel("Reward by level", "The same, of the problems of each level that were drawn.", "share", (Metric(LEVEL_REWARD, "level "),)),
        Panel("Groups", "Only mixed groups have an advantage to learn from. All-wrong ones should become fewer.", "share",
              (Metric("frac_all_wrong", "all-wrong groups", "all wrong", "bad"), Metric("frac_mixed", "mixed groups", "mixed", "middling"),
               Metric("frac_all_correct", "all-right groups", "all right", "good")), stacked=True),
        Panel("Loss", "The whole objective, and the supervised term on chains.", "",
              (Metric("loss", "loss"), Metric("expo/sft_loss", "loss on chains", "on chains, nats a token"))),
        Panel("KL to the base model", "How far the policy has moved; a steep climb comes before a collapse.", "nats",
              (Metric("kl", "KL a token"),)),
        Panel("Gradient norm", "0 where a step had nothing to learn from; spikes call for a lower learning rate.", "",
              (Metric("grad_norm", "gradient norm", "norm before scaling"),)),
        Panel("Clipping", "Of the tokens in the policy term, the share whose probability ratio was clipped; large where many updates share a batch.", "share",
              (Metric("clip_ratio/region_mean", "clipped tokens", "clipped"),)),
        Panel("Learning rate", "As scheduled.", "", (Metric("learning_rate", "learning rate"),)),
    )),
    ("Explanations and chains", (
        Panel("Explanations accepted", "The share of new ones that pass the filter; the others teach nothing. Of those accepted, the share whose steps could be checked; of these, the share with right ones. Of all, the share made at an earlier step.", "share",
              (Metric("expo/explanation_accept_rate", "explanations accepted", "accepted", "good"), Metric("expo/explanation_checked_rate", "accepted explanations with steps that can be checked", "steps checked"), Metric("expo/explanation_valid_rate", "accepted explanations with right steps", "right steps"), Metric("expo/reused", "explanations used again", "used again"))),
        Panel("Why explanations were refused", "Shares of new explanations.", "share", (Metric("expo/refused/", ""),),
              whole="expo/explanation_accept_rate"),
        Panel("Surprise of chains", "Negative log-likelihood after the plain prompt. Good positives are near the policy's own.", "nats",
              (Metric("expo/nll_own", "surprise of its own chains", "own"), Metric("expo/nll_explanation", "surprise of explanations", "explanation"),
               Metric("expo/nll_expert", "surprise of expert chains", "expert"))),
        Panel("Answer lift", "How much more probable a chain makes the right answer; above 0 it is of use.", "nats",
              (Metric("expo/answer_lift_own", "lift of its own chains", "own"), Metric("expo/answer_lift", "lift of explanations", "explanation"),
               Metric("expo/answer_lift_expert", "lift of expert chains", "expert"))),
        Panel("Anchoring", "By how much the answer shown makes explanations more probable, a token, by quarter of the chain.", "nats",
              (Metric("expo/anchoring/", "anchoring, quarter ", "quarter "),)),
    )),
    ("Remedies for all-wrong groups", (
        Panel("Second groups and rewards", "Shares that have a second group, and its reward; rewards by likelihood.", "share",
              (Metric("second/groups", "second groups", "of groups"), Metric("second/reward", "reward of second groups", "reward"), Metric("second/still_wrong", "groups still all wrong", "still wrong"),
               Metric("second/accept_rate", "hints and forms of use", "hints and forms of use"),
               Metric("reward/likelihood", "reward by likelihood", "by likelihood"))),
        Panel("Tries", "Second groups sampled for an all-wrong group, on average.", "", (Metric("second/tries", "tries of second groups", "tries"),)),
        Panel("Teacher", "How far apart the model is from itself with the answer in sight, a token.", "nats",
              (Metric("teacher/gap", "gap to the teacher", "gap"), Metric("expo/divergence", "divergence from the teacher", "divergence"))),
    )),
    ("Pairs", (
        Panel("DPO loss", "0.69 where the policy tells chosen and rejected no better apart than the base model.", "",
              (Metric("dpo_loss", "DPO loss", "loss"),)),
        Panel("Preference accuracy", "How often the chosen side has the higher implicit reward.", "share",
              (Metric("rewards/accuracies", "preference accuracy", "accuracy"),)),
        Panel("Implicit rewards", "The margin should grow because the chosen side rises, not because both fall.", "",
              (Metric("rewards/chosen", "chosen", colour="good"), Metric("rewards/rejected", "rejected", colour="bad"),
               Metric("rewards/margins", "margin"))),
        Panel("Log-probability of pairs", "Of whole completions under the policy.", "nats",
              (Metric("logps/chosen", "chosen", colour="good"), Metric("logps/rejected", "rejected", colour="bad"))),
        Panel("Pairs a step", "Used and newly made, and problems that gave none.", "",
              (Metric("pairs/used", "pairs", "used"), Metric("pairs/new", "new pairs", "new"), Metric("pairs/none_wrong", "none wrong"),
               Metric("pairs/no_chosen", "nothing to prefer"))),
    )),
    ("Completions", (
        Panel("Length", "Of rollouts.", "tokens",
              (Metric("completions/mean_length", "length", "mean"), Metric("completions/max_length", "longest"))),
        Panel("Truncation", "The share cut off at the limit, which counts as wrong. Above 20% the limit is too low.", "share",
              (Metric("completions/clipped_ratio", "cut off", colour="bad"),)),
        Panel("Verdicts", "Why rollouts were judged as they were.", "share",
              (Metric("verdicts/equal", "equal", colour="good"), Metric("verdicts/different", "different", colour="bad"),
               Metric("verdicts/truncated", "truncated", colour="middling"), Metric("verdicts/no_answer", "without an answer", "no_answer"), Metric("verdicts/timeout", "out of time", "timeout"),
               Metric("verdicts/", "")), stacked=True, whole="reward"),
        Panel("Sampler against scorer", "Differences of log-probabilities; far above 0, training is on noise.", "nats",
              (Metric("sampling/logp_difference/mean", "sampler and scorer apart", "mean"),
               Metric("sampling/logp_difference/max", "largest difference", "largest"))),
    )),
    ("Machine", (
        Panel("Time a step", "Where it goes.", "s",
              (Metric("time/sample_s", "sampling"), Metric("time/score_s", "scoring"), Metric("time/update_s", "update")), stacked=True),
        Panel("Speed", "Tokens a second.", "tokens/s",
              (Metric("sampling/tokens_per_s", "sampling"), Metric("update/tokens_per_s", "update"))),
        Panel("Memory", "The peak so far, and what the plan foresaw.", "GiB",
              (Metric("peak_memory_gib", "peak memory", "measured"), Metric("memory/planned_gib", "planned memory", "planned"),
               Metric("memory/peak_reserved_gib", "reserved memory", "reserved"))),
    )),
)  # fmt: skip
"""The panels of a report, in its order."""
PANELS = {metric.name: panel for _, panels in SECTIONS for panel in panels for metric in panel.metrics}
METRICS = {metric.name: metric for panel in PANELS.values() for metric in panel.metrics}
TIMES = ("step_time", *(metric.name for panel in dict(SECTIONS)["Machine"] for metric in panel.metrics))
"""Metrics that differ between a run and its exact repetition, because they depend on the machine and its load."""


def text_of(name: str, value: float) -> str:
    """Return a metric's value with its unit: '38%', '1.6%', '0.02 nats', '12,346 tokens/s'."""
    unit = PANELS[name].unit
    if unit == "share":
        return percent(value)
    form = {"tokens": ",.0f", "tokens/s": ",.0f", "s": ".1f", "GiB": ".1f"}.get(unit, ".3g")
    return f"{value:{form}} {unit}".rstrip()


def percent(value: float) -> str:
    """Return a share in percent, with a decimal if it is small: '38%', '1.6%'."""
    return f"{value:.1%}" if 0 < value < 0.0995 else f"{value:.0%}"


def described(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return label and value of those of the named metrics that a row has: 'all-wrong groups 25%'."""
    return [
        f"{METRICS[name].label} {text_of(name, row[name])}" for name in names if isinstance(row.get(name), int | float)
    ]
