"""The page in headless Chromium: opened without an error, drawn, filtered, narrow and wide, light and dark.

Skipped where there is no Chromium with its driver (Debian: `apt-get install chromium chromium-driver`).
"""

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_run import make_run
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from expo_lite.commands import cli
from expo_lite.settings.metrics import SECTIONS
from expo_lite.settings.plans import ReplicateConfig
from expo_lite.sweep.plan import read_plan
from expo_lite.sweep.report import SweepReport
from expo_lite.sweep.run import collect_results

EVIL = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
STEPS, PROBLEMS = 4, 3

pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="no chromium with chromedriver is installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a", steps=STEPS, problems=PROBLEMS, text=EVIL)


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return report_of(folder)


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> Iterator[webdriver.Chrome]:
    show(browser, report)
    yield browser
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def report_of(*folders: Path) -> Path:
    file = folders[0] / "report.html"
    assert cli.run(["report", *map(str, folders), "--output", str(file)]) == 0
    return file


def show(browser: webdriver.Chrome, file: Path) -> None:
    """Open a page from disk; back when figures and samples are there."""
    browser.get(file.as_uri())
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(READY))


READY = "return document.documentElement.dataset.ready === 'yes'"
DRAWN = """
const shown = [...document.querySelectorAll("canvas")].filter((canvas) => !canvas.closest("details:not([open])"));
return shown.map((canvas) => {
  const chart = Chart.getChart(canvas);
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d", { willReadFrequently: true }); // or Chromium warns
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return chart ? chart.data.datasets.length * pixels.some((value) => value > 0) : 0;
});
"""


FITS = "return innerWidth === arguments[0] && document.documentElement.scrollWidth <= innerWidth"


def screen_of(width: int) -> dict[str, Any]:
    return {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 700}


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def find(browser: webdriver.Chrome, css: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, css)


def click(browser: webdriver.Chrome, css: str) -> None:
    """By script, for the bar of links stays on top of whatever is scrolled below it."""
    browser.execute_script("arguments[0].click()", find(browser, css))


def choose(browser: webdriver.Chrome, name: str, value: str) -> None:
    Select(find(browser, f"#filters [name={name}]")).select_by_value(value)


def test_it_opens_without_a_request_and_every_curve_is_drawn(page: webdriver.Chrome) -> None:
    assert page.title == "a - expo-lite report"
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    drawn = page.execute_script(DRAWN)
    assert len(drawn) > 8
    assert all(n >= 1 for n in drawn)
    click(page, "#curves details:last-of-type summary")  # other metrics
    WebDriverWait(page, 10).until(lambda _: len(page.execute_script(DRAWN)) > len(drawn))
    assert all(n >= 1 for n in page.execute_script(DRAWN))


def test_prompts_are_shown_as_the_model_read_them(page: webdriver.Chrome) -> None:
    for kind, asked in (("rollout", "{0} + {0}? Box it."), ("explanation", "{0} + {0}? It is {1}.")):
        choose(page, "kind", kind)
        first = page.find_elements(By.CSS_SELECTOR, "#list pre")[0].text
        assert first in [f"<user>What is {asked.format(i, 2 * i)}<assistant>" for i in range(PROBLEMS)]
    assert find(page, "#asked pre").text.endswith("? Box it.<assistant>")


def test_what_a_model_wrote_stays_text(page: webdriver.Chrome) -> None:
    written = [block.text for block in page.find_elements(By.CSS_SELECTOR, "#list pre")]
    assert any(EVIL in text for text in written)
    assert len(page.find_elements(By.CSS_SELECTOR, "#list details")) > 0  # a prompt is unfolded once for its problem
    assert page.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    # a browser that was made to put it into the page as markup would still not run it
    page.execute_script("document.getElementById('count').innerHTML = arguments[0]", EVIL)
    assert page.title == "a - expo-lite report"
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))  # type: ignore[no-untyped-call]


