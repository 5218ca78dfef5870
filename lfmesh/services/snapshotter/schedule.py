"""When which stream is to be written, pure.

Tickers and trades that changed are due each time somebody looks. Each book has moments of its own, `book_interval_ns`
apart and spread evenly over products by their names, so that not all books are written at once.
"""

from collections.abc import Mapping

from lfmesh.core.sharding import stable_id
from lfmesh.types import Channel, StreamKey


class WriteSchedule:
    """Which streams have changed since they were last taken for writing, and since when (ns)."""

    def __init__(self, book_interval_ns: int) -> None:
        self._book_interval_ns = book_interval_ns
        self._small: dict[StreamKey, int] = {}
        self._books: dict[StreamKey, int] = {}
        self._book_due: dict[StreamKey, int] = {}

    def __len__(self) -> int:
        return len(self._small) + len(self._books)

    def changed(self, key: StreamKey, now: int) -> None:
        """The stream has got something new."""
        if key.channel is Channel.BOOK:
            self._books.setdefault(key, now)
        else:
            self._small.setdefault(key, now)

    def due(self, now: int) -> dict[StreamKey, int]:
        """Take what is to be written now: stream, and since when it has been waiting."""
        taken, self._small = self._small, {}
        for key in list(self._books):
            moment = self._book_due.get(key)
            if moment is None or moment - now > self._book_interval_ns:  # new, or the clock was set back
                moment = self._book_due[key] = self._next_moment(key, now)
            if now >= moment:
                taken[key] = self._books.pop(key)
                self._book_due[key] = self._next_moment(key, now)
        return taken

    def everything(self) -> dict[StreamKey, int]:
        """Take all that has changed, due or not."""
        taken = {**self._small, **self._books}
        self._small, self._books = {}, {}
        return taken

    def again(self, taken: Mapping[StreamKey, int]) -> None:
        """What was taken could not be written; it stays due, books too."""
        for key, since in taken.items():
            if key.channel is Channel.BOOK:
                self._books[key] = min(since, self._books.get(key, since))
                self._book_due[key] = 0
            else:
                self._small[key] = min(since, self._small.get(key, since))

    def drop(self, key: StreamKey) -> None:
        """There is nothing to write of this stream."""
        self._small.pop(key, None)
        self._books.pop(key, None)

    def _next_moment(self, key: StreamKey, now: int) -> int:
        interval = self._book_interval_ns
        phase = stable_id(key.product) % interval
        return now + interval - (now - phase) % interval
