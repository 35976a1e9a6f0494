"""The grader: extraction, equality of cases, hostile input, workers that die."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from expo_lite.commands.grade import Graded, grade_file
from expo_lite.errors import DataError
from expo_lite.grading import RULES, GradeItem, Grader, final_answer, judge
from expo_lite.grading.process import Worker
from expo_lite.grading.reading.extract import answer_start, gold_answer
from expo_lite.grading.reading.normalise import normalise

DATA = Path(__file__).parent / "data"


def sets(turn: int) -> str:
    """Thirteen sets that differ in one of their items, in either order (1 or -1)."""
    common = [f"{n}^x" for n in range(10, 30)]
    return ",".join("\\{" + ",".join([*common, f"{n}^x"][::turn]) + "\\}" for n in range(30, 43)[::turn])


SLOW = GradeItem(sets(1), f"\\boxed{{{sets(-1)}}}")
"""Equal, but to see that would take 15 s."""
EXAMPLES = Path(__file__).parent.parent / "examples"


class Case(NamedTuple):
    """A gold answer, another answer, and whether they are equal."""

    kind: str
    gold: str
    answer: str
    equal: bool

    @property
    def item(self) -> GradeItem:
        return GradeItem(self.gold, f"Therefore the answer is $\\boxed{{{self.answer}}}$.")


CASES = [Case(**json.loads(line)) for line in (DATA / "grading_cases.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as shared:
        yield shared


@pytest.fixture(scope="module")
def verdicts(grader: Grader) -> list[bool]:
    found = grader.grade_many([case.item for case in CASES])
    assert [verdict for verdict in found if verdict.how.startswith("failed")] == []
    return [verdict.correct for verdict in found]


@pytest.mark.parametrize(
    ("completion", "answer", "reason"),
    [
        (r"So \boxed{42}.", "42", "boxed"),
        (r"\boxed{1}, no: \boxed{2}", "2", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\fbox{7}", "7", "boxed"),
        (r"\boxed {7}", "7", "boxed"),
        (r"\boxed{ 7 }", "7", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed"),
        (r"\boxed{5} and then \boxed{6", None, "no_answer"),
        ("<think>\\boxed{5}</think> The answer is 6.", "6", "phrase"),
        ("<think>so it is \\boxed{5}", None, "no_answer"),
        (r"\boxed{\boxed{5}", "5", "boxed"),
        (r"$\boxed 5$", "5", "boxed"),
        (r"\boxed{}", None, "empty_answer"),
        (r"The answer is 4 but \boxed{5}", "5", "boxed"),
        ("so it is\n#### 1,234", "1,234", "hashes"),
        ("#### 1\nand\n#### 2", "1, 2", "hashes"),
        ("#### 1\n#### 2", "1, 2", "hashes"),
        ("####", None, "empty_answer"),
        (r"\boxed{-2} \quad \text{and} \quad \boxed{1}.", "-2, 1", "boxed"),
        (r"\boxed{1} papers and \boxed{2} bins", "1, 2", "boxed"),
        (r"Either \boxed{3} or \boxed{4}", r"3\text{ or }4", "boxed"),
        (r"\boxed{1}\boxed{2} \boxed{3}, \boxed{4}; \boxed{5}", "1, 2, 3, 4, 5", "boxed"),
        ("\\boxed{A}\n\\boxed{B}\n\\boxed{C}", "A, B, C", "boxed"),
        (r"\boxed{7} so again \boxed{7}", "7", "boxed"),
        (r"\boxed{1}. We check this by putting it back. Now for the other part, \boxed{2}", "2", "boxed"),
        (r"\boxed{41}. Wait, that is wrong. \boxed{42}", "42", "boxed"),
        (r"\boxed{3} + 4 = \boxed{7}", "7", "boxed"),
        (r"\boxed{1} but not \boxed{2}", None, "unclear_answer"),
        (r"\boxed{1} and not \boxed{2} and \boxed{3}", None, "unclear_answer"),
        (r"\boxed{1} instead of \boxed{2}", None, "unclear_answer"),
        (r"Not \boxed{2}", None, "unclear_answer"),
        (r"\boxed{2} is wrong", None, "unclear_answer"),
        (r"It is \boxed{3}. Perhaps it is \boxed{4}.", None, "unclear_answer"),
        (r"It could be \boxed{3}. Another possible value is \boxed{4}.", None, "unclear_answer"),
        (r"\boxed{" + r"} \boxed{".join("abcdefghijklmnop") + "}", None, "unclear_answer"),
        ("\\boxed{3}\n% \\boxed{4}", "3", "boxed"),
        (r"\boxed{3} <!-- \boxed{4} -->", "3", "boxed"),
        (r"<!-- \boxed{4}", None, "no_answer"),
        (r"20% of it, \boxed{4}", "4", "boxed"),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5", "phrase"),
        ("The final answer is 3.14.", "3.14", "phrase"),
        ("The answer is $\\frac{1}{2}$ because", "\\frac{1}{2}", "phrase"),
        ("**Final Answer:** 12 apples", "12 apples", "phrase"),
        ("Final answer:\n17", "17", "phrase"),
        ("The answer is 5. No, the answer is 6.", "6", "phrase"),
        ("I have no idea", None, "no_answer"),
        ("5", None, "no_answer"),
        ("", None, "no_answer"),
    ],
)
def test_final_answer(completion: str, answer: str | None, reason: str) -> None:
    assert final_answer(completion) == (answer, reason)


def test_the_answer_begins_where_the_first_of_its_boxes_does() -> None:
    assert answer_start(r"so \boxed{1} and \boxed{2}") == 3
    assert answer_start(r"\boxed{1}, thus \boxed{2}") == 16
    assert answer_start(r"the end is \boxed{1") == 11
    assert answer_start("It is 5.") is None


@pytest.mark.parametrize(
    ("gold", "answer"), [("42", "42"), (r"$\boxed{4}$", "4"), ("3 + 4 = <<3+4=7>>7\n#### 7", "7"), (" x ", "x")]
)
def test_gold_answer(gold: str, answer: str) -> None:
    assert gold_answer(gold) == answer


def test_the_cases(verdicts: list[bool]) -> None:
    assert [case for case, verdict in zip(CASES, verdicts, strict=True) if verdict != case.equal] == []


def test_equal_cases_are_equal_the_other_way_round(grader: Grader, verdicts: list[bool]) -> None:
    # A chain such as 7 = 8 is refused as an answer; as a reference it stands for its last side.
    paired = [(case, verdict) for case, verdict in zip(CASES, verdicts, strict=True) if case.kind != "contradiction"]
    turned = [GradeItem(case.answer, f"\\boxed{{{case.gold}}}") for case, _ in paired]
    one_way = [
        case for (case, verdict), back in zip(paired, grader.grade_many(turned), strict=True) if verdict != back.correct
    ]
    assert len(one_way) <= 0.03 * len(CASES), one_way


@pytest.mark.parametrize(
    ("gold", "answer", "how"),
    [
        ("42", " 42 ", "text"),
        ("1000", "1,000", "number"),
        (r"\frac12", "0.5", "number"),
        ("(1,2)", "(1.0, 2)", "tuple"),
        ("[1,2]", r"1 \le x \le 2", "interval"),
        ("Yes", "true", "named_answer"),
        ("B", "(B)", "choice"),
        ("3:4", "0.75", "ratio"),
        (r"\sqrt{8}", r"2\sqrt{2}", "expression"),
        ("5 cm^3", "5 cc", "number"),
        (r"5 \text{ cm}^ 2", "5 square centimeters", "number"),
    ],
)
def test_the_step_is_named(gold: str, answer: str, how: str) -> None:
    assert judge(gold, answer) == (True, how)


def test_the_guide_lists_the_rules() -> None:
    guide = (EXAMPLES / "guides" / "grading.md").read_text("utf-8")
    listed = guide.split("<!-- rules -->\n")[1].split("<!-- /rules -->")[0]
    assert listed == "".join(f"{n}. `{rule.name}`: {rule.line}\n" for n, rule in enumerate(RULES, start=1))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\infty", r"\infty+1"),
        (r"\infty", r"2\infty"),
        (r"\frac{1}{0}", r"\frac{2}{0}"),
        (r"\tan(\pi/2)", r"\tan(3\pi/2)"),
        (r"\infty-\infty", "0"),
        (r"\frac{\infty}{\infty}", "1"),
        ("i", "-i"),
        ("3+4i", "5"),
        ("3+4i", "4+3i"),
        (r"\sqrt{-1}", "1"),
        (r"\ln(-1)", "0"),
        (r"\frac{x}{0}", r"\frac{y}{0}"),
    ],
)
def test_what_is_not_finite_or_complex_equals_only_itself(gold: str, answer: str) -> None:
    assert not judge(gold, answer)[0]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2", "x^2+10^{-1000000}"),
        ("x", "x(1+10^{-300})"),
        ("x", r"x+\sin(10^{-300})"),
        ("x", r"x+\frac{\sqrt{2}}{10^{300}}"),
        ("x", r"x+\frac{\sqrt{2}}{10^{200}}"),
        ("x", r"x+\frac{\sqrt{2}}{10^{400}}"),
        ("x", r"x+e^{-1000}\sin(1)"),
        ("x", r"\sqrt{x^2+10^{-300}}"),
        (r"\sqrt2", r"\sqrt2+10^{-400}"),
        (r"\sqrt2", r"\sqrt2+e^{-1000}"),
        (r"10^{400}\sqrt2", r"10^{400}\sqrt2+1"),
    ],
)
def test_a_term_too_small_to_see_still_makes_a_difference(gold: str, answer: str) -> None:
    assert not judge(gold, answer)[0]
    assert not judge(answer, gold)[0]
    assert judge(r"1+\sqrt2", r"\sqrt2+1+\sin\pi")[0]  # what rounding leaves is no such term


def test_verdicts_name_reason_step_and_answer(grader: Grader) -> None:
    right = grader.grade(r"2\sqrt2", r"so \boxed{\sqrt{8}}")
    assert (right.correct, right.reason, right.how, right.answer) == (True, "equal", "expression", r"\sqrt{8}")
    wrong = grader.grade("5", r"\boxed{6}")
    assert (wrong.correct, wrong.reason, wrong.how) == (False, "different", "number")
    assert grader.grade("5", r"\boxed{5}", truncated=True).reason == "truncated"
    assert grader.grade("5", "five it is").reason == "no_answer"
    assert grader.grade("", r"\boxed{5}").reason == "no_gold"


def test_boxes_side_by_side_are_one_answer_and_none_of_them_counts_alone(grader: Grader) -> None:
    two = r"\boxed{-2} and \boxed{1}"
    assert grader.grade("1, -2", two).correct
    assert not grader.grade("1", two).correct
    assert not grader.grade("-2", two).correct
    assert grader.grade("2", r"\boxed{1} no no no no no no no \boxed{2}").correct
    assert grader.grade("5", "1 to 5: " + " ".join(rf"\boxed{{{n}}}" for n in range(1, 6))).how == "list"
    assert grader.grade(r"\frac12", r"$\boxed{\frac{1}{2}} = \boxed{0.5}$").correct
    assert not grader.grade("4", r"$\boxed{3} = \boxed{4}$").correct


HOSTILE = {
    "power tower": r"10^{10^{10}}",
    "higher tower": r"10^{10^{10^{10}}}",
    "sine of a tower": r"\sin(10^{10^{9}})",
    "long sum": r"\sum_{k=1}^{1000000} \frac{\sin k}{k}",
    "endless sum": r"\sum_{k=1}^{\infty} \frac{1}{k^{7}+\sin k}",
    "integral": r"\int_0^{1000} e^{\sin x^{x}} \, dx",
    "factorials": "((((9!)!)!)!)!",
    "long number": "9" * 50_000,
    "big number": "7" * 1500,
    "power of decimals": "1.0000001^{99999999999}",
    "nested fractions": r"\frac{1}{" * 150 + "1" + "}" * 150,
    "brackets": "(" * 900 + ")" * 900,
    "minus signs": "-" * 1900 + "1",
    "commas": "1," * 900,
    "plus-minus": r"\pm1" * 300,
    "nested roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "NUL": "5\x00\x005",
    "lone surrogate": "\ud800\udfff 5",
    "right to left": "\u202e5\u200b",
    "nonsense": r"\frac{}{}\sqrt[]{}^_{\left(",
    "many units": "5 " + "cm " * 400,
    "many equals": "x=" * 600 + "1",
    "bars": "|" * 1200,
    "spaces": " " * 1000 + "1" + " " * 800,
    "sums to expand": "(x+y+z+w)^{400}",
    "texts": r"\text{a}" * 200,
    "roots without braces": r"\sqrt" * 400 + "2",
    "functions of functions": r"\sin" * 400 + "x",
    "signed factors": "2*" + "-" * 700 + "1",
    "signed exponent": "x^" + "-" * 700 + "1",
    "member of a member": r"x \in " * 400 + "[1,2]",
    "barred decimals": r"0.\overline{3}" * 100,
    "hours": "1 hour " * 300,
    "open blackboard letter": r"x \in \mathbb{R \mathbb \mathbb{",
    "equals signs and parentheses": "((()))=_=" * 60,
}

ENDLESS = {
    "a truncated reply": r"The answer is $x \in \mathbb{R",
    "a check below a line": "\\boxed{18}.\n" + "=" * 44 + "\n**Check:** \\boxed{18}",
    "two boxes and a line": "\\boxed{18}.\n" + "=" * 44 + "\n**Check:** \\boxed{19}",
    "underscores": r"\boxed{1}" + "_" * 60 + r"\boxed{2}",
    "brackets between": r"\boxed{1}" + "()" * 40 + r"!\boxed{2}",
    "letters between": r"\boxed{1}" + "a" * 30 + r"!\boxed{2}",
    "names between": r"\boxed{1}" + "x=" * 30 + r"!\boxed{2}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_replies_that_were_once_read_for_ever(name: str, grader: Grader) -> None:
    start = time.monotonic()
    grader.grade("18", ENDLESS[name])
    grader.grade(ENDLESS[name], r"\boxed{18}")
    normalise(ENDLESS[name])
    assert time.monotonic() - start < 1.0


def test_rounded_answers_count_only_where_it_is_asked_for() -> None:
    pairs = [("4.667", r"\frac{14}{3}"), ("3.14159", r"\pi"), ("0.333", "0.33333"), ("1.000", "0.9999")]
    never = [("4.667", "4.66"), (r"\frac{14}{3}", "4.667"), ("5", "4.9999"), ("0.3", "0.30001"), ("3.1416", "3.141")]
    with Grader() as exact, Grader(rounding="gold") as rounded:
        assert not any(exact.grade(gold, f"\\boxed{{{answer}}}").correct for gold, answer in pairs + never)
        assert [rounded.grade(gold, f"\\boxed{{{answer}}}").how for gold, answer in pairs] == ["rounded"] * 4
        assert not any(rounded.grade(gold, f"\\boxed{{{answer}}}").correct for gold, answer in never)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Grader]:
    with Grader(n_workers=1, timeout_s=0.7) as shared:
        yield shared


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_get_a_verdict_within_the_limit(name: str, impatient: Grader) -> None:
    impatient.grade(r"\sqrt{2}", rf"\boxed{{\sqrt{{{3 + list(HOSTILE).index(name)}}}}}")  # a loaded worker
    start = time.monotonic()
    verdict = impatient.grade(r"\sqrt{2}", "\\boxed{" + HOSTILE[name] + "}")
    assert time.monotonic() - start < 8
    assert not verdict.correct
    json.dumps(verdict.answer).encode()
    (verdict.answer or "").encode("utf-8")


@pytest.mark.parametrize(
    "completion",
    [
        "{" * 100_000,
        "\\boxed{" * 14_000,
        "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
        "}" * 100_000,
        "the answer is " * 7000,
    ],
    ids=["open", "boxes", "nested", "closed", "phrases"],
)
def test_long_completions_are_read_in_linear_time(completion: str, grader: Grader) -> None:
    start = time.monotonic()
    assert not grader.grade("5", completion).correct
    assert not grader.grade(completion, r"\boxed{5}").correct
    assert time.monotonic() - start < 2.0


def test_too_slow_is_killed_and_the_next_answer_is_judged() -> None:
    with Grader(n_workers=1, timeout_s=0.5) as small:
        assert small.grade(r"\sqrt8", r"\boxed{2\sqrt2}").correct
        assert small.grade(SLOW.gold, SLOW.completion).reason == "timeout"
        assert small.grade(r"\sqrt8", r"\boxed{\sqrt{4}\sqrt{2}}").correct


def test_after_a_timeout_a_spare_worker_answers_while_the_next_one_starts() -> None:
    with Grader(n_workers=1, timeout_s=1.0) as small:
        started = time.monotonic()
        small.grade(r"\sqrt8", r"\boxed{2\sqrt2}")
        start_s = time.monotonic() - started
        time.sleep(2 * start_s)  # the spare starts
        started = time.monotonic()
        assert small.grade(SLOW.gold, SLOW.completion).reason == "timeout"
        timed_out = time.monotonic()
        assert small.grade(r"\sqrt8", r"\boxed{\sqrt{4}\sqrt{2}}").correct
        assert timed_out - started < 2.5
        assert time.monotonic() - timed_out < start_s


WORKER = """
import os, signal, sys, time
from expo_lite.grading.process import serve

