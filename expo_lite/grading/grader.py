"""The grader: cheap comparisons here, the rest in workers that can be killed."""

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from expo_lite.grading.compare import judge_quickly
from expo_lite.grading.extract import final_answer, gold_answer, joined_boxes
from expo_lite.grading.leaves import Outcome
from expo_lite.grading.pool import WorkerPool
from expo_lite.records import Verdict

_MAX_SYMBOLIC_CHARS = 2000
_MEMORY = 8192


@dataclass(frozen=True, slots=True)
class GradeItem:
    """A completion to grade against its reference answer."""

    gold: str
    completion: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """What the cheap steps could not decide: is one of these readings of the reply equal to the gold answer?"""

    gold: str
    readings: tuple[str, ...]


class Grader:
    """Grades completions; safe to share between threads.

    The cheap steps run in the caller's thread. What they leave open goes to one of `n_workers` processes, started when
    first needed, each capped at `memory_mib` of address space and killed after `timeout_s` on one question.
    """

    def __init__(self, *, n_workers: int = 2, timeout_s: float = 2.0, memory_mib: int = 2048) -> None:
        """Set the limits; starts no process."""
        self._n_workers = n_workers
        self._pool = WorkerPool(n_workers=n_workers, limit_s=timeout_s, memory_mib=memory_mib)
        self._finalizer = weakref.finalize(self, WorkerPool.close, self._pool)
        self._decided: dict[tuple[str, str], tuple[bool, str]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """The grader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the workers. A grader that is used again starts new ones."""
        self._pool.close()

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers that are running."""
        return [worker.pid for worker in self._pool.workers if worker.pid is not None]

    def grade(self, gold: str, completion: str, *, truncated: bool = False) -> Verdict:
        """Whether the completion's final answer equals the gold answer.

        A truncated completion has no answer. Never raises on any text: reasons are equal, different, no_answer,
        empty_answer, truncated, no_gold, timeout, worker_died and out_of_memory.
        """
        verdict, question = self._grade_quickly(GradeItem(gold, completion, truncated))
        return verdict if question is None else self._ask(verdict, question)

    def grade_many(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """The verdict on each item, in order, with all workers busy."""
        quick = [self._grade_quickly(item) for item in items]
        verdicts = [verdict for verdict, _ in quick]
        open_questions = [(i, question) for i, (_, question) in enumerate(quick) if question is not None]
        if open_questions:
            with ThreadPoolExecutor(min(self._n_workers, len(open_questions)), "expo-lite-grading") as threads:
                answered = threads.map(lambda entry: self._ask(verdicts[entry[0]], entry[1]), open_questions)
                for (i, _), verdict in zip(open_questions, answered, strict=True):
                    verdicts[i] = verdict
        return verdicts

    def _grade_quickly(self, item: GradeItem) -> tuple[Verdict, _Question | None]:
        """The verdict, or a provisional one and the question it depends on."""
        if item.truncated:
            return Verdict(False, "truncated", "none"), None
        answer, found = final_answer(item.completion)
        if answer is None:
            return Verdict(False, found, "none"), None
        gold = gold_answer(item.gold)
        if not gold:
            return Verdict(False, "no_gold", "none", answer), None
        joined = joined_boxes(item.completion) if found == "boxed" else None
        readings = [answer] if joined is None else [answer, joined]
        undecided = []
        how = "none"
        for reading in readings:
            outcome, how = judge_quickly(gold, reading)
            if outcome is Outcome.EQUAL:
                return Verdict(True, "equal", how, reading), None
            if outcome is Outcome.OPEN and len(gold) + len(reading) <= _MAX_SYMBOLIC_CHARS:
                undecided.append(reading)
        verdict = Verdict(False, "different", how, answer)
        return verdict, _Question(gold, tuple(undecided)) if undecided else None

    def _ask(self, verdict: Verdict, question: _Question) -> Verdict:
        how = verdict.how
        for reading in question.readings:
            key = (question.gold, reading)
            known = self._decided.get(key)
            if known is None:
                reply = self._pool.ask({"op": "equal", "gold": question.gold, "answer": reading})
                if "error" in reply:
                    return Verdict(False, reply["error"], "symbolic", verdict.answer)
                known = (bool(reply["equal"]), str(reply["how"]))
                self._remember(key, known)
            equal, how = known
            if equal:
                return Verdict(True, "equal", how, reading)
        return Verdict(False, "different", how, verdict.answer)

    def _remember(self, key: tuple[str, str], decided: tuple[bool, str]) -> None:
        """Keep what a worker decided: the completions of a group often share their answer."""
        with self._lock:
            if len(self._decided) >= _MEMORY:
                self._decided.clear()
            self._decided[key] = decided