CHOICES: list[tuple[dict[str, str], Callable[[Any], bool]]] = [
    ({}, lambda row: True),
    ({"kind": "explanation"}, lambda row: row["kind"] == "explanation"),
    ({"verdict": "right"}, lambda row: row["correct"]),
    ({"verdict": "refused"}, lambda row: row.get("accepted") is False),
    ({"verdict": "reason different"}, lambda row: row["reason"] == "different"),
    (
        {"level": "1", "kind": "rollout", "verdict": "wrong"},
        lambda r: r["level"] == 1 and r["kind"] == "rollout" and not r["correct"],
    ),
]


def test_choices(page: webdriver.Chrome, folder: Path) -> None:
    rows = samples(folder)
    for chosen, fits in CHOICES:
        expected = sum(map(bool, map(fits, rows)))
        assert expected > 0
        for name in ("kind", "verdict", "level"):
            choose(page, name, chosen.get(name, ""))
        assert find(page, "#count").text == f"{expected} of {len(rows)} samples"
        assert len(page.find_elements(By.CSS_SELECTOR, "#list article")) == min(expected, 10)


def test_steps_text_and_clear(page: webdriver.Chrome, folder: Path) -> None:
    rows = samples(folder)
    find(page, "[name=from]").send_keys("2")
    find(page, "[name=to]").send_keys("3")
    assert find(page, "#count").text == f"{sum(row['step'] in (2, 3) for row in rows)} of {len(rows)} samples"
    find(page, "[name=text]").send_keys("WHAT IS 1 + 1")
    expected = sum(row["step"] in (2, 3) and row["problem_id"] == "made/1" for row in rows)
    assert find(page, "#count").text == f"{expected} of {len(rows)} samples"
    assert {mark.text for mark in page.find_elements(By.CSS_SELECTOR, "#list mark")} == {"What is 1 + 1"}
    click(page, "#filters [type=reset]")
    WebDriverWait(page, 10).until(lambda _: find(page, "#count").text == f"{len(rows)} of {len(rows)} samples")


def test_the_same_problem_early_and_late(page: webdriver.Chrome) -> None:
    sides = [Select(find(page, f"#{side}")) for side in ("left", "right")]
    assert [side.first_selected_option.text for side in sides] == ["step 1", f"step {STEPS}"]
    # 4 rollouts and 1 explanation a side
    for side in ("left", "right"):
        assert len(page.find_elements(By.CSS_SELECTOR, f"#{side}-list article")) == 5
    assert len(Select(find(page, "#problem")).options) == PROBLEMS
    click(page, "#list article:first-child .head button")
    named = find(page, "#list article:first-child .head code").text
    assert named in Select(find(page, "#problem")).first_selected_option.text
    sides[0].select_by_visible_text("step 2")
    assert "of 4 tries in this file are right" in find(page, "#left-list").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_and_follows_light_and_dark(page: webdriver.Chrome, scheme: str) -> None:
    wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    try:
        for width in (320, 1280):
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen_of(width))
            wait_until_it_fits(page, width)
            click(page, "#theme")  # light
            assert lightness(page)
            click(page, "#theme")  # dark
            assert not lightness(page)
            click(page, "#theme")  # as the system is
            assert lightness(page) == (scheme == "light")
            assert all(n >= 1 for n in page.execute_script(DRAWN))
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def wait_until_it_fits(page: webdriver.Chrome, width: int) -> None:
    """Curves follow the window a moment later."""
    WebDriverWait(page, 10).until(lambda _: page.execute_script(FITS, width))


def lightness(page: webdriver.Chrome) -> bool:
    """Check that paper is light and ink dark."""
    script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    paper, ink = (sum(map(int, colour[4:-1].split(","))) for colour in page.execute_script(script))
    assert abs(paper - ink) > 300  # of 765: read with ease either way
    return bool(paper > ink)