def reply(question):
    what = question["what"]
    if what == "spin":
        7 ** 10**9
    if what == "sleep":
        time.sleep(60)
    if what == "memory":
        bytes(2**33)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"pid": os.getpid()}

serve(reply, memory_mib=4096)
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    path = tmp_path_factory.mktemp("worker") / "answers.py"
    path.write_text(WORKER)
    worker = Worker(str(path), limit_s=0.3)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("what", "error"),
    [("spin", "timeout"), ("sleep", "timeout"), ("memory", "out_of_memory"), ("crash", "worker_died")],
)
def test_a_worker_that_fails_is_replaced_at_once(worker: Worker, what: str, error: str) -> None:
    first = worker.ask({"what": "pid"})["pid"]
    assert worker.ask({"what": "pid"})["pid"] == first
    asked = time.monotonic()
    assert worker.ask({"what": what}) == {"error": error}
    assert what != "sleep" or time.monotonic() - asked < 1.0  # 0.6 s by the clock
    successor = worker.pid
    assert successor not in (None, first)
    assert worker.ask({"what": "pid"})["pid"] == successor


def test_a_worker_that_somebody_kills_is_asked_again(worker: Worker) -> None:
    first = worker.ask({"what": "pid"})["pid"]
    os.kill(first, signal.SIGKILL)
    assert worker.ask({"what": "pid"})["pid"] != first


