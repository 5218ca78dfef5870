"""What a player plays: a window of an archive."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

from lfmesh.archive.asof import StateAt
from lfmesh.archive.history import Told, history
from lfmesh.archive.reader import Archive
from lfmesh.types import Position, StreamKey

_NEVER = (1 << 63) - 1


class ArchiveTape:
    """Some streams of an archive, from `start` to `end` (ns, both inclusive); a `lfmesh.services.player.reel.Tape`.

    Of streams in `still` the venue has said nothing that has a time: they have no place in the order of events, and
    hold from the beginning to the end what was published of them.
    """

    def __init__(
        self,
        archive: Archive,
        streams: Sequence[StreamKey],
        start: int,
        end: int,
        still: Collection[StreamKey] = (),
    ) -> None:
        self.streams = tuple(streams)
        self.start = start
        self.end = end
        self._archive = archive
        self._still = frozenset(still)

    def state(self, stream: StreamKey, at: int) -> StateAt | None:
        """See `Tape`."""
        if stream not in self._still:
            return self._archive.state_at(stream, at)
        state = None if at < self.start else self._archive.state_at(stream, _NEVER)
        return None if state is None else state._replace(time=self.start)

    def lines(self, start_ts: int, after: Mapping[StreamKey, Position]) -> Iterator[Told]:
        """See `Tape`."""
        still = [stream for stream in self.streams if stream in self._still and stream not in after]
        moving = [stream for stream in self.streams if stream not in self._still]
        first = history(self._archive, still) if start_ts <= self.start else iter(())
        return chain(
            (told._replace(line=told.line._replace(time=self.start)) for told in first),
            history(self._archive, moving, start_ts=start_ts, end_ts=self.end, after=after),
        )
