"""Where positions are minted: the outlets of a normalizer's streams, and the turn that they share.

    records of one turn ──► products ──► outlets (position, encode) ──► runs ──► frames

Each increment gets the next number of its stream's epoch and is encoded once; what one turn brings to one stream is
collected in runs of consecutive increments, each of which becomes one frame of the mesh. A snapshot or a status
is a run of its own. Runs are bounded in messages and bytes, so that a frame is never large because a turn was.

What the messages say does not depend on where one turn ends and the next begins, but for `ts_publish` and epochs,
which come from the turn's clock.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lfmesh.core import encode
from lfmesh.core.codec import Flags
from lfmesh.types import (
    NO_INPUT,
    Channel,
    Continuity,
    InputPosition,
    Position,
    SnapshotReason,
    StreamKey,
    StreamState,
)

MAX_RUN_MESSAGES = 256
MAX_RUN_BYTES = 256 * 1024
_DAY_NS = 86_400_000_000_000

# Plain integers: arithmetic on an IntFlag costs more than the rest of a frame's path.
_INCREMENTS, _SNAPSHOT, _STATUS = int(Flags.INCREMENTS), int(Flags.SNAPSHOT), int(Flags.STATUS)
_KINDS = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}


class Run(NamedTuple):
    """What becomes one frame: consecutive increments, the parts of one snapshot, or one status.

    `previous` is where the stream stood before a snapshot (None: unknown). `ts_event` is the newest of the
    venue's times in it, 0 where it gave none. `input` is how far an ingestor's records are in the stream with it.
    """

    flags: int
    epoch: int
    first_seq: int
    previous: Position | None
    ts_event: int
    input: InputPosition
    messages: list[bytes]


class Turn:
    """What all outlets of a normalizer share: the clock's one reading of this turn, and the record at hand.

    `touched` are the outlets that hold runs, in order of their first one.
    """

    __slots__ = (
        "_reached", "_ts_ingest", "incarnation", "ingestor", "newest_event", "number", "stamped", "touched",
        "ts_publish",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ts_publish = 0
        self.newest_event = 0
        """The newest time that the venue has told of anything that was published."""
        self.ingestor, self.incarnation, self.number = NO_INPUT
        self._ts_ingest = 0
        self.stamped = ""
        self.touched: list[Outlet] = []
        self._reached: dict[int, InputPosition] = {}

    @property
    def ts_ingest(self) -> int:
        """When the record at hand was received from the venue."""
        return self._ts_ingest

    @property
    def stand_in(self) -> int:
        """What stands for a time that the venue has not told: when the record at hand was received; 0 where that is of
        no use, since the venue's time is another day's (a recorded session) or not known yet."""
        return self._ts_ingest if abs(self._ts_ingest - self.newest_event) < _DAY_NS else 0

    def begin(self, ts_publish: int) -> None:
        """A turn begins; `ts_publish` is the time of everything that it brings."""
        self.ts_publish = ts_publish
        self.stamped = encode.stamps(self._ts_ingest, ts_publish)

    def source(self, ingestor: int, incarnation: int) -> None:
        """The records that follow are this ingestor's."""
        if ingestor == self.ingestor and incarnation == self.incarnation:
            return
        if self.ingestor:
            self._reached[self.ingestor] = self.input
        known = self._reached.get(ingestor)
        self.ingestor = ingestor
        self.incarnation = incarnation
        self.number = known.number if known is not None and known.incarnation == incarnation else 0

    def record(self, number: int, ts_ingest: int) -> None:
        """The record at hand."""
        self.number = number
        if ts_ingest != self._ts_ingest:
            self._ts_ingest = ts_ingest
            self.stamped = encode.stamps(ts_ingest, self.ts_publish)

    @property
    def input(self) -> InputPosition:
        """The record at hand, as frames name it."""
        return InputPosition(self.ingestor, self.incarnation, self.number)

    def reached(self, ingestor: int) -> InputPosition:
        """The last record of this ingestor that was dealt with; NO_INPUT where there was none."""
        return self.input if ingestor == self.ingestor else self._reached.get(ingestor, NO_INPUT)

    @property
    def inputs(self) -> list[InputPosition]:
        """The last record that was dealt with of each ingestor."""
        if self.ingestor:
            self._reached[self.ingestor] = self.input
        return list(self._reached.values())

    def begin_at(self, position: InputPosition) -> None:
        """An earlier process has dealt with this ingestor's records up to this one."""
        self._reached[position.ingestor] = position