def test_a_worker_that_does_not_start_says_so(tmp_path: Path) -> None:
    worker = Worker(str(tmp_path / "nothing.py"), limit_s=1.0)
    assert worker.ask({}) == {"error": "not_started"}
    worker.close()


def test_workers_killed_under_load_lose_no_verdict() -> None:
    items = [GradeItem(rf"\sqrt{{{4 * n}}}", rf"\boxed{{2\sqrt{{{n}}}}}") for n in range(2, 400)]
    with Grader() as loaded:
        loaded.grade(items[0].gold, items[0].completion)
        done = threading.Event()
        killed: list[int] = []

        def kill_now_and_then() -> None:
            while len(killed) < 4 and not done.wait(0.15):
                for pid in loaded.worker_pids[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        verdicts = loaded.grade_many(items)
        done.set()
        killer.join()
    assert killed
    assert len(verdicts) == len(items)
    assert [verdict for verdict in verdicts if not verdict.correct] == []


def test_grading_from_threads(grader: Grader) -> None:
    results: list[bool] = []

    def work(start: int) -> None:
        for n in range(start, start + 5):
            results.append(grader.grade(rf"\sqrt{{{9 * n}}}", rf"\boxed{{3\sqrt{{{n}}}}}").correct)

    threads = [threading.Thread(target=work, args=(1000 * i + 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_workers_end_with_the_parent() -> None:
    code = (
        "from expo_lite.grading import Grader\n"
        "g = Grader(n_workers=1)\n"
        "assert g.grade(r'\\sqrt8', r'\\boxed{2\\sqrt2}').correct\n"
        "print(g.worker_pids[0], flush=True)\n"
        "import os; os._exit(0)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker is still running")


def test_nothing_here_imports_torch_and_importing_starts_no_worker() -> None:
    code = "import sys, expo_lite.grading; assert not {'torch', 'mpmath'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_throughput_on_gsm8k_like_answers(grader: Grader) -> None:
    items = [
        GradeItem(f"{n}", f"She has {n} left.\n#### {n + (n % 3 == 0):,}" if n % 2 else f"Thus \\boxed{{\\${n}.00}}")
        for n in range(1, 2001)
    ]
    start = time.monotonic()
    verdicts = grader.grade_many(items)
    assert len(items) / (time.monotonic() - start) > 500
    assert [v.correct for v in verdicts] == [not (n % 2 and n % 3 == 0) for n in range(1, 2001)]


def test_grade_file_writes_rows_in_order_and_reports(tmp_path: Path, grader: Grader) -> None:
    rows: list[dict[str, object]] = [
        {"gold": "5", "reply": r"\boxed{5}", "label": True, "id": "a"},
        {"gold": 7, "reply": "#### 8", "label": 0},
        {"gold": "x+1", "reply": r"\boxed{1+x}", "label": True},
        {"gold": "5", "reply": "no idea", "label": True},
        {"gold": "5", "reply": r"\boxed{5.0}", "label": False},
        {"gold": "5", "reply": r"\boxed{5}"},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    graded = grade_file(source, target, grader)
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["correct"] for row in written] == [True, False, True, False, True, True]
    assert written[0] == {**rows[0], "correct": True, "reason": "equal", "how": "text"}
    assert [each.label for each in graded] == [True, False, True, True, False, None]
    assert Counter(each.verdict.reason for each in graded) == {"equal": 4, "different": 1, "no_answer": 1}
    assert [(each.row.where, each.label) for each in disagreeing(graded)] == [
        (f"{source}, line 4", True),
        (f"{source}, line 5", False),
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"gold": "5", "reply": "5"}\n{"gold": "5"}\n', "line 2: field 'reply' is missing"),
        ('{"gold": "5", "reply": "5"}\nnot json\n', "line 2: not a JSON object"),
        ("[1]\n", "item 1: expected a JSON object"),
        ('{"gold": null, "reply": "5"}\n', "field 'gold'"),
        ('{"gold": "5", "reply": "5", "label": "maybe"}\n', "field 'label'"),
        ('{"gold": "5", "reply": "\xff"}\n', "line 1"),
        ("", "is empty"),
    ],
)
def test_grade_file_names_file_and_line_and_leaves_no_output(
    tmp_path: Path, grader: Grader, content: str, says: str
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=says.replace("(", r"\(")) as caught:
        grade_file(source, target, grader)
    assert "in.jsonl" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_grade_file_of_a_missing_file(tmp_path: Path, grader: Grader) -> None:
    with pytest.raises(DataError, match="No file"):
        grade_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl", grader)
    with pytest.raises(DataError, match="Cannot write"):
        grade_file(tmp_path / "none.jsonl", tmp_path / "no" / "out.jsonl", grader)


def test_no_mutated_reply_stops_the_grader() -> None:
    command = [sys.executable, str(EXAMPLES / "fuzz_grader.py"), "--replies", "200", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("200 replies by mutation") and "later than 2.5 s: 0" in done.stdout


@pytest.mark.slow
def test_no_mutated_reply_of_many_stops_the_grader() -> None:
    command = [sys.executable, str(EXAMPLES / "fuzz_grader.py"), "--replies", "20000", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def disagreeing(graded: Sequence[Graded]) -> list[Graded]:
    return [each for each in graded if each.label not in (None, each.verdict.correct)]


def test_blind_sets(tmp_path: Path, grader: Grader) -> None:
    """Of 1,253 right and 1,790 wrong replies."""
    n_right = n_wrong = 0
    for name in ("a", "b"):
        graded = grade_file(DATA / f"grading_blind_{name}.jsonl", tmp_path / "out.jsonl", grader)
        n_right += sum(each.verdict.correct and each.label is not False for each in graded)
        n_wrong += len([each for each in disagreeing(graded) if each.verdict.correct])
    assert n_right >= 1224 and n_wrong <= 13


def test_the_duel_prints_both_sides(tmp_path: Path) -> None:
    rows = [
        {"gold": "5", "reply": r"\boxed{5}", "label": True, "kind": "same"},
        {"gold": "5", "reply": r"\boxed{6}", "label": False, "kind": "off"},
        {"gold": "5", "reply": r"\boxed{5\text{ squared}}", "label": False, "kind": "off"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(EXAMPLES / "compare_math_verify.py"), "--data", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "ours: recall 1 of 1 (100.0%), false acceptances 0 of 2 (0.0%)" in printed
    assert "| **all** | 1 | 1 | 1 | 2 | 0 | " in printed


def test_replies_with_labels(tmp_path: Path, grader: Grader) -> None:
    graded = grade_file(DATA / "grading_replies.jsonl", tmp_path / "out.jsonl", grader)
    assert len(graded) >= 264 and all(each.label is not None for each in graded)
    assert disagreeing(graded) == []
