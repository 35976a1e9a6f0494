"""The plan command and the shipped sizes: what is printed, how fast, and that the sizes are the models' own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from expo_lite.commands import cli
from expo_lite.commands import plan as plan_command
from expo_lite.errors import ConfigError, ModelError
from expo_lite.memory import hours
from expo_lite.memory.plan import GIB, Workload, plan_for
from expo_lite.memory.shapes import ALIASES_FILE, find_shape, shape_of
from expo_lite.settings.models import PRESETS
from expo_lite.settings.plans import PlanConfig
from expo_lite.settings.schema import from_mapping, toml_values
from expo_lite.settings.train import TrainConfig, resolve

ROOT = Path(__file__).parent.parent
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-4b-2507": 4_022_468_096,
    "qwen3.5-0.8b": 752_393_024,
    "qwen3.5-2b": 1_881_825_088,
    "qwen3.5-4b": 4_205_751_296,
    "qwen3.5-9b": 8_953_803_264,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "gemma-4-e2b": 4_628_569_344,
    "gemma-4-e4b": 7_463_013_376,
    "ministral-3-3b": 3_429_006_336,
    "ministral-3-8b": 8_489_553_920,
    "smollm3-3b": 3_075_098_624,
    "phi-4-mini": 3_836_021_760,
}
"""Parameters of the published weights, a tied head counted once; of models that also see those of the language part."""

CONFIGS: dict[str, dict[str, Any]] = json.loads(ALIASES_FILE.read_text())


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = cli.run(["plan", *words])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_every_alias_has_its_published_number_of_parameters() -> None:
    assert {"tiny", *PUBLISHED} == set(PRESETS)
    for alias, n_parameters in PUBLISHED.items():
        assert find_shape(alias).n_parameters == n_parameters
    for alias in PUBLISHED:  # the name of the source is as good
        assert find_shape(PRESETS[alias].source) == find_shape(alias)


@pytest.mark.parametrize(
    "alias", ["qwen2.5-7b", "qwen3-0.6b", "llama-3.2-1b", "gemma-3-270m", "qwen3.5-0.8b", "phi-4-mini"]
)
def test_transformers_makes_the_same_model_of_these_sizes(alias: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = dict(CONFIGS[alias])
    with torch.device("meta"):
        hub: Any = CONFIG_MAPPING[config.pop("model_type")](**config)
        model: Any = AutoModelForCausalLM.from_config(hub)  # type: ignore[no-untyped-call]
    assert sum(p.numel() for p in model.parameters()) == find_shape(alias).n_parameters


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "--model", "qwen2.5-3b", "--vram", "24")
    assert "qwen2.5-3b (3,085.9M parameters) in 24 GiB of GPU" in text
    lines = [line.split() for line in text.splitlines()]
    (header,) = (line for line in lines if line[:1] == ["GiB"])
    assert header[1:] == ["load", "sampling", "scoring", "update", "resume"]
    (peaks,) = (line[1:] for line in lines if line[:1] == ["peak"])
    found = json.loads(output(capsys, "--model", "qwen2.5-3b", "--vram", "24", "--json"))
    for name, shown in zip(header[1:], peaks, strict=True):
        phase = found["phases"][name]
        assert float(shown) == pytest.approx(phase["peak_gib"], abs=5e-4)
        assert sum(phase["parts_gib"].values()) == pytest.approx(phase["peak_gib"])
    assert "It fits" in text
    assert "micro_batch_tokens 3840, update_keeps activations" in text
    assert f"tokens: {found['longest_completion_tokens']} tokens" in text


def test_download_disk_and_hours_are_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "qwen2.5-3b", "--vram", "24")
    found = json.loads(output(capsys, *words, "--json"))
    n = 3_085_938_688
    assert found["download_gb"] == pytest.approx(2 * n / 1e9)
    adapter_gb = 36 * 16 * (2 * 4096 + 2 * (2048 + 256) + 3 * (2048 + 11008)) * 4 / 1e9  # q and o, k and v, the MLP
    assert found["disk_gb"] == pytest.approx(2 * n / 1e9 + 3 * 3 * adapter_gb)
    assert found["settings"]["update_keeps"] == "activations"
    # by an RTX 4090's data sheet; a step has 64 completions of at most 1,024 tokens, then 8 explanations
    read_a_second, operations_a_second = 0.5 * 1008e9, 0.4 * 165.2e12
    projections = 36 * (2048 * (2 * 2048 + 2 * 256) + 3 * 2048 * 11008)
    weights, cached = projections + 151_936 * 2048, 2 * 2 * 36 * 256 * (256 + 512 / 2)
    sampling_s = (2 * 1024 * 2 * weights + 72 * 512 * cached) / read_a_second
    assert found["sampling_s"] == pytest.approx(sampling_s)
    # a pass forward over 72 rows; twice that, and the weights twice from four bits for each micro-batch of 3,840 tokens
    scoring_s, n_batches = 2 * weights * 72 * (256 + 512) / operations_a_second, 15
    update_s = 2 * scoring_s + n_batches * 2 * 4.5 * projections / read_a_second
    assert (found["scoring_s"], found["update_s"]) == (pytest.approx(scoring_s), pytest.approx(update_s))
    # 3,400 completions with 240 slots: the products take longer than the reading
    evaluations_s = 2 * 2 * weights * 3400 * 512 / operations_a_second
    assert found["evaluations_s"] == pytest.approx(evaluations_s)
    assert found["hours"] == pytest.approx((300 * (sampling_s + update_s) + evaluations_s) / 3600)
    text = output(capsys, *words)
    assert "Download: 6.2 GB. Disk: 7.2 GB with the run folder, and some 6 GB for torch" in text
    assert "Time on RTX 4090: some 3.2 hours for 300 steps" in text and "This is arithmetic, not measured" in text
    assert "A step: sampling 26 s, update 11 s; scoring its rows once (--kl-coef, exp-dpo): 5 s more." in text
    assert output(capsys, "--model", "qwen2.5-3b", "--card", "4090") == text
    assert "Download" not in output(capsys, "--model", "tiny", "--vram", "24")  # it is in the package


def test_a_card_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "qwen2.5-0.5b", "--json")
    slow, fast = (json.loads(output(capsys, *words, "--card", name)) for name in ("3060", "H100"))
    assert (slow["memory_gib"], fast["memory_gib"]) == (12, 80)
    # the same reading, and of the update's two parts the one more and the other less than by the ratio of operations
    assert slow["sampling_s"] / fast["sampling_s"] == pytest.approx(3350 / 360)
    assert slow["scoring_s"] / fast["scoring_s"] == pytest.approx(989 / 25.5)
    other = json.loads(output(capsys, *words, "--card", "3060", "--vram", "10"))
    assert (other["memory_gib"], other["sampling_s"]) == (10, slow["sampling_s"])
    assert cli.run(["plan", "--model", "tiny", "--card", "490"]) == 2
    assert "Unknown card '490'. Did you mean '4090'? Known are 3060, " in capsys.readouterr().err


def test_cards_that_keep_less_take_longer() -> None:
    """The last of many rows start late: 20 rows in 8 slots take as many positions as one row and 12 of the mean."""
    shape, samples = find_shape("qwen2.5-0.5b"), hours.Samples(20, 256, 512, 1024)
    weights, cached = 2 * hours.matrix_weights(shape), 2 * 2 * 24 * 128
    read = (1024 + 12 * 512 / 8) * weights + 20 * 512 * (256 + 256) * cached
    assert hours.decoding_bytes(shape, samples, 8) == read
    kept = {}
    for gib, recomputes in ((24, False), (24, True)):
        plan = plan_for(shape, Workload(recomputes=recomputes), gib * GIB, "own")
        kept[plan.keeps] = hours.update_s(plan, samples, hours.CARDS["4090"])
    assert kept["inputs"] / kept["activations"] == pytest.approx(2.85 / 2, rel=0.05)


def test_what_does_not_fit_is_an_error_after_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--vram", "4"], ["--vram", "3", "4"], ["--vram", "4", "--json"]):
        assert cli.run(["plan", "--model", "qwen2.5-7b", *words]) == 1
        said = capsys.readouterr()
        assert "qwen2.5-7b" in said.out and "Time" not in said.out
        assert said.err.startswith("error: It does not fit: it needs ")


SHORTER, NATIVE = "a smaller --max-completion-tokens", "--sampler native"


@pytest.mark.parametrize(
    ("words", "remedies"),
    [
        ("--vram 4", ""),  # not even loaded
        ("--vram 4 --sampler native", ""),
        ("--vram 8 --max-completion-tokens 4000", f" or {SHORTER}"),
        ("--vram 8 --max-completion-tokens 4000 --sampler native", f" or {SHORTER}"),
        ("--vram 8 --sampler own", f" or {NATIVE}"),  # 12 GiB of it are the dense copy
        ("--vram 8 --sampler own --max-completion-tokens 4000", f" or {SHORTER} with {NATIVE}"),
        ("--vram 12 --sampling-rows 256", " or fewer --sampling-rows"),
        ("--vram 12 --micro-batch-tokens 90000", " or fewer --micro-batch-tokens"),
    ],
)
def test_only_what_helps_is_named_where_nothing_fits(
    words: str, remedies: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["plan", "--model", "qwen2.5-7b", *words.split()]) == 1
    assert capsys.readouterr().err.endswith(f". Take a smaller --model{remedies}.\n")


@pytest.mark.parametrize(("used", "warns"), [("12", False), ("1331", True), ("[N/A]", False)])
def test_a_card_that_draws_the_desktop(
    used: str, warns: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"memory.total": ["24564"], "memory.used": [used]}
    monkeypatch.setattr("expo_lite.commands.plan.has_gpu", lambda: True)
    monkeypatch.setattr("expo_lite.commands.plan.ask_driver", answers.__getitem__)
    line = "warning: 1.3 GiB of the card are in use, by the desktop or other programs. train counts what is free: "
    assert (f"{line}--vram 22.7 plans with it." in output(capsys, "--model", "qwen2.5-3b")) is warns


def cells(text: str) -> list[list[str]]:
    """The rows of all Markdown tables in a text."""
    lines = [line.strip() for line in text.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_comparison_as_markdown_and_the_tables_made_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cells(output(capsys, "--model", "all", "--vram", "6", "8", "12", "16", "24"))
    assert rows[0] == ["model", "parameters", "6 GiB", "8 GiB", "12 GiB", "16 GiB", "24 GiB"]
    assert set(rows[1][1]) <= {"-", ":"}
    assert [row[0] for row in rows[2:]] == list(PRESETS)
    assert dict(zip(rows[0], rows[2 + list(PRESETS).index("qwen2.5-7b")], strict=True))["6 GiB"] == "-"
    guide = cells((ROOT / "examples" / "guides" / "memory.md").read_text(encoding="utf-8"))
    assert [guide[0], *guide[2:]] == [row[:2] + row[3:] for row in (rows[0], *rows[2:])]
    cards = [row for row in cells((ROOT / "README.md").read_text(encoding="utf-8")) if row[0] in rows[0]]
    assert [card[0] for card in cards] == rows[0][3:]
    for card in cards:
        printed = {row[0]: row[rows[0].index(card[0])] for row in rows[2:]}
        fitting = (name for name in printed if int(printed[name].split(" / ")[-1].replace("-", "0")) >= 1024)
        largest = max(fitting, key=lambda name: find_shape(name).n_parameters)
        shown = [(card[1].strip("`"), card[2].split()[0].strip(",")), *re.findall(r"`(\S+)` \(([\d,]+)\)", card[3])]
        assert (shown[0][0], len(shown) > 1) == (largest, True)
        for name, tokens in shown:
            assert tokens == f"{int(printed[name].split(' / ')[2]):,}", (card[0], name)


def test_sizes_that_are_not_here_can_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--model", "someone/no-such-model", "--vram", "24"]) == 1
    assert "Fetch them with `hf download someone/no-such-model config.json`" in capsys.readouterr().err


def test_a_model_in_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not known here"):
        find_shape("some/model")
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIGS["qwen3-4b"]))
    assert find_shape("some/model") == shape_of(CONFIGS["qwen3-4b"])


@pytest.mark.parametrize("text", ["{}", "no"])
def test_a_folder_with_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="is not the configuration of a Llama-like model"):
        find_shape(str(tmp_path))


def test_without_vram_the_machine_s_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_command, "has_gpu", lambda: False)
    monkeypatch.setattr(plan_command, "ram_bytes", lambda: 5 * GIB)
    assert plan_command.machine(()) == ("cpu", [5.0])
    assert plan_command.machine((8.0,)) == ("gpu", [8.0])


def test_the_gpu_s_memory_is_asked_of_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_command, "has_gpu", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="Give it in GiB, as --vram 24"):
        plan_command.machine(())
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\n")
    tool.chmod(0o755)
    assert plan_command.machine(()) == ("gpu", [24.0])


def test_the_roofline_of_the_guide_is_what_its_script_prints() -> None:
    """And by hand: Qwen2.5-0.5B has 24 layers of widths 896 and 4,864, 2 key heads of 64 and 151,936 tokens."""
    examples = ROOT / "examples"
    done = subprocess.run([sys.executable, str(examples / "roofline.py")], capture_output=True, text=True, check=True)
    guide = (examples / "guides" / "speed.md").read_text(encoding="utf-8")
    for name, shown in zip(("roofline", "updates"), done.stdout.strip().split("\n\n"), strict=True):
        assert f"<!-- {name} -->\n{shown}\n<!-- /{name} -->" in guide
    weights = 2 * (24 * (896 * (896 + 2 * 128) + 896 * 896 + 3 * 896 * 4864) + 151_936 * 896)
    read = 1024 * weights + 72 * 512 * (256 + 256) * (2 * 2 * 24 * 128)
    assert f"| `qwen2.5-0.5b` | {weights / 1e9:.1f} | {read / 1e12:.2f} | {read / 936e9:.1f} |" in done.stdout


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_the_recipes_fit_the_cards_that_they_are_for(gib: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "examples" / "recipes" / f"{gib}gb.toml"
    recipe = from_mapping(TrainConfig, toml_values(file), str(file))
    config = resolve(recipe)
    tokens = config.sampling.max_completion_tokens
    planned = plan_command.planned_model(
        config.model, gib, "gpu", PlanConfig(group_size=config.group_size, max_completion_tokens=tokens)
    )
    assert planned.plan.fits
    assert planned.longest >= tokens
    assert f"--config examples/recipes/{gib}gb.toml" in file.read_text()
    commands = re.findall(r"^#   uv run expo-lite (.+)$", file.read_text(), re.MULTILINE)
    for command in commands:
        assert cli.parse(command.replace("examples/recipes", str(file.parent)).split())
    assert cli.run(["plan", "--config", str(file), "--vram", str(gib)]) == 0  # it takes what it knows of the file
    assert f"{config.model} (" in (out := capsys.readouterr().out)
    assert f"max_completion_tokens {tokens}," in out


MISTRAL = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "max_position_embeddings": 32768,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "card", "n_rows", "mean"),
    [("qwen2.5-3b", "t4", 8, 183), ("llama-3.2-3b", "a100-40", 32, 203), ("mistral-7b", "4090", 6, 189)],
)
def test_the_recipes_of_published_times_say_what_the_arithmetic_gives(
    name: str, card: str, n_rows: int, mean: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--mistralai--Mistral-7B-Instruct-v0.3" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(MISTRAL))
    file = ROOT / "examples" / "recipes" / f"unsloth-{name}.toml"
    config = resolve(from_mapping(TrainConfig, toml_values(file), str(file)))
    assert config.problems_per_step * config.group_size == n_rows
    assert config.policy.bits is not None and config.sampling.max_completion_tokens is not None
    plan = plan_for(
        find_shape(config.model),
        Workload(
            bits=config.policy.bits,
            lora_rank=config.policy.lora_rank,
            group_size=config.group_size,
            completion_tokens=config.sampling.max_completion_tokens,
        ),
        hours.CARDS[card].memory_gib * GIB,
        config.policy.sampler,
    )
    assert plan.fits
    samples = hours.Samples(n_rows, 150, mean, config.sampling.max_completion_tokens)
    parts = {"sampling": hours.sampling_s, "update": hours.update_s, "reference": hours.scoring_s}
    said = [f"{part} {seconds(plan, samples, hours.CARDS[card]):.1f} s" for part, seconds in parts.items()]
    text = file.read_text(encoding="utf-8")
    assert ", ".join(said) in text.replace("\n# ", " ")
    assert "Not run on a card yet." in text and f"plan --card {card}" in text and f"completions of {mean} on" in text
    assert cli.parse(["train", "--config", str(file)])


def test_a_file_for_train_that_is_wrong_is_refused_by_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('task = "math"\nsteps = "many"\n')
    assert cli.run(["plan", "--config", str(tmp_path / "a.toml"), "--vram", "24"]) == 2
    assert "a.toml: steps must be a valid integer, not 'many'" in capsys.readouterr().err
