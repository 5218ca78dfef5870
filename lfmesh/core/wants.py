"""Requests to be sent: one a stream at a time, so many at once in all, first come, first served.

A stream that wants something while its request is under way is asked for again after that; of several such wishes
the last one holds. So what waits is bounded by the number of streams.
"""

from lfmesh.core.recovery import Wanted
from lfmesh.types import StreamKey


class Wants:
    """At most `max_under_way` requests are under way."""

    def __init__(self, max_under_way: int) -> None:
        self._max_under_way = max_under_way
        self._waiting: dict[StreamKey, Wanted] = {}
        self._under_way: set[StreamKey] = set()

    @property
    def waiting(self) -> int:
        """Streams whose request has not been sent."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Requests that have been sent and not been settled."""
        return len(self._under_way)

    def add(self, key: StreamKey, wanted: Wanted) -> None:
        """This is to be asked."""
        self._waiting[key] = wanted

    def drop(self, key: StreamKey) -> None:
        """What waits for this stream is wanted no more."""
        self._waiting.pop(key, None)

    def take(self) -> list[tuple[StreamKey, Wanted]]:
        """What may be sent now; it is under way until `settle`."""
        room = self._max_under_way - len(self._under_way)
        if room <= 0 or not self._waiting:
            return []
        taken = [(key, wanted) for key, wanted in self._waiting.items() if key not in self._under_way][:room]
        for key, _ in taken:
            del self._waiting[key]
            self._under_way.add(key)
        return taken

    def settle(self, key: StreamKey) -> None:
        """The request of this stream was answered, or will not be."""
        self._under_way.discard(key)
