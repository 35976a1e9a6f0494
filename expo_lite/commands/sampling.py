"""What eval and hard share: the samples of a run or model, kept while they come, with a progress bar."""

import gc
import json
from typing import TYPE_CHECKING

from rich.console import Console

from expo_lite.memory.exhausted import check_address_space
from expo_lite.run.progress import completion_bar, working
from expo_lite.run.target import Target
from expo_lite.settings.machine import importing
from expo_lite.terminal import say, warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expo_lite.measure.samples import SampleFolder, SampleSpec
    from expo_lite.policy.base import Policy
    from expo_lite.records import Problem
    from expo_lite.results.figures import GradedProblem
    from expo_lite.tasks import Task

REWARDS = "rewards.jsonl"


def import_torch(console: Console) -> None:
    """Import torch now, which takes seconds, and say so. Not transformers: Unsloth may have to come before it.

    Raises:
        ModelError: the memory that this process may have is too little for any model.
    """
    with working(console, "starting"), importing("torch"):
        import torch  # noqa: F401
    check_address_space()


def sampled_problems(
    targets: "Sequence[Target]", problems: "list[Problem]", max_completion_tokens: int, console: Console
) -> "list[Problem]":
    """The problems that fit into the context of every target; only the tokenizers are loaded, where they are needed."""
    with working(console, "reading the tokenizer"), importing("transformers"):
        from expo_lite.memory.context import fitting
        from expo_lite.policy.load import load_tokenizer

    for target in targets:
        problems = fitting(
            problems,
            target.model,
            max_completion_tokens,
            tokenizer=lambda model=target.model: load_tokenizer(model),  # type: ignore[misc]
            warn=warning(console),
        )
    return problems


def say_device(console: Console) -> None:
    """Print what everything is going to be computed on; raises ConfigError where there is a GPU that cannot be used."""
    from expo_lite.policy.device import describe, find_device

    say(console, f"device: {describe(find_device())}")


def graded_target(
    target: Target, spec: "SampleSpec", task: "Task", folder: "SampleFolder", console: Console
) -> "list[GradedProblem]":
    """Sample what the folder lacks, and write the rewards; the policy is loaded only if something is lacking."""
    import torch

    from expo_lite.measure.samples import graded_problems
    from expo_lite.memory.limits import fitted_policy
    from expo_lite.policy.factory import load_policy
    from expo_lite.run.folder import locked, make_folder

    say(console, f"{target.label}: {spec.n_completions:,} completions of {len(spec.problems):,} problems")
    say_device(console)
    settings, limits = fitted_policy(target.model, target.policy, spec.params, warning(console))
    loaded: list[Policy] = []
    with completion_bar(console, "completions", spec.n_completions) as bar:

        def policy() -> "Policy":
            if not loaded:
                loaded.append(load_policy(target.model, settings, seed=0, adapter=target.adapter))
                loaded[0].on_ended = bar.ended
            return loaded[0]

        if not folder.path.exists():
            policy()  # a model that cannot be loaded leaves no folder
            make_folder(folder.path)
        with locked(folder.path):
            graded = graded_problems(spec, task, policy, limits=limits, folder=folder, advance=bar)
    rewards = ({"prompt_id": m.problem.problem_id, "rewards": [float(s.correct) for s in m.samples]} for m in graded)
    folder.write(REWARDS, map(json.dumps, rewards))
    loaded.clear()
    gc.collect()  # a second policy needs the room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return graded
