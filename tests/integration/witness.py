"""What an operator of `lfmesh up` can see: log lines, counters, and the rows of `lfmesh top`, as they come.

    async with Witness(mesh) as witness:
        mark = witness.now()
        ...                                     # something goes wrong
        witness.lines(mark, "gap opened")       # log lines since then
        witness.rows(mark, lambda row: ...)     # rows of the monitor since then
        witness.grown(mark, "gaps_total")       # by how much a counter has grown, over all processes

Run the mesh with `--log-format json --log-level info`: each line of its log is then one JSON object.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from lfmesh.config import RegistrySection
from lfmesh.top.loop import Listener
from lfmesh.top.state import Row
from lfmesh.transport import Transport
from tests.integration.mesh import LiveMesh

_LOOK_S = 0.1

Entry = dict[str, Any]
Counted = dict[tuple[str, int], dict[str, float]]


class Mark(NamedTuple):
    """A moment: so many log lines and rows were there, and counters stood so."""

    lines: int
    rows: int
    counters: Counted


class Witness:
    """Looks on from its `__aenter__` to its `__aexit__`."""

    def __init__(self, mesh: LiveMesh) -> None:
        assert mesh.data_dir is not None
        self._log = mesh.data_dir / "up.log"
        self._section = RegistrySection(endpoints=tuple(mesh.registry_endpoints))
        self._transport = Transport()
        self._seen: list[Row] = []
        self._counters: Counted = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener = Listener(self._section, self._transport)
        self._listener.start()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._listener.close()
        self._transport.close()

    def now(self) -> Mark:
        """The present."""
        return Mark(len(self._entries()), len(self._seen), {key: dict(found) for key, found in self._counters.items()})

    def lines(self, since: Mark, event: str, **fields: object) -> list[Entry]:
        """Log lines of this event since then, with these fields where some are named; a field may be a collection."""
        return [
            entry
            for entry in self._entries()[since.lines :]
            if entry.get("event") == event and all(_fits(entry.get(key), value) for key, value in fields.items())
        ]

    def rows(self, since: Mark, condition: Callable[[Row], object]) -> list[Row]:
        """What the monitor has shown since then."""
        return [row for row in self._seen[since.rows :] if condition(row)]

    def grown(self, since: Mark, counter: str, instance: str = "") -> float:
        """By how much a counter (of one role, or of all) has grown; a new process begins at 0."""
        total = 0.0
        for key, found in self._counters.items():
            if not instance or key[0] == instance:
                total += found.get(counter, 0.0) - since.counters.get(key, {}).get(counter, 0.0)
        return total

    def said(self, since: Mark) -> str:
        """All log lines since then, for the message of a failure."""
        return "\n".join(json.dumps(entry)[:300] for entry in self._entries()[since.lines :])

    async def _look(self) -> None:
        while True:
            self._seen.extend(self._listener.look())
            for peer in self._listener.state.peers.values():
                newest = peer.newest
                if newest is not None:
                    flat = _flat(newest.statistics)
                    self._counters[peer.instance, newest.incarnation] = {**flat, "gaps_total": newest.gaps_total}
            await asyncio.sleep(_LOOK_S)

    def _entries(self) -> list[Entry]:
        entries = []
        for line in self._log.read_text(errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
        return entries


def _fits(value: object, wanted: object) -> bool:
    return value in wanted if isinstance(wanted, (set, frozenset, tuple)) else value == wanted


def _flat(statistics: dict[str, Any]) -> dict[str, float]:
    """Every number by name; those of a counter by label as `name.label` too."""
    flat: dict[str, float] = {}
    for name, value in statistics.items():
        if isinstance(value, dict):
            flat[name] = sum(value.values())
            flat |= {f"{name}.{label}": count for label, count in value.items()}
        elif isinstance(value, (bool, int, float)):
            flat[name] = float(value)
    return flat
