"""What is made once and used again until it is too old: explanations and pairs; part of a checkpoint."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.records import Explanation, Pair
from expo_lite.settings.schema import from_mapping

Kept = TypeVar("Kept", bound=Explanation | Pair)


class RefreshStore(Generic[Kept]):
    """Records by problem, each to be used again until it is `refresh_steps` old (0: for ever)."""

    def __init__(self, kind: type[Kept], refresh_steps: int) -> None:
        """Start empty."""
        self._kind = kind
        self._refresh_steps = refresh_steps
        self._kept: dict[str, tuple[int, Kept]] = {}

    def get(self, problem_id: str, *, step: int) -> Kept | None:
        """The problem's record if it is young enough."""
        made, record = self._kept.get(problem_id, (0, None))
        return record if self._is_young(made, step) else None

    def put(self, records: Iterable[Kept], *, step: int) -> None:
        """Keep new records, and forget those that are too old by now."""
        self._kept |= {record.problem.problem_id: (step, record) for record in records}
        self._kept = {key: kept for key, kept in self._kept.items() if self._is_young(kept[0], step)}

    def to_json(self, *, step: int) -> list[dict[str, Any]]:
        """What can still be used at `step`, as plain JSON values."""
        young = (kept for kept in self._kept.values() if self._is_young(kept[0], step))
        return [{"made": made, "record": dataclasses.asdict(record)} for made, record in young]

    def load_json(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take back what `to_json` gave.

        Raises:
            CheckpointError: the rows are not of this form.
        """
        try:
            for row in rows:
                record = from_mapping(self._kind, row["record"], "record")
                self._kept[record.problem.problem_id] = (row["made"], record)
        except (ConfigError, LookupError, TypeError) as error:
            raise CheckpointError(f"The checkpoint's kept explanations or pairs cannot be read: {error}") from error

    def _is_young(self, made: int, step: int) -> bool:
        return not self._refresh_steps or step - made < self._refresh_steps
