"""Requests to normalizers and snapshotters: one a stream and kind at a time, so many at once, first come, first served.

A state is asked for once, whoever wants it: the stream's own recovery, joining clients, somebody over HTTP.
"""

from typing import Literal, NamedTuple

from lfmesh.types import Position, StreamKey

MAX_UNDER_WAY = 64

Kind = Literal["retransmit", "older", "snapshot"]
"""retransmit: for the stream's own gap; older: for clients that go on from before our ring; snapshot: its state."""
Party = Literal["feed", "hub", "http"]


class Ask(NamedTuple):
    """One request; `attempt` (from 1) tells whose turn it is to be asked for a state."""

    kind: Kind
    key: StreamKey
    after: Position | None = None
    attempt: int = 1


class Asks:
    """What waits to be sent and what is under way; bounded by the number of streams."""

    def __init__(self, max_under_way: int = MAX_UNDER_WAY) -> None:
        self._max_under_way = max_under_way
        self._waiting: dict[tuple[Kind, StreamKey], Ask] = {}
        self._under_way: set[tuple[Kind, StreamKey]] = set()
        self._parties: dict[StreamKey, set[Party]] = {}

    @property
    def waiting(self) -> int:
        """Requests that have not been sent."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Requests that have been sent and not been answered."""
        return len(self._under_way)

    def add(self, ask: Ask, party: Party) -> None:
        """This is to be asked. A state that is under way is for this party, too; else the last wish of a kind holds."""
        name = (ask.kind, ask.key)
        if ask.kind == "snapshot":
            self._parties.setdefault(ask.key, set()).add(party)
            if name in self._under_way:
                return
        self._waiting[name] = ask

    def take(self) -> list[Ask]:
        """What may be sent now; under way until `settle`."""
        room = self._max_under_way - len(self._under_way)
        if room <= 0 or not self._waiting:
            return []
        taken = [ask for name, ask in self._waiting.items() if name not in self._under_way][:room]
        for ask in taken:
            del self._waiting[ask.kind, ask.key]
            self._under_way.add((ask.kind, ask.key))
        return taken

    def settle(self, ask: Ask) -> set[Party]:
        """It was answered, or will not be; who wanted the state, if it was one."""
        self._under_way.discard((ask.kind, ask.key))
        return self._parties.pop(ask.key, set()) if ask.kind == "snapshot" else set()
