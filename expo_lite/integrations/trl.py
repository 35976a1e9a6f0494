"""ExP-GRPO in TRL's GRPOTrainer: where one card is not enough.

TRL samples, scores and updates, on as many processes as `accelerate launch` starts, with DDP, FSDP or DeepSpeed, and
with vLLM if asked. What is added: where all of a group are wrong, one more completion after question and right answer;
if it is accepted, -exp_sft_coef log pi of it after the question alone, averaged over the problems of the step.
Prompts, grading, gate, controls, schedule and normalisation are those of `expo-lite train`, and so are the
names of metrics.

Two methods of TRL's that are not public are extended: `_calculate_rewards`, for the rewards of whole groups are not in
what it hands on, and `_generate_and_score_completions`, after which explanations are sampled. `compute_loss` is
extended and not `_compute_loss`, since Unsloth replaces the latter. Held to TRL 1.15; other versions are refused.

What has run where: one and two processes on a CPU, and one under Unsloth's patched trainer there, in the tests. Nothing
of it has yet been run on a GPU.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch

from expo_lite.errors import ConfigError
from expo_lite.objectives import scheduled
from expo_lite.policy.base import having
from expo_lite.policy.batching import Row
from expo_lite.prompts import Turns, encode_question, question_turns, shown_turns
from expo_lite.records import Problem, Verdict
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.machine import how_to_install, installed_version
from expo_lite.settings.schema import changed, typed
from expo_lite.settings.train import check_filters, coefficient
from expo_lite.step.explain import fault_of_steps, with_wrong_answer
from expo_lite.tasks import Task
from expo_lite.tasks.base import steps_right

TESTED = ((1, 15), (1, 16))
"""The first version of TRL that fits, and the first that was not tried."""
FILTERS = ("verified", "arithmetic", "steps")
"""The filters of this trainer; the others are for `expo-lite train`."""
ACCEPTED = "accepted"


def check_version(found: str | None) -> None:
    """Raise ConfigError for a TRL that this has not been held against, or for none."""
    wanted = " and below ".join(".".join(map(str, bound)) for bound in TESTED)
    if found is None:
        raise ConfigError(f"expo_lite.integrations.trl needs TRL: {how_to_install('trl')}.")
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdecimal())
    if not TESTED[0] <= parts < TESTED[1]:
        raise ConfigError(f"TRL {found} is not among those that this was tested with: from {wanted}.")


check_version(installed_version("trl"))

from accelerate.utils import gather_object
from datasets import Dataset

_GRPO_TRAINER: Any = importlib.import_module("trl").GRPOTrainer  # half typed
_PATCHED = _GRPO_TRAINER.__name__.startswith("Unsloth")


class ExplainingGRPOTrainer(_GRPO_TRAINER):  # type: ignore[misc]
    """TRL's GRPOTrainer with self-explanations of the problems that it fails."""

    num_generations: int
    chat_template_kwargs: dict[str, Any]

    def __init__(
        self,
        model: Any,
        *,
        task: Task,
        problems: Sequence[Problem] | None = None,
        explanation: ExpoConfig | None = None,
        **given: Any,
    ) -> None:
        """Set up as TRL does, with the task's problems as data set and its grader as reward.

        Args:
            model: as for GRPOTrainer: a name or a model, plain or with an adapter.
            task: what grades (`load_task`, `task_from_rows`).
            problems: what to train on; default: all of the task's train split.
            explanation: coefficient, schedule, normalisation, gate (default: all-wrong) and filters.
            given: everything else that GRPOTrainer takes: args, peft_config, callbacks, rollout_func, ...

        Raises:
            ConfigError: a filter or another setting of `explanation` is one that only `expo-lite train` has.
        """
        self._task, self._explanation = task, explanation or ExpoConfig()
        _check(self._explanation)
        self._coef = coefficient("exp-grpo", self._explanation) or 0.0
        self._problems = list(problems if problems is not None else task.problems("train"))
        self._chains: list[tuple[list[Row], bool]] = []
        self._group_rewards = torch.empty(0)
        self._logps_BT: torch.Tensor | None = None
        rows = [{"prompt": question_turns(problem), "place": place} for place, problem in enumerate(self._problems)]
        super().__init__(model, reward_funcs=self.correct, train_dataset=Dataset.from_list(rows), **given)
        self.chat_template_kwargs = {**(self.chat_template_kwargs or {}), "enable_thinking": False}  # as we encode

    def correct(self, completions: Any, completion_ids: Any, place: Sequence[int], **_: Any) -> list[float]:
        """1.0 for a right final answer; a completion that was cut off has none."""
        return [
            self._judge(self._problems[number], said[0]["content"], ids).reward
            for said, ids, number in zip(completions, completion_ids, place, strict=True)
        ]

    def _judge(self, problem: Problem, text: str, ids: Sequence[int]) -> Verdict:
        return self._task.grade(problem, text, truncated=not ids or int(ids[-1]) not in self.eos_token_ids)

    def _calculate_rewards(self, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's, of all processes, and kept: a group's kind is not in what TRL hands on."""
        rewards: torch.Tensor = super()._calculate_rewards(inputs, *args, **kwargs)
        self._group_rewards = rewards[:, 0]
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """TRL's; in training then an explanation of each problem that wants one."""
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._chains = self._explained([int(row["place"]) for row in inputs])
        return output

    def _explained(self, places: list[int]) -> list[tuple[list[Row], bool]]:
        """This process's share of the accepted explanations for each micro-batch, and whether any process has some.

        A forward pass is one of all processes (FSDP gathers weights in it), and so is generating: each does as many.
        """
        n_processes, me = self.accelerator.num_processes, self.accelerator.process_index
        rewards_PG = self._group_rewards.reshape(-1, self.num_generations)
        asked = gather_object(places)[:: self.num_generations]
        is_wrong, is_right = (rewards_PG < 1).all(1).tolist(), (rewards_PG == 1).all(1).tolist()
        self._log("frac_all_wrong", is_wrong)
        self._log("frac_all_correct", is_right)
        self._log("frac_mixed", [not (wrong or right) for wrong, right in zip(is_wrong, is_right, strict=True)])
        gated = self._explanation.explain != "all"
        wanted = [place for place, wrong in zip(asked, is_wrong, strict=True) if wrong or not gated]
        n_slots = self.args.steps_per_generation
        if not wanted or not self._coef:
            return [([], False)] * n_slots
        n_each = -(-len(wanted) // n_processes)
        own = wanted[me::n_processes]
        accepted = self._sampled(own, [*own, *wanted[:1] * (n_each - len(own))], len(asked))
        counts = gather_object([len(accepted)])
        needed = {slot for n in counts for slot in spread(n, n_slots)}
        slots = spread(len(accepted), n_slots)
        return [
            ([row for row, place in zip(accepted, slots, strict=True) if place == slot], slot in needed)
            for slot in range(n_slots)
        ]

    def _sampled(self, own: list[int], to_sample: list[int], n_problems: int) -> list[Row]:
        """Sample an explanation of each problem `to_sample`; those of `own` that pass are ready to be trained on."""
        shown = [self._shown(self._problems[place]) for place in to_sample]
        before = {name: list(values) for name, values in self._metrics["train"].items()}
        with having(self, num_generations=1):
            _, ids_of, _, said, *_ = self._generate(shown)
        # lengths and truncation of rollouts stay those of rollouts
        self._metrics["train"].update({n: v for n, v in before.items() if n != "num_tokens"})
        progress = self.state.global_step / max(self.state.max_steps, 1)
        settings = self._explanation
        in_force = scheduled(self._coef, schedule=settings.exp_sft_schedule, progress=progress)
        # an optimiser step that sees only a part of what was generated averages over the problems of that part
        n_seen = n_problems * self.args.gradient_accumulation_steps / self.args.steps_per_generation
        rows, reasons = [], []
        for place, ids, completion in list(zip(to_sample, ids_of, said, strict=True))[: len(own)]:
            problem, text = self._problems[place], completion[0]["content"]
            reasons.append(self._reason(problem, text, ids))
            if reasons[-1] == ACCEPTED:
                weight = in_force / n_seen
                weight /= len(ids) if settings.exp_sft_normalisation == "token" else 1
                question = encode_question(self.processing_class, problem)
                rows.append(Row(question, tuple(map(int, ids)), sft_weight=weight))
        reasons = gather_object(reasons)
        for reason in {ACCEPTED, *reasons}:
            name = "explanation_accept_rate" if reason == ACCEPTED else f"refused/{reason}"
            self._log(f"expo/{name}", [found == reason for found in reasons])
        self._log("expo/sft_coef", [in_force])
        return rows

    def _shown(self, problem: Problem) -> Turns:
        """The turns after which a problem is explained, or what a control has in their place."""
        if self._explanation.explain_with == "wrong-answer":
            problem = with_wrong_answer(problem, self._problems, self.args.seed + self.state.global_step)
        return shown_turns(problem, self._explanation.explain_with)

    def _reason(self, problem: Problem, text: str, ids: Sequence[int]) -> str:
        """Why an explanation is refused, as in step/explain.py."""
        if "none" in self._explanation.explanation_filter:
            return ACCEPTED  # a control is trained on as it is
        verdict = self._judge(problem, text, ids)
        if not verdict.correct:
            return verdict.reason
        valid = steps_right(self._task, problem, text)
        return fault_of_steps(self._explanation.explanation_filter, self._task, problem, text, valid) or ACCEPTED

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's loss, and the term of this micro-batch's explanations."""
        self._logps_BT = None
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training:
            return loss
        if self._logps_BT is not None:  # Unsloth's loss and Liger's keep them to themselves
            self._log_nats("sampling/nll", self._logps_BT[inputs["completion_mask"].bool()])
        if not self._chains:
            return loss
        rows, needed = self._chains[self._step % self.args.steps_per_generation]
        return loss + self._chain_loss(model, rows) if needed else loss

    def _chain_loss(self, model: Any, rows: Sequence[Row]) -> torch.Tensor:
        """The weighted -log pi of the rows' tokens; of none, 0 with a gradient of 0: every process has a pass.

        Gradients are averaged over processes, and these weights are those of a sum: so the sum is multiplied.
        """
        shown = rows or [Row((self._tokenizer.pad_token_id,), (self._tokenizer.pad_token_id,))]
        ids_BT, mask_BT, weights_BT, n_kept = padded(shown, self._tokenizer.pad_token_id, self.accelerator.device)
        if _PATCHED:  # Unsloth's own scorer has no gradient, and leaves its models giving hidden states as logits
            os.environ["UNSLOTH_RETURN_HIDDEN_STATES"] = "0"
            logps_BT: Any = self._plain_logps(model, ids_BT, mask_BT, n_kept)[0]
        else:
            logps_BT = self._get_per_token_logps_and_entropies(model, ids_BT, mask_BT, n_kept)[0]
        self._log_nats("expo/sft_loss", logps_BT.detach()[weights_BT[:, -n_kept:] > 0])
        loss: torch.Tensor = -(weights_BT[:, -n_kept:] * logps_BT).sum() * self.accelerator.num_processes
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
        """TRL's, whose kernel needs a GPU; on a CPU the same in plain torch. Unsloth's is left as it is."""
        found: tuple[torch.Tensor | None, ...]
        if _PATCHED or self.accelerator.device.type != "cpu":
            found = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        else:
            entropy = bool(kwargs.get("compute_entropy"))
            found = (*self._plain_logps(model, input_ids, attention_mask, logits_to_keep, entropy=entropy), None)
        self._logps_BT = None if found[0] is None else found[0].detach()
        return found

    def _plain_logps(
        self, model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_kept: int, *, entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities of the last `n_kept` positions and, if asked, entropies, by a forward pass of the model."""
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, -n_kept - 1 : -1].float()
        all_BTV = torch.log_softmax(logits_BTV / self.temperature, -1)
        with torch.no_grad():
            entropies_BT = -(all_BTV.exp() * all_BTV).sum(-1) if entropy else None
        return all_BTV.gather(-1, ids_BT[:, -n_kept:, None])[..., 0], entropies_BT

    def _log_nats(self, name: str, logps_N: torch.Tensor) -> None:
        """The mean negative log-likelihood of these tokens and of those of all other processes, nats."""
        own = torch.stack([-logps_N.sum(), torch.tensor(float(logps_N.numel()), device=logps_N.device)])
        nats, n_tokens = self.accelerator.gather(own).reshape(-1, 2).sum(0).tolist()
        if n_tokens:  # of explanations there are none where the schedule has come to 0
            self._log(name, [nats / n_tokens])

    def _log(self, name: str, values: Sequence[float]) -> None:
        self._metrics["train"][name].append(sum(values) / len(values))


def spread(n: int, n_slots: int) -> list[int]:
    """The slot of each of `n` things, evenly: an optimiser step may see a part of the slots alone."""
    return [i * n_slots // n for i in range(n)]


def padded(
    rows: Sequence[Row], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Ids, mask and weights [B, T] of rows, prompts padded on the left and completions on the right, as TRL has them.

    The last number is how many positions, from the end, belong to completions.
    """
    n_prompt = max(len(row.prompt_ids) for row in rows)
    n_kept = max(len(row.completion_ids) for row in rows)
    ids, mask, weights = [], [], []
    for row in rows:
        left, right = n_prompt - len(row.prompt_ids), n_kept - len(row.completion_ids)
        ids.append([pad_id] * left + [*row.prompt_ids, *row.completion_ids] + [pad_id] * right)
        mask.append([0] * left + [1] * (len(row.prompt_ids) + len(row.completion_ids)) + [0] * right)
        weights.append([0.0] * n_prompt + [row.sft_weight] * len(row.completion_ids) + [0.0] * right)
    ids_BT, mask_BT, weights_BT = (torch.tensor(each, device=device) for each in (ids, mask, weights))
    return ids_BT, mask_BT, weights_BT, n_kept


def _check(settings: ExpoConfig) -> None:
    typed(settings)
    check_filters(settings.explanation_filter)
    own = ("explanation_refresh_steps", "explanations_per_problem", "explanation_temperature", "explanation_prompt",
           "teacher", "train_context")  # fmt: skip
    allowed = FILTERS if settings.explain_with == "answer" else (*FILTERS, "none")
    foreign = [name for name in settings.explanation_filter if name not in allowed]
    if foreign:
        names = ", ".join(foreign)
        raise ConfigError(f"explanation_filter {names} is for `expo-lite train`; here: {', '.join(allowed)}.")
    if other := [name for name in own if name in changed(settings)]:
        raise ConfigError(f"{', '.join(other)} is for `expo-lite train` only.")
