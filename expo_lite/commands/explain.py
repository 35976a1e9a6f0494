"""`expo-lite explain`: self-explanations of some problems, as training would sample and judge them, printed to be read."""

from collections.abc import Iterable

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from expo_lite.grading import Grader
from expo_lite.policy.factory import load_policy
from expo_lite.records import Explanation, SamplingParams
from expo_lite.run.target import locate
from expo_lite.settings.config import (
    MOST_MICRO_BATCH_TOKENS,
    ExplainConfig,
    ExplanationConfig,
    check_explain,
    default_model,
)
from expo_lite.step.explain import judge, leaks, refusals
from expo_lite.step.rollout import roll_out, stream_seed
from expo_lite.tasks import load_task


def run_explain(config: ExplainConfig) -> None:
    """Sample one explanation a problem, judge it and print it.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong.
    """
    check_explain(config)
    located = locate(
        config.model or default_model(),
        base_model=config.base_model,
        bits=config.bits,
        backend=config.backend,
        sampler=config.sampler,
    )
    tokens = config.max_completion_tokens or located.max_completion_tokens
    params = SamplingParams(config.temperature, tokens, config.top_p, config.sampling_rows)
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        levels = config.levels or task.levels[-1:]
        problems = task.problems(config.split, levels=levels, limit=config.n, seed=config.seed)
        policy = load_policy(located.model, located.policy, seed=config.seed, adapter=located.adapter)
        seed = stream_seed(config.seed, "explain")
        attempts = roll_out(policy, task, to_explain=problems, group_size=1, params=params, seed=seed).attempts
    filters = ExplanationConfig(explanation_filter=config.explanation_filter)
    explanations = judge(policy, attempts, filters, token_budget=MOST_MICRO_BATCH_TOKENS)
    console = Console()
    for explanation in explanations:
        _show(explanation, console)
    n_accepted = sum(explanation.accepted for explanation in explanations)
    reasons = "".join(f", {reason} {count}" for reason, count in refusals(explanations).most_common())
    console.print(Rule())
    _say(console, f"{located.label}: {n_accepted} of {len(explanations)} explanations accepted{reasons}")


def _show(explanation: Explanation, console: Console) -> None:
    problem, completion = explanation.problem, explanation.completion
    level = "" if problem.level is None else f", level {problem.level}"
    console.print(Rule(f"{problem.problem_id}{level}", align="left"))
    found = "no final answer" if explanation.verdict.answer is None else f"answer {explanation.verdict.answer}"
    outcome = "accepted" if explanation.accepted else f"refused: {explanation.reason}"
    lift = "" if explanation.lift_nats is None else f", lift {explanation.lift_nats:+.2f} nats"
    leak = "talks about a given answer" if leaks(completion.text) else "no leak"
    _block(console, "question", [problem.question])
    _block(console, "reference answer", [problem.answer])
    _block(console, f"explanation, {len(completion.token_ids)} tokens", [completion.text.strip()])
    _block(console, "verdict", [f"{outcome} ({found}: {explanation.verdict.reason}; {leak}{lift})"])


def _block(console: Console, heading: str, lines: Iterable[str]) -> None:
    console.print(Text(heading, style="bold"))
    for line in lines:
        _say(console, line)
    _say(console, "")


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
