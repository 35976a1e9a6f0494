"""Run once on a machine with a GPU: checks every backend and sampler there, and measures their speed and memory.

What is measured is a step of training as it comes: 72 completions of at most 1,024 tokens (64 on a CPU), with the
micro-batches and rows that the memory plan chooses, as `expo-lite train` does it.

    uv run python examples/check_gpu.py [MODEL] [--tokens N] [--json FILE]

MODEL is an alias or folder as for `expo-lite train` (default: qwen2.5-3b with a GPU, tiny without). Without a GPU the
same checks run on the CPU, and the table says what was skipped. Each backend runs in a process of its own, for Unsloth
patches transformers. Exit code 0: nothing failed.

What has been run on a GPU: nothing yet, by us. Please send us what it prints (with --json).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.machine import default_model, has_gpu, is_installed, prepare_torch

COMBINATIONS = (("hf", "own"), ("hf", "native"), ("unsloth", "own"), ("unsloth", "native"))
QUESTIONS = ("3 + 4", "12 + 7 - 3", "5 * (12 + 7) - 3 + 40", "2 * 88 - 15 + 4 - 31 + 6 * 12 - (3 + 9) * 2 + 17")
GROUP_SIZE = 9
"""Eight completions and an explanation, of as many prompts as there are questions, twice: 72."""
NIGHT_STEPS = 300
NORM_TOLERANCE = {"cpu": 1e-3, "gpu": 0.1}
"""Relative, between the gradients of two backends on the same rows: fp32, bf16."""
FIXED = "First add the numbers. Then take away what is to be taken away, and so on. The answer is \\boxed{7}."
TIMEOUT_S = 3600
SAID_LINES = 30
"""The last lines of the errors of a process that failed."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; `status` is ok, FAILED, skipped or measured."""

    backend: str
    what: str
    status: str
    detail: str = ""
    value: float | None = None
    """The figure, where there is one: seconds of a step, a gradient's norm."""


def why_not(backend: str) -> str:
    """Why a backend cannot run on this machine; '' if it can."""
    if backend == "unsloth" and not is_installed("unsloth"):
        return "unsloth is not installed (extra 'unsloth')"
    return ""


