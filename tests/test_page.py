"""The page as text: everything in it, nothing fetched, nothing that a model wrote in its markup, small enough."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_run import make_run

from expo_lite.commands import cli
from expo_lite.report import page as page_module
from expo_lite.report.page import render
from expo_lite.results.record import read_runs

EVIL = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


class Parts(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def page_of(*folders: Path) -> str:
    return render(read_runs(folders))[0]


def test_nothing_is_fetched(tmp_path: Path) -> None:
    tags = Parts(page_of(make_run(tmp_path / "a"))).tags
    assert not [tag for tag, _ in tags if tag in ("link", "img", "iframe", "object", "embed", "audio", "video", "base")]
    assert not [attributes for _, attributes in tags if {"src", "srcset", "action", "data"} & attributes.keys()]
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in tags)
    (policy,) = [a["content"] for tag, a in tags if tag == "meta" and a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert (
        len(re.findall(r"'sha256-[\w+/]{43}='", policy)) == sum(tag == "script" for tag, _ in tags) - 2
    )  # two hold data


def test_what_models_and_folders_say_is_never_markup(tmp_path: Path) -> None:
    name = "a<b>&"
    plain = Parts(page_of(make_run(tmp_path / "plain"))).tags
    html = page_of(make_run(tmp_path / name, text=EVIL))
    assert "owned" not in html  # packed and compressed
    assert [tag for tag, _ in Parts(html).tags] == [tag for tag, _ in plain]
    assert "a&lt;b&gt;&amp;" in html
    assert name not in html


def test_settings_versions_and_differences_are_in_it(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", method="grpo", seed=7))
    rows = re.findall(r"<tr><th>(\S+)</th><td class=\"text\">(.*?)</td><td class=\"text\">(.*?)</td></tr>", html)
    assert rows[:2] == [("method", "exp-grpo", "grpo"), ("seed", "0", "7")]
    assert rows[2:] == [("explanation.exp_sft_coef", "0.04", "unset")]
    assert "<span>policy.lora_rank</span> <b>16</b>" in html
    assert "<span>torch</span>" in html
    assert "b minus a" in html


def test_a_run_without_metrics_samples_and_evaluations_has_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    for file in [folder / "metrics.jsonl", folder / "samples.jsonl", *(folder / "evaluation").iterdir()]:
        file.unlink()
    html = page_of(folder)
    assert 'id="results"' not in html
    assert 'id="curves"' not in html
    assert "This run has kept no samples." in html


def test_a_report_is_never_larger_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1_500_000  # Chart.js is 0.9 MB of it
    monkeypatch.setattr(page_module, "MOST_BYTES", limit)
    # 60 x 3 x 5 samples of 400 words that no compression can do much about
    folder = make_run(tmp_path / "a", steps=60, words=400)
    html, samples = render(read_runs([folder]))
    assert 0.9 * limit < len(html.encode()) <= limit
    assert 0 < samples.n_kept < samples.n_all == 900
    assert f"{samples.n_all - samples.n_kept} were left out" in html


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert cli.run(["report", str(a)]) == 0
    assert f"open in a browser: {(a / 'report.html').as_uri()}" in capsys.readouterr().out
    assert (a / "report.html").read_text(encoding="utf-8") == page_of(a)
    assert cli.run(["report", str(a), str(b)]) == 0
    assert (tmp_path / "report.html").exists()
    assert cli.run(["report", str(a), "--output", str(tmp_path / "new" / "r.html")]) == 0
    assert (tmp_path / "new" / "r.html").exists()


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(tmp_path)]) == 1
    assert "There is no run in" in capsys.readouterr().err
    a = make_run(tmp_path / "a")
    assert cli.run(["report", str(a), "--output", str(a / "config.json" / "r.html")]) == 1
    assert "choose another --output" in capsys.readouterr().err
