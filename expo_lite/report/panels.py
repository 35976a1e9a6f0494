"""Which metrics are drawn together, under which title; a run that lacks one leaves it out."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["share", "nats", "tokens", "s", "GiB", ""]


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of a panel. A name that ends in / stands for all metrics that begin with it."""

    name: str
    label: str
    colour: str | None = None
    """A colour of the page's style by name, where it means something; else by place."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: its metrics, their unit, and what to look for in it."""

    title: str
    about: str
    unit: Unit
    lines: tuple[Line, ...]
    stacked: bool = False
    """Shares of one whole, drawn upon one another where there is a single run."""
    whole: str | None = None
    """The metric beside which an absent one means 0: a reason that no verdict had is not written."""


SECTIONS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Learning", (
        Panel("Reward", "The share of completions with the right answer, on the problems that are trained on.", "share",
              (Line("reward", "mean reward"),)),
        Panel("Reward by level", "The same, of the problems of each level that were drawn.", "share", (Line("reward/level/", "level "),)),
        Panel("Groups", "Only mixed groups have an advantage to learn from. All-wrong ones should become fewer.", "share",
              (Line("frac_all_wrong", "all wrong", "bad"), Line("frac_mixed", "mixed", "middling"),
               Line("frac_all_correct", "all right", "good")), stacked=True),
        Panel("Loss", "The whole objective, and the supervised term on chains.", "",
              (Line("loss", "loss"), Line("expo/sft_loss", "on chains, nats a token"))),
        Panel("KL to the base model", "How far the policy has moved; a steep climb comes before a collapse.", "nats",
              (Line("kl", "KL a token"),)),
        Panel("Gradient norm", "0 where a step had nothing to learn from; spikes call for a lower learning rate.", "",
              (Line("grad_norm", "norm before scaling"),)),
        Panel("Clipping", "The share of tokens whose probability ratio was clipped; large where many updates share a batch.", "share",
              (Line("clip_ratio/region_mean", "clipped"),)),
        Panel("Learning rate", "As scheduled.", "", (Line("learning_rate", "learning rate"),)),
    )),
    ("Explanations and chains", (
        Panel("Explanations accepted", "The share that pass the filter; the others teach nothing.",
              "share", (Line("expo/explanation_accept_rate", "accepted", "good"),)),
        Panel("Why explanations were refused", "Shares of all explanations.", "share", (Line("expo/refused/", ""),),
              whole="expo/explanation_accept_rate"),
        Panel("Surprise of chains", "Negative log-likelihood after the plain prompt. Good positives are near the policy's own.", "nats",
              (Line("expo/nll_own", "own"), Line("expo/nll_explanation", "explanation"), Line("expo/nll_expert", "expert"))),
        Panel("Answer lift", "How much more probable a chain makes the right answer; above 0 it is of use.", "nats",
              (Line("expo/answer_lift_own", "own"), Line("expo/answer_lift", "explanation"),
               Line("expo/answer_lift_expert", "expert"))),
    )),
    ("Pairs", (
        Panel("DPO loss", "0.69 where the policy tells chosen and rejected no better apart than the base model.", "",
              (Line("dpo_loss", "loss"),)),
        Panel("Preference accuracy", "How often the chosen side has the higher implicit reward.", "share",
              (Line("rewards/accuracies", "accuracy"),)),
        Panel("Implicit rewards", "The margin should grow because the chosen side rises, not because both fall.", "",
              (Line("rewards/chosen", "chosen", "good"), Line("rewards/rejected", "rejected", "bad"),
               Line("rewards/margins", "margin"))),
        Panel("Log-probability of pairs", "Of whole completions under the policy.", "nats",
              (Line("logps/chosen", "chosen", "good"), Line("logps/rejected", "rejected", "bad"))),
        Panel("Pairs a step", "Used and newly made, and problems that gave none.", "",
              (Line("pairs/used", "used"), Line("pairs/new", "new"), Line("pairs/none_wrong", "none wrong"),
               Line("pairs/no_chosen", "nothing to prefer"))),
    )),
    ("Completions", (
        Panel("Length", "Of rollouts.", "tokens",
              (Line("completions/mean_length", "mean"), Line("completions/max_length", "longest"))),
        Panel("Truncation", "The share cut off at the limit, which counts as wrong. Above 20% the limit is too low.", "share",
              (Line("completions/clipped_ratio", "cut off", "bad"),)),
        Panel("Verdicts", "Why rollouts were judged as they were.", "share", (Line("verdicts/", ""),), stacked=True,
              whole="reward"),
        Panel("Sampler against scorer", "Differences of log-probabilities; far above 0, training is on noise.", "nats",
              (Line("sampling/logp_difference/mean", "mean"), Line("sampling/logp_difference/max", "largest"))),
    )),
    ("Machine", (
        Panel("Time a step", "Where it goes.", "s",
              (Line("time/sample_s", "sampling"), Line("time/score_s", "scoring"), Line("time/update_s", "update")), stacked=True),
        Panel("Speed", "Tokens a second.", "tokens",
              (Line("sampling/tokens_per_s", "sampling"), Line("update/tokens_per_s", "update"))),
        Panel("Memory", "The peak so far, and what the plan foresaw.", "GiB",
              (Line("peak_memory_gib", "measured"), Line("memory/planned_gib", "planned"))),
    )),
)  # fmt: skip
"""What a report draws, in its order. A metric that is in no panel here gets one of its own at the end."""

MEANINGS = {"verdicts/equal": "good", "verdicts/different": "bad", "verdicts/truncated": "middling"}
"""Colours of members of families that mean something."""
