"""The grader: what is plain here, the rest in workers that can be killed.

In the caller's thread there are only a linear scan for the final answer, a comparison of texts and one of plain
numbers. All else, reading an answer included, is done by a worker under the time limit, so that no text can stop a run.
"""

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from expo_lite.grading.process import Reply, Worker
from expo_lite.grading.reading.extract import final_answer, gold_answer, plain_number
from expo_lite.records import Verdict
from expo_lite.settings.groups import Rounding

_MAX_CHARS = 3000  # of gold and answer together
_MEMORY = 8192

_Question = tuple[str, str]
"""A gold answer and a final answer."""


@dataclass(frozen=True, slots=True)
class GradeItem:
    """A completion to grade against its reference answer."""

    gold: str
    completion: str
    truncated: bool = False


class Grader:
    """Grades completions; safe to share between threads.

    What is not plain goes to one of `n_workers` processes, started when first needed, each capped at `memory_mib` of
    address space and killed after `timeout_s` of CPU time, or 1.8 times that by the clock; a spare one takes its place.
    `rounding` says where a rounded answer counts: "never", or "gold": where the gold is a decimal with at least three
    digits and the answer, rounded to as many places, is the gold.
    """

    def __init__(
        self, *, n_workers: int = 2, timeout_s: float = 2.0, memory_mib: int = 2048, rounding: Rounding = "never"
    ) -> None:
        command = ("-m", "expo_lite.grading.worker", str(memory_mib))
        self._workers = [Worker(*command, limit_s=timeout_s) for _ in range(n_workers + 1)]
        self._free = list(self._workers)
        self._n_workers, self._turn = n_workers, threading.Semaphore(n_workers)
        self._rounding = rounding
        self._finalizer = weakref.finalize(self, _close, self._workers)
        self._decided: dict[_Question, Reply] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. A grader that is used again starts new ones."""
        _close(self._workers)

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are running."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def grade(self, gold: str, completion: str, *, truncated: bool = False) -> Verdict:
        """Compare the completion's final answer with the gold answer.

        A truncated completion has no answer. Never raises on any text: reasons are equal, different, no_answer,
        empty_answer, unclear_answer, truncated, no_gold, too_long, timeout, worker_died and out_of_memory.
        """
        return self.grade_many([GradeItem(gold, completion, truncated)])[0]

    def grade_many(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """Grade many items at once, and return the verdicts in order."""
        found = [self._grade_plainly(item) for item in items]
        questions = list(dict.fromkeys(each for each in found if isinstance(each, tuple)))
        replies = self._ask(questions) if questions else {}
        return [each if isinstance(each, Verdict) else _verdict(each, replies[each]) for each in found]

    def _grade_plainly(self, item: GradeItem) -> Verdict | _Question:
        """Return the verdict if no mathematics has to be read; else the question for a worker."""
        if item.truncated:
            return Verdict(False, "truncated", "truncated")
        answer, found = final_answer(item.completion)
        if answer is None:
            return Verdict(False, found, "extraction")
        gold = gold_answer(item.gold)
        if not gold:
            return Verdict(False, "no_gold", "extraction", answer)
        if gold == answer:
            return Verdict(True, "equal", "text", answer)
        wanted = plain_number(gold)
        given = plain_number(answer) if wanted is not None else None
        if given is not None and (wanted == given or self._rounding == "never"):
            return Verdict(wanted == given, "equal" if wanted == given else "different", "number", answer)
        if len(gold) + len(answer) > _MAX_CHARS:
            return Verdict(False, "too_long", "too_long", answer)
        return gold, answer

    def _ask(self, questions: list[_Question]) -> dict[_Question, Reply]:
        """Ask the workers what is not remembered, several at a time."""
        with self._lock:
            replies = {question: self._decided[question] for question in questions if question in self._decided}
        new = [question for question in questions if question not in replies]
        if len(new) > 1:
            with ThreadPoolExecutor(self._n_workers, "expo-lite-grading") as threads:
                replies.update(zip(new, threads.map(self._ask_worker, new), strict=True))
        else:
            replies.update((question, self._ask_worker(question)) for question in new)
        self._remember({question: replies[question] for question in new if "error" not in replies[question]})
        return replies

    def _ask_worker(self, question: _Question) -> Reply:
        """Ask the worker that became free last, or another one while that one is starting; then start a spare."""
        with self._turn:
            with self._lock:
                worker = next((each for each in reversed(self._free) if each.is_ready), self._free[-1])
                self._free.remove(worker)
            try:
                return worker.ask({"gold": question[0], "answer": question[1], "rounding": self._rounding})
            finally:
                with self._lock:
                    self._free[-1].start()
                    self._free.append(worker)

    def _remember(self, decided: dict[_Question, Reply]) -> None:
        """Keep what a worker decided: the completions of a group often share their answer."""
        with self._lock:
            if len(self._decided) + len(decided) > _MEMORY:
                self._decided.clear()
            self._decided.update(decided)


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()


def _verdict(question: _Question, reply: Reply) -> Verdict:
    if "error" in reply:
        return Verdict(False, str(reply["error"]), "worker", question[1])
    equal = bool(reply["equal"])
    return Verdict(equal, "equal" if equal else "different", str(reply["how"]), question[1])