def test_several_runs(browser: webdriver.Chrome, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", steps=3), make_run(tmp_path / "b", steps=3, method="grpo")
    show(browser, report_of(a, b))
    labels = browser.execute_script(
        "return Chart.getChart(document.querySelector('canvas[data-chart]')).data.datasets.map((d) => d.label)"
    )
    assert labels == ["a", "b"]  # rewards
    choose(browser, "run", "1")
    assert find(browser, "#count").text == f"{len(samples(b))} of {len(samples(a)) + len(samples(b))} samples"
    assert "method" in find(browser, "#settings table").text
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_figures_are_saved_and_problems_lead_to_their_samples(browser: webdriver.Chrome, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=3)
    row = samples(run)[0] | {"problem_id": "held/0", "kind": "sample"}
    (run / "evaluation" / "step-000003").mkdir()
    (run / "evaluation" / "step-000003" / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (run / "evaluation" / "step-000003" / "config.json").write_text('{"settings": {}}')
    show(browser, report_of(run))
    won = find(browser, "#results .two .card")
    assert won.text.splitlines()[:2] == ["Won: 1 problem, never right before, right after", "held/0"]
    click(browser, "[data-problem] button")
    assert find(browser, "#count").text.startswith("1 of ")
    assert find(browser, "#list article code").text == "held/0"

    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    forms = ("svg", "png", "csv")
    for form in forms:
        click(browser, f"[aria-label='Save Groups as {form.upper()}']")
    WebDriverWait(browser, 20).until(lambda _: all((tmp_path / f"a - Groups.{form}").exists() for form in forms))
    drawing = (tmp_path / "a - Groups.svg").read_text()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    assert {"Groups", "step", "all wrong", "mixed", "all right", "100%"} <= set(texts)
    assert drawing.count("<path") > 10
    assert (tmp_path / "a - Groups.png").read_bytes().startswith(b"\x89PNG")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with (tmp_path / "a - Groups.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "mixed"]
    assert [float(row["value"]) for row in rows] == pytest.approx([row["frac_mixed"] for row in metrics], rel=1e-4)
    click(browser, "#results .scroll + .take button")
    name = "a - The same as a table_ percent, with 95_ intervals.csv"
    WebDriverWait(browser, 20).until(lambda _: (tmp_path / name).exists())
    assert (tmp_path / name).read_text().splitlines()[0] == "level,problems,,greedy,pass@1,pass@4"
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_no_two_lines_of_a_picture_look_alike(page: webdriver.Chrome) -> None:
    """Each panel with all its metrics, of one run, in light and in dark; a family counts as one."""
    script = """const series = arguments[0].map((colour, place) => ({ colour, place, run: 0 }));
    return series.map((each) => looks({ series }, each, true).colour)"""
    panels = {panel.title: panel.metrics for _, panels in SECTIONS for panel in panels}
    for _ in range(2):
        click(page, "#theme")
        for title, metrics in panels.items():
            found = page.execute_script(script, [metric.colour for metric in metrics])
            points = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in found]
            for pair in itertools.combinations(points, 2):
                assert sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) > 40**2, (title, found)


PLAN = """
seeds = [0, 1]
diagnose_problems = 1
[common]
steps = 3
[runs.grpo]
method = "grpo"
[runs."<b>exp-grpo"]
method = "exp-grpo"
"""


def test_a_sweep(browser: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    config = ReplicateConfig(model="tiny", output=tmp_path / "out")
    plan = read_plan(tmp_path / "plan.toml", config)
    for run in plan.configs():
        make_run(run.output, steps=3, method=run.method, seed=run.seed)
    *_, file = SweepReport.of(plan, collect_results(plan), {"grpo-seed1": EVIL}).write()
    browser.get(file.as_uri())
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(READY))
    assert browser.title == "The paper's claims on tiny, hidden-rules - expo-lite report"
    assert all(n >= 1 for n in browser.execute_script(DRAWN))
    labels = (
        "return Chart.getChart(document.querySelectorAll('canvas')[arguments[0]]).data.datasets.map((d) => d.label)"
    )
    assert browser.execute_script(labels, 0) == ["before training", "grpo", "<b>exp-grpo"]
    assert browser.execute_script(labels, 1) == ["grpo"] * 3 + ["<b>exp-grpo"] * 3  # each with the ends of its band
    click(browser, "#choice input[value='0']")
    assert browser.execute_script(labels, 0) == ["before training", "<b>exp-grpo"]
    assert browser.execute_script(labels, 1) == ["<b>exp-grpo"] * 3
    assert "not measured" in find(browser, "#judged1").text
    assert EVIL in find(browser, "#overview").text
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen_of(320))
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(FITS, 320))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