class Outlet:
    """One stream: its position, and what this turn has brought to it.

    `restored` is where an earlier process left the stream: every epoch of this one is higher.

    Each run says how far an ingestor's records are in the stream, so that whoever has the state with it can go on from
    there (`complete`). That depends on two things which the owner tells: `whole` is False while the stream waits for
    something (a book for its snapshot, trades for those before them), so that later records are not in it; `mixed` is
    True where what is published depends on the records of more than one ingestor.
    """

    __slots__ = (
        "_bytes", "_epoch", "_incarnation", "_ingestor", "_kind", "_number", "_prefix", "_restored", "_run",
        "_run_first", "_runs", "_seq", "_ts_event", "_turn", "_waits_from", "mixed", "stream",
    )  # fmt: skip

    def __init__(self, stream: StreamKey, turn: Turn, restored: Position | None = None) -> None:
        self.stream = stream
        self._turn = turn
        self._restored = restored
        self._kind = _KINDS[stream.channel]
        self._epoch = 0
        self._seq = 0
        self._prefix = ""
        self._runs: list[Run] = []
        self._run: list[bytes] = []
        self._run_first = 0
        self._bytes = 0
        self._ts_event = 0
        self._ingestor, self._incarnation, self._number = NO_INPUT
        self._waits_from: InputPosition | None = None
        self.mixed = False

    @property
    def is_open(self) -> bool:
        """True once the stream has had a snapshot."""
        return self._epoch > 0

    @property
    def position(self) -> Position | None:
        """Where the stream stands; None before its first epoch."""
        return Position(self._epoch, self._seq) if self._epoch else None

    @property
    def input(self) -> InputPosition:
        """The record that the stream's newest message came from."""
        return InputPosition(self._ingestor, self._incarnation, self._number)

    @property
    def complete(self) -> InputPosition:
        """How far an ingestor's records are in what was published; NO_INPUT where that can't be said of one alone.

        While the stream is whole, that is the last one dealt with. While it waits, it is that of its newest message;
        for trades, which are told apart by their ids, the last one before those that wait.
        """
        if self.mixed:
            return NO_INPUT
        if self._waits_from is not None:
            return self._waits_from if self.stream.channel is Channel.TRADES else self.input
        number = self._number
        reached = self._turn.reached(self._ingestor)
        if reached.incarnation == self._incarnation and reached.number > number:
            number = reached.number
        return InputPosition(self._ingestor, self._incarnation, number)

    @property
    def whole(self) -> bool:
        """False while the stream waits for something and later records are not in it."""
        return self._waits_from is None

    @whole.setter
    def whole(self, whole: bool) -> None:
        """To be set False with the first record that is not in the stream, or that may not be."""
        if whole:
            self._waits_from = None
        elif self._waits_from is None:
            turn = self._turn
            self._waits_from = InputPosition(turn.ingestor, turn.incarnation, max(0, turn.number - 1))

    def resume(self, position: Position, source: InputPosition = NO_INPUT) -> None:
        """Go on in an earlier process's epoch after this position: what comes is what it would have published.

        `source` is how far an ingestor's records are in it.
        """
        stream = self.stream
        self._epoch, self._seq = position
        self._ingestor, self._incarnation, self._number = source
        self._prefix = encode.increment_prefix(self._kind, stream.product, stream.channel, position.epoch)

    def open(
        self,
        reason: SnapshotReason,
        states: Sequence[str],
        ts_event: int,
        missing: tuple[int, int] | None = None,
        ingestor: int | None = None,
    ) -> None:
        """Begin a new epoch with a snapshot (its `states` one a part) at (epoch, 0); `ts_event` is 0 if it has none.

        `ingestor` says whose records brought the state, where that is not the record at hand's.
        """
        self._close_run()
        turn = self._turn
        before = self.position or self._restored
        known = before.epoch if before is not None else 0
        epoch = max(turn.ts_publish // 1000, known + 1)
        stream = self.stream
        messages = encode.snapshot(
            stream.product, stream.channel, Position(epoch, 0), turn.ts_publish, reason, states, missing
        )
        self._epoch, self._seq = epoch, 0
        self._prefix = encode.increment_prefix(self._kind, stream.product, stream.channel, epoch)
        self._ingestor, self._incarnation, self._number = turn.input if ingestor is None else turn.reached(ingestor)
        self._add(Run(_SNAPSHOT, epoch, 0, before, ts_event or turn.stand_in, self.input, messages))

    def increment(self, ts_event: int, continuity: Continuity, fields: str) -> None:
        """Mint the next position for these fields."""
        turn = self._turn
        if ts_event > turn.newest_event:
            turn.newest_event = ts_event
        seq = self._seq = self._seq + 1
        message = encode.stamped_increment(self._prefix, seq, ts_event, turn.stamped, continuity, fields)
        run = self._run
        if not run:
            if not self._runs:
                turn.touched.append(self)
            self._run_first = seq
            self._ts_event = ts_event
        elif ts_event > self._ts_event:
            self._ts_event = ts_event
        run.append(message)
        self._bytes += len(message)
        self._ingestor, self._incarnation, self._number = turn.ingestor, turn.incarnation, turn.number
        if len(run) >= MAX_RUN_MESSAGES or self._bytes >= MAX_RUN_BYTES:
            self._close_run()

    def tell(self, state: StreamState, since: int, reason: str) -> None:
        """Say what state the stream is in; it takes no position."""
        self._close_run()
        message = encode.status(self.stream.product, self.stream.channel, state, since, reason)
        self._add(Run(_STATUS, self._epoch, self._seq, None, 0, self.input, [message]))

    def take(self) -> list[Run]:
        """The turn's runs, in order; afterwards the outlet holds none. The last one says how `complete` it all is."""
        if self._run:
            self._runs.append(
                Run(_INCREMENTS, self._epoch, self._run_first, None, self._ts_event, self.complete, self._run)
            )
            self._run, self._bytes = [], 0
        elif self._runs:
            self._runs[-1] = self._runs[-1]._replace(input=self.complete)
        runs, self._runs = self._runs, []
        return runs

    def _add(self, run: Run) -> None:
        if not self._runs:
            self._turn.touched.append(self)
        self._runs.append(run)

    def _close_run(self) -> None:
        """End a run within a turn. Of one record several trades can come, some of which may be in the next run."""
        if self._run:
            number = self._number
            if self.stream.channel is Channel.TRADES:
                number = max(0, number - 1)
            source = NO_INPUT if self.mixed else InputPosition(self._ingestor, self._incarnation, number)
            self._runs.append(Run(_INCREMENTS, self._epoch, self._run_first, None, self._ts_event, source, self._run))
            self._run, self._bytes = [], 0
