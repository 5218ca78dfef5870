"""Queues of joining clients, given out as their sockets take them: a piece a client and turn of the loop.

So a big snapshot comes a part at a time with other streams' messages in between, and a thousand clients that join at
once are served in turns between which live messages go out. A queue is references to shared frames. When it is empty,
the ring gives what was published meanwhile; when there is nothing more, the client is live on the stream.
"""

from collections import deque
from collections.abc import Callable, Iterable

from lfmesh.core.hub_clients import Client, Join
from lfmesh.core.hub_history import Run
from lfmesh.core.hub_pace import Pace
from lfmesh.core.hub_streams import Fanout
from lfmesh.types import Position

PULL_BYTES = 256 * 1024
"""A client is given about this much in one turn: one part of a big snapshot."""
PULL_WORK = 400
"""A turn ends when about so many streams, or pieces of them, were served: a few ms. The next turns serve the others."""
_WORK_BYTES = 2560
"""Bytes that are given count as work, too: a turn gives out about a MB."""
_MERGE_WORK = 10
"""And so does making one message of many."""
SLICE_BYTES = 64 * 1024
"""A stream is given about so much before the client's next one has its turn."""
_SPARE_PULLS = 64
_UNBOUNDED = 1 << 62


class Pulls:
    """See the module's docstring.

    `tail` gives what comes after a join's cursor, a piece at a time (None: the ring has not got it). If that is more
    than a client may be `behind`, the join is to get the state of now instead. When nothing comes after the cursor,
    `enter` is called: True if the client is live on the stream then, False if the join waits for something. `lost` is
    called with a join to which the ring can give no more, `emptied` with one whose queue has been sent, `latest` with
    one that is to get the state of now. `pace`: no client is given more at once than that allows.
    """

    def __init__(
        self,
        fanout: Fanout,
        tail: Callable[[Join], Run | None],
        enter: Callable[[Join], bool],
        lost: Callable[[Join, int], None],
        emptied: Callable[[Join], None],
        latest: Callable[[Join, int], None],
        behind: Callable[[Join, Run], bool],
        pace: Pace | None,
    ) -> None:
        self.bytes = 0
        self._fanout = fanout
        self._tail = tail
        self._enter = enter
        self._lost = lost
        self._emptied = emptied
        self._latest = latest
        self._behind = behind
        self._pace = pace
        self._work = 0
        self._ready: dict[Client, None] = {}

    @property
    def ready(self) -> bool:
        """True if `pull` has something to do."""
        return bool(self._ready)

    def add(self, join: Join, frames: Iterable[bytes], cursor: Position) -> None:
        """The client gets these, then what came after `cursor`."""
        join.queue = deque(frames)
        join.cursor = cursor
        client = join.client
        if not join.pulling:
            join.pulling = True
            if len(client.pulls) > 2 * len(client.joins) + _SPARE_PULLS:
                kept = deque[Join]()
                for one in client.pulls:
                    one.pulling = _is_under_way(one)
                    if one.pulling:
                        kept.append(one)
                client.pulls = kept
            client.pulls.append(join)
        self.wake(client)

    def wake(self, client: Client) -> None:
        """The client may have something to get, and its socket may take it."""
        if client.pulls and not client.paused and not client.pending and not client.throttled:
            self._ready[client] = None

    def forget(self, client: Client) -> None:
        """The client is gone."""
        client.pulls.clear()
        self._ready.pop(client, None)

    def pull(self, now: int) -> bool:
        """Give the next clients a piece; True if there is more to do."""
        self._fanout.flush()
        self._work = 0
        for client in tuple(self._ready):
            if self._work >= PULL_WORK:
                break
            if client not in self._ready:
                continue
            del self._ready[client]
            if not client.paused and not client.pending and not client.throttled:
                self._serve(client, now)
                self.wake(client)
        return bool(self._ready)

    def _serve(self, client: Client, now: int) -> None:
        pieces: list[bytes] = []
        most, room = self._most(client)
        given = 0
        done: list[Join] = []
        pulls = client.pulls
        share = max(1, most // max(1, len(pulls)))  # of what its rate allows, for one stream at a time
        while pulls and room > 0 and len(pieces) < most:
            join = pulls[0]
            if _is_under_way(join):
                self._work += 1
                if join.queue or self._refill(join, now):
                    # What has been fetched is sent now: fetching for all streams first would keep all of it.
                    taken = _slice(join, room, pieces, min(most, len(pieces) + share))
                    if join.queue and not taken:
                        break  # a part that does not fit into this turn
                    room -= taken
                    given += taken
                    self._work += taken // _WORK_BYTES
                    if not join.queue and join.piece is not None:
                        self._emptied(join)
                    if join.queue or join.interval_ns or join.cursor != join.stream.position:
                        pulls.rotate(-1)
                        continue
                if join.waits is None:
                    done.append(join)
            join.pulling = False
            pulls.popleft()
        if pieces:
            client.quiet = 0
            client.used_messages += len(pieces)
            client.used_bytes += given
            client.sink.write(b"".join(pieces))
            self.bytes += given
            client.throttled = self._pace is not None and self._pace.spent(client)
        for join in done:
            if join.waits is None and not self._end(join):
                self._lost(join, now)

    def _most(self, client: Client) -> tuple[int, int]:
        """How many messages and bytes the client may be given in this turn."""
        if self._pace is None:
            return _UNBOUNDED, PULL_BYTES
        self._fanout.settle(client)
        messages, size = self._pace.room(client)
        return messages, min(size, PULL_BYTES)

    def _refill(self, join: Join, now: int) -> bool:
        """Queue what was published meanwhile; False if there is nothing more, or the ring has lost it."""
        if join.skips:
            join.skips = False
            if join.cursor != join.stream.position:
                self._latest(join, now)
                return True  # it has a queue now, or waits for one
        run = self._tail(join)
        if run is None or not run.frames:
            return False
        if join.interval_ns:
            self._work += _MERGE_WORK
        if join.state_bytes and self._behind(join, run):
            self._latest(join, now)
            return True
        frames = run.frames
        if self._pace is None and sum(map(len, frames)) <= 2 * SLICE_BYTES:
            join.queue.append(b"".join(frames))
        else:  # one by one, as they are counted, or since there are big parts of snapshots among them
            join.queue.extend(frames)
        join.cursor = run.end
        return True

    def _end(self, join: Join) -> bool:
        """A join has been given all that there was: it is live, or waits. False: the ring has lost the rest."""
        client, stream = join.client, join.stream
        if not join.interval_ns and join.cursor != stream.position:
            return False
        if self._enter(join):
            del client.joins[stream], stream.joins[client]
            return True
        return join.waits is not None


def _is_under_way(join: Join) -> bool:
    return join.waits is None and join.client.joins.get(join.stream) is join


def _slice(join: Join, room: int, pieces: list[bytes], most: int) -> int:
    """Take from a queue what fits, and no more than its share of a turn; a first piece always fits."""
    taken = 0
    queue = join.queue
    if queue:
        join.sent = True
        if join.gives is not None:
            join.holding, join.gives = join.gives, None
    while queue and taken < SLICE_BYTES and (not pieces or (len(queue[0]) <= room - taken and len(pieces) < most)):
        piece = queue.popleft()
        pieces.append(piece)
        taken += len(piece)
    return taken
