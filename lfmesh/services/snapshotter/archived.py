"""What is answered from the archive: messages past every ring, and states as of a moment. Runs in worker threads.

    RetransmitRequest ──► Archive.after ──► a page of lines ──► market-data frames, as a normalizer would answer
    SnapshotRequest.at ─► Archive.state_at ──► parts of the state

Frames are packed anew, with the term and the instance of who publishes now; messages keep their bytes and positions.
Who asks on from where a page ended is served by the same reader, which has the next lines at hand.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple

from lfmesh import messages
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import Line
from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, Header
from lfmesh.core.outlet import MAX_RUN_BYTES, MAX_RUN_MESSAGES
from lfmesh.core.times import format_time
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.messages import Reply, RetransmitRequest, SnapshotReply, SnapshotRequest, Unavailable
from lfmesh.services.snapshotter.answers import Answer
from lfmesh.types import NO_INPUT, Position, StreamKey

PAGE_BYTES = 1024 * 1024
"""An answer holds about so much."""
MAX_BYTES = 256 * 1024 * 1024
_MAX_BEGUN = 4
_SNAPSHOT = int(Flags.SNAPSHOT)
_UNKNOWN = Position(0, 0)


class Publisher(NamedTuple):
    """Who publishes now."""

    term: int
    instance: int


class _Reading(NamedTuple):
    """Lists of lines that follow each other; not `whole`: there may be holes before and between them."""

    pages: Iterator[list[Line]]
    whole: bool


class Archived:
    """Answers of one shard. Any number of threads may call at once."""

    def __init__(self, shard: int, archive: Archive) -> None:
        self._shard = shard
        self._archive = archive
        self._lock = Lock()
        self._begun: OrderedDict[tuple[StreamKey, Position], _Reading] = OrderedDict()

    def retransmit(self, request: RetransmitRequest, publisher: Publisher) -> Answer:
        """What follows on a position, about a page of it; Unavailable if the archive has not got all of that."""
        key, after = StreamKey(request.product, request.channel), Position(request.epoch, request.seq)
        bound = min(request.max_bytes or PAGE_BYTES, PAGE_BYTES)
        try:
            reading = self._reading(key, after, or_oldest=request.or_oldest)
            if reading is None:
                return _no(f"what follows epoch {after.epoch}, seq {after.seq} is not archived")
            lines, more = _page(reading.pages, bound)
        except (StoreUnavailable, BadArchive) as error:
            return _unreadable(error)
        frames = list(frames_of(self._shard, key, lines, after if reading.whole else None, publisher))
        if more:
            self._keep((key, Position(lines[-1].epoch, lines[-1].seq)), reading)
        return Answer(messages.encode(Reply(more=more)), frames)

    def state_at(self, request: SnapshotRequest, term: int) -> Answer:
        """The state as of a moment; Unavailable if nothing is known of it, or what is known ends in a hole before it.

        Everything up to now is in the journal: where nothing follows, nothing has come.
        """
        key = StreamKey(request.product, request.channel)
        try:
            found = self._archive.state_at(key, request.at)
        except (StoreUnavailable, BadArchive) as error:
            return _unreadable(error)
        if found is None:
            return _no("nothing is known of that moment")
        if found.lack is not None and found.lack.hole:
            return _no(f"what came between {format_time(found.lack.after)} and that moment is missing in this archive")
        reply = SnapshotReply(*key, term, *found.position, ts_snapshot=found.time, input=NO_INPUT)
        return Answer(messages.encode(reply), found.parts)

    # Inside -----------------------------------------------------------------------------------------------------

    def _reading(self, key: StreamKey, after: Position, *, or_oldest: bool) -> _Reading | None:
        with self._lock:
            begun = self._begun.pop((key, after), None)
        if begun is not None:
            return begun
        pages = self._archive.after(key, after, MAX_BYTES)
        if pages is not None:
            return _Reading(pages, whole=True)
        return _Reading(_chain(self._archive.lines(key, after=after)), whole=False) if or_oldest else None

    def _keep(self, place: tuple[StreamKey, Position], reading: _Reading) -> None:
        """Who asks on from there gets the pages that follow."""
        with self._lock:
            self._begun[place] = reading
            if len(self._begun) > _MAX_BEGUN:
                self._begun.popitem(last=False)


def frames_of(
    shard: int, key: StreamKey, lines: Sequence[Line], after: Position | None, publisher: Publisher
) -> Iterator[bytes]:
    """Market-data frames of lines that follow on a position: as many as a normalizer would make of them.

    None: there may be holes. Then snapshots do not say where the stream stood before, or they would hide them.
    """
    topic = topics.market_data(shard, key)
    before = after or _UNKNOWN
    for group in _groups(lines):
        first, last = group[0], group[-1]
        texts = [line.message for line in group]
        previous = before if first.snapshot else _UNKNOWN
        header = Header(
            _SNAPSHOT if first.snapshot else 0, publisher.term, publisher.instance, NO_INPUT,
            first.epoch, first.seq, *previous, last.time, last.time,
        )  # fmt: skip
        yield codec.pack(topic, header, texts)
        if after is not None:
            before = Position(last.epoch, last.seq)


def _groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines that go into one frame: consecutive increments, or the parts of one snapshot."""
    group: list[Line] = []
    size = 0
    for line in lines:
        if group:
            last = group[-1]
            if line.snapshot:
                joins = last.snapshot and (last.epoch, last.seq) == (line.epoch, line.seq) and line.part > last.part
            else:
                joins = (
                    not last.snapshot
                    and (last.epoch, last.seq + 1) == (line.epoch, line.seq)
                    and len(group) < MAX_RUN_MESSAGES
                    and size < MAX_RUN_BYTES
                )
            if not joins:
                yield group
                group, size = [], 0
        group.append(line)
        size += len(line.message)
    if group:
        yield group


def _page(pages: Iterator[list[Line]], bound: int) -> tuple[list[Line], bool]:
    """Lines of about so many bytes, no snapshot cut, and whether there may be more."""
    lines: list[Line] = []
    size = 0
    for page in pages:
        lines += page
        size += sum(len(line.message) for line in page)
        if size >= bound and lines and lines[-1].part == lines[-1].parts:
            return lines, True
    return lines, False


def _chain(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """These lines in pages, up to the first place where one does not follow on the one before it."""
    page: list[Line] = []
    size = 0
    last: Line | None = None
    for line in lines:
        if last is not None and not line.snapshot and (line.epoch, line.seq) != (last.epoch, last.seq + 1):
            break
        if size >= PAGE_BYTES and not (line.snapshot and line.part > 1):
            yield page
            page, size = [], 0
        page.append(line)
        size += len(line.message)
        last = line
    if page:
        yield page


def _no(reason: str) -> Answer:
    return Answer(messages.encode(Unavailable(reason)), [])


def _unreadable(error: StoreUnavailable | BadArchive) -> Answer:
    reason = f"the archive can't be read: {error}"
    return Answer(messages.encode(Unavailable(reason, later=isinstance(error, StoreUnavailable))), [])