def reset_peak_memory() -> None:
    """Count the GPU's peak anew; resident memory cannot be."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def check(name: str, backend: str, sampler: str, n_tokens: int, shared: Path) -> list[Finding]:
    """Check one backend and sampler in this process; `shared` holds the adapter that the first one wrote."""
    import torch

    from expo_lite.memory.limits import Limits, fitted, peak_memory_gib, peak_reserved_gib
    from expo_lite.memory.plan import CONTEXT, GIB, MOST_MICRO_BATCH_TOKENS, MOST_SAMPLING_ROWS, Workload, phases
    from expo_lite.memory.shapes import find_shape
    from expo_lite.policy.batching import Row
    from expo_lite.policy.factory import load_policy
    from expo_lite.policy.scoring import score_rows
    from expo_lite.policy.self_check import self_check
    from expo_lite.prompts import encode_explanation, encode_question
    from expo_lite.records import Problem, SampleRequest, SamplingParams
    from expo_lite.settings.groups import RolloutConfig
    from expo_lite.settings.train import TrainConfig, resolve
    from expo_lite.step.learn import learn, make_optimizer

    found: list[Finding] = []
    label = f"{backend}, {sampler}"

    def note(what: str, status: str, detail: str, value: float | None = None) -> None:
        found.append(Finding(label, what, status, detail, value))

    def peak() -> str:
        """Allocated; on a GPU reserved memory too, which has the pools of CUDA graphs in it."""
        reserved = f" ({peak_reserved_gib():.2f} reserved)" if kind == "gpu" else ""
        return f"{peak_memory_gib():.2f} GiB{reserved}"

    def holds(what: str, test: Callable[[], tuple[bool, str]]) -> None:
        try:
            right, detail = test()
        except Exception as error:  # noqa: BLE001 (a table of everything that fails is the point)
            right, detail = False, f"{type(error).__name__}: {error}"
        note(what, "ok" if right else "FAILED", detail)

    started = time.perf_counter()
    asked = PolicyConfig(backend=backend, sampler=sampler)  # type: ignore[arg-type]
    config, plan = fitted(
        resolve(TrainConfig(model=name, policy=asked, sampling=RolloutConfig(max_completion_tokens=n_tokens)))
    )
    policy = load_policy(name, config.policy, seed=0)
    tolerance = 1e-4 if policy.device.type == "cpu" else 0.1  # mean nats a token: fp32, bf16
    load_s, load_gib = time.perf_counter() - started, peak_memory_gib()
    problems = [Problem(str(i), question, "7") for i, question in enumerate(QUESTIONS)]
    prompts = [encode(policy.tokenizer, p) for p in problems for encode in (encode_question, encode_explanation)]

    kind = policy.device.type if policy.device.type == "cpu" else "gpu"
    longest = max(len(prompt) for prompt in prompts)
    workload = Workload(
        kind=kind,  # type: ignore[arg-type]
        group_size=GROUP_SIZE,
        prompt_tokens=longest,
        completion_tokens=n_tokens,
        sampler=sampler,  # type: ignore[arg-type]
    )
    n_rows = min(GROUP_SIZE * len(prompts), config.sampling.sampling_rows or MOST_SAMPLING_ROWS)
    tokens = config.optimizer.micro_batch_tokens or MOST_MICRO_BATCH_TOKENS
    limits = Limits.of(config, keeps=plan.keeps if plan else "inputs")
    # what is measured is the allocator's, which does not see the context
    unseen = CONTEXT["gpu"] if kind == "gpu" else 0.0
    planned = {
        p.name: (p.peak - unseen) / GIB for p in phases(find_shape(name), workload, tokens, n_rows, limits.keeps)
    }
    note("load", "measured", f"{load_s:.1f} s, peak {load_gib:.2f} GiB, planned {planned['load']:.2f}")

    def agreement() -> tuple[bool, str]:
        mean = self_check(policy, prompts, temperature=1.0, token_budget=16_384)
        return mean < tolerance, f"{mean:.1e} nats a token"

    holds("sampler against scorer, fresh adapter", agreement)

    requests = [SampleRequest(prompt, GROUP_SIZE) for prompt in prompts]
    reset_peak_memory()
    started = time.perf_counter()
    sampled = policy.sample(requests, SamplingParams(1.0, n_tokens, rows=n_rows), seed=0)
    sampling_s = took_s = time.perf_counter() - started
    completions = [completion for row in sampled for completion in row]
    n = sum(len(completion.token_ids) for completion in completions)
    note(
        "sampling",
        "measured",
        f"{n / took_s:,.0f} tokens/s, peak {peak()}, planned {planned['sampling']:.2f}",
    )

    rows = [
        Row(c.prompt_ids, c.token_ids, advantage=(-1.0) ** i, weight=1 / n, sampler_logprobs=c.logprobs)
        for i, c in enumerate(completions)
    ]
    optimizer = make_optimizer(policy, config)
    before = torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=16_384))
    reset_peak_memory()
    started = time.perf_counter()
    first = config.optimizer.warmup_steps
    metrics = learn(policy, optimizer, rows, config, step=first, last_good="none", limits=limits)
    took_s = time.perf_counter() - started
    speed = metrics["update/n_tokens"] / took_s
    note(
        "update",
        "measured",
        f"{speed:,.0f} tokens/s, keeps {limits.keeps}, peak {peak()}, planned {planned['update']:.2f}",
    )
    step_s = sampling_s + took_s
    hours = step_s * NIGHT_STEPS / 3600
    about = f"{step_s:.1f} s, {n_rows} rows at once; {NIGHT_STEPS} steps: {hours:.1f} h, without evaluations"
    note("a step of training", "measured", about, step_s)
    mean = metrics["sampling/logp_difference/mean"]
    holds("what is trained is what was sampled", lambda: (mean < tolerance, f"{mean:.1e} nats a token"))

    def reference() -> tuple[bool, str]:
        with policy.reference():
            off = torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=16_384))
        moved = float((torch.cat(score_rows(policy, rows, temperature=1.0, token_budget=16_384)) - before).abs().mean())
        apart = float((off - before).abs().mean())
        return apart < tolerance / 10 and moved > 0, f"base moved by {apart:.1e}, policy by {moved:.1e} nats a token"

    holds("the adapter off is the base model", reference)
    holds("sampler against scorer, after an update", agreement)

    def adapter() -> tuple[bool, str]:
        if not shared.exists():
            shared.mkdir()
            policy.save_adapter(shared)
            return True, "written"
        policy.load_adapter(shared)
        own = shared.with_name(label.replace(", ", "-"))
        own.mkdir()
        policy.save_adapter(own)
        return (own / "adapter_model.safetensors").exists(), "another backend's read, own written"

    holds("adapters are exchanged", adapter)
    fixed = (*policy.tokenizer.encode(FIXED, add_special_tokens=False), policy.end_id)
    same = [Row(prompt, fixed, advantage=1.0, weight=1 / (len(prompts) * len(fixed))) for prompt in prompts]
    norm = learn(policy, make_optimizer(policy, config), same, config, step=0, last_good="none")["grad_norm"]
    note("gradient's norm on fixed rows", "measured", f"{norm:.6g}", norm)
    policy.load_adapter(shared)
    holds("sampler against scorer, that adapter", agreement)
    return found


def norms_agree(found: list[Finding]) -> list[Finding]:
    """Check that all backends give the same rows the same gradient, against the first one."""
    norms = [(f.backend, f.value) for f in found if f.what.startswith("gradient's norm") and f.value is not None]
    if len(norms) < 2:
        return []
    tolerance = NORM_TOLERANCE["gpu" if has_gpu() else "cpu"]
    (first, own), *others = norms
    worst = max(abs(value / own - 1) for _, value in others)
    detail = f"{len(norms)} norms differ from that of '{first}' by {worst:.1e} at most"
    return [Finding("all", "gradients are the same", "ok" if worst < tolerance else "FAILED", detail)]


def in_own_process(words: list[str], label: str) -> list[Finding]:
    """The findings of `check` in a new process; a process that dies is one of them."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, *words, "--json", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)  # noqa: S603
        except subprocess.TimeoutExpired:
            return [Finding(label, "run", "FAILED", f"no end after {TIMEOUT_S} s")]
        if done.returncode:
            said = "\n".join(done.stderr.strip().splitlines()[-SAID_LINES:]) or "no message"
            return [Finding(label, "run", "FAILED", f"exit code {done.returncode}: {said}")]
        return [Finding(**row) for row in json.loads(Path(file.name).read_text(encoding="utf-8"))["findings"]]


