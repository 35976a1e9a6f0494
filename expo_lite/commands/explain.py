"""`expo-lite explain`: self-explanations of some problems, as training would sample and judge them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.rule import Rule

from expo_lite.commands.command import ConfiguredCommand, Inline, measured_problems, prompts_of, suggested, target_of
from expo_lite.commands.sampling import import_torch
from expo_lite.grading import Grader
from expo_lite.run.progress import completion_bar, working
from expo_lite.run.target import params_of
from expo_lite.settings.measuring import DiagnoseConfig, ExplainConfig, check_measuring
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal, say, warning

if TYPE_CHECKING:
    from expo_lite.records import Explanation


@dataclass(frozen=True, kw_only=True)
class Explain(ConfiguredCommand):
    """Print self-explanations of some problems, with what becomes of each."""

    settings: Annotated[ExplainConfig, Inline]

    def run(self) -> None:
        """Sample one explanation of each problem, judge it and print it.

        Raises:
            ExpoLiteError: whatever can be foreseen to go wrong.
        """
        config = self.settings
        check_measuring(config)
        console = Terminal()
        target = target_of(config, config.model)
        prompts = prompts_of(config, target)
        params = params_of(config, target)
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            levels = config.levels or task.levels[-1:]
            problems = measured_problems(task, config, prompts, console, levels=levels, seed=config.seed)
            import_torch(console)
            from expo_lite.commands.sampling import say_device
            from expo_lite.measure.explaining import sample_attempts
            from expo_lite.memory.context import fitting
            from expo_lite.memory.limits import fitted_policy
            from expo_lite.policy.base import listening
            from expo_lite.policy.factory import load_policy
            from expo_lite.step.explain import best, refusals
            from expo_lite.step.rederive import judge_within

            say(console, f"{target.label}: explaining {len(problems)} problems ...")
            say_device(console)
            warn = warning(console)
            settings, limits = fitted_policy(target.model, target.policy, params, warn)
            with working(console, f"loading {target.label}"):
                policy = load_policy(target.model, settings, seed=config.seed, adapter=target.adapter)
            tokens = params.max_completion_tokens
            problems = fitting(problems, target.model, tokens, tokenizer=lambda: policy.tokenizer, warn=warn)
            with completion_bar(console, "sampling", len(problems)) as bar, listening(policy, bar.ended):
                attempts = sample_attempts(
                    policy,
                    task,
                    problems,
                    config,
                    params,
                    limits,
                    explain_with=config.explain_with,
                    stream="explain",
                )
            with working(console, "judging"):
                judged = judge_within(policy, task, attempts, config.explaining, params=params, limits=limits)
            explanations = [best(candidates) for candidates in judged]
        for explanation in explanations:
            _show(explanation, console)
        n_accepted = sum(explanation.accepted for explanation in explanations)
        reasons = "".join(f", {reason} {count}" for reason, count in refusals(explanations).most_common())
        console.print(Rule())
        say(console, f"{target.label}: {n_accepted} of {len(explanations)} explanations accepted{reasons}")
        line = suggested("diagnose", DiagnoseConfig(), config, config.model or target.model)
        say(console, f"are they good examples? {line}")


def _show(explanation: "Explanation", console: Console) -> None:
    problem, completion = explanation.problem, explanation.completion
    level = "" if problem.level is None else f", level {problem.level}"
    console.print(Rule(f"{problem.problem_id}{level}", align="left"))
    found = "no final answer" if explanation.verdict.answer is None else f"answer {explanation.verdict.answer}"
    outcome = "accepted" if explanation.accepted else f"refused: {explanation.reason}"
    lift = "" if explanation.lift_nats is None else f", lift {explanation.lift_nats:+.2f} nats"
    _block(console, "question", [problem.question])
    _block(console, "reference answer", [problem.answer])
    _block(console, f"explanation, {len(completion.token_ids)} tokens", [completion.text.strip()])
    _block(console, "verdict", [f"{outcome} ({found}: {explanation.verdict.reason}{lift})"])


def _block(console: Console, heading: str, lines: Iterable[str]) -> None:
    console.print(heading, style="bold")
    for line in lines:
        say(console, line)
    say(console, "")