def machine() -> str:
    """The device and the versions, asked in another process: this one takes no memory of the GPU."""
    command = [sys.executable, "-c", "import check_gpu; print(check_gpu.this_machine())"]
    folder = Path(__file__).parent
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()  # noqa: S603


def this_machine() -> str:
    """The device and the versions."""
    import importlib.metadata

    import torch

    names = ("torch", "transformers", "peft", "bitsandbytes", "unsloth")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names if is_installed(name)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device += f", {torch.cuda.mem_get_info()[1] / 2**30:.1f} GiB"
    return f"{device}; {', '.join(versions)}"


def main() -> int:
    """Run every combination, print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default=default_model())
    usual = 1024 if has_gpu() else 64
    parser.add_argument(
        "--tokens", type=int, default=usual, help=f"longest completion when speed is measured ({usual})"
    )
    parser.add_argument("--json", type=Path, help="file to write the findings to")
    parser.add_argument("--only", nargs=3, metavar=("BACKEND", "SAMPLER", "SHARED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    prepare_torch(os.environ)  # torch's allocator as `train` has it
    console = Console()
    found: list[Finding] = []
    about = ""
    if given.only:
        backend, sampler, shared = given.only
        found = check(given.model, backend, sampler, given.tokens, Path(shared))
    else:
        about = machine()
        console.print(f"{given.model} on {about}", highlight=False)
        with tempfile.TemporaryDirectory() as folder:
            for backend, sampler in COMBINATIONS:
                label, reason = f"{backend}, {sampler}", why_not(backend)
                console.print(f"{label} ..." if not reason else f"{label}: skipped", highlight=False)
                words = [given.model, "--tokens", str(given.tokens), "--only", backend, sampler, f"{folder}/shared"]
                found += [Finding(label, "all", "skipped", reason)] if reason else in_own_process(words, label)
        found += norms_agree(found)
        table = Table("backend, sampler", "what", "", "detail")
        for finding in found:
            table.add_row(finding.backend, finding.what, finding.status, finding.detail)
        console.print(table)
    if given.json:
        run = {"model": given.model, "tokens": given.tokens, "machine": about}
        rows = [asdict(finding) for finding in found]
        given.json.write_text(json.dumps(run | {"findings": rows}, indent=2) + "\n", encoding="utf-8")
    return 0 if given.only or all(finding.status != "FAILED" for finding in found) else 1


if __name__ == "__main__":
    sys.exit(main())
