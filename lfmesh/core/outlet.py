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

# Plain integers: arithmetic on an IntFlag costs more than the rest of a frame's path.
_INCREMENTS, _SNAPSHOT, _STATUS = int(Flags.INCREMENTS), int(Flags.SNAPSHOT), int(Flags.STATUS)
_KINDS = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}


class Run(NamedTuple):
    """What becomes one frame: consecutive increments, the parts of one snapshot, or one status.

    `previous` is where the stream stood before a snapshot (None: unknown). `ts_event` is the newest of the
    venue's times in it, 0 where it gave none. `input` is the raw record that the last message came from.
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

    __slots__ = ("_ts_ingest", "incarnation", "ingestor", "number", "stamped", "touched", "ts_publish")

    def __init__(self) -> None:
        self.ts_publish = 0
        self.ingestor, self.incarnation, self.number = NO_INPUT
        self._ts_ingest = 0
        self.stamped = ""
        self.touched: list[Outlet] = []

    @property
    def ts_ingest(self) -> int:
        """When the record at hand was received from the venue."""
        return self._ts_ingest

    def begin(self, ts_publish: int) -> None:
        """A turn begins; `ts_publish` is the time of everything that it brings."""
        self.ts_publish = ts_publish
        self.stamped = encode.stamps(self._ts_ingest, ts_publish)

    def source(self, ingestor: int, incarnation: int) -> None:
        """The records that follow are this ingestor's."""
        self.ingestor = ingestor
        self.incarnation = incarnation

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


class Outlet:
    """One stream: its position, and what this turn has brought to it.

    `restored` is where an earlier process left the stream: every epoch of this one is higher.
    """

    __slots__ = (
        "_bytes", "_epoch", "_incarnation", "_ingestor", "_kind", "_number", "_prefix", "_restored", "_run",
        "_run_first", "_runs", "_seq", "_ts_event", "_turn", "stream",
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

    def resume(self, position: Position) -> None:
        """Go on in an earlier process's epoch after this position: what comes is what it would have published."""
        stream = self.stream
        self._epoch, self._seq = position
        self._prefix = encode.increment_prefix(self._kind, stream.product, stream.channel, position.epoch)

    def open(
        self,
        reason: SnapshotReason,
        states: Sequence[str],
        ts_event: int,
        missing: tuple[int, int] | None = None,
    ) -> None:
        """Begin a new epoch with a snapshot (its `states` one a part) at (epoch, 0)."""
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
        self._note_input()
        self._add(Run(_SNAPSHOT, epoch, 0, before, ts_event, turn.input, messages))

    def increment(self, ts_event: int, continuity: Continuity, fields: str) -> None:
        """Mint the next position for these fields."""
        turn = self._turn
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
        """The turn's runs, in order; afterwards the outlet holds none."""
        self._close_run()
        runs, self._runs = self._runs, []
        return runs

    def _note_input(self) -> None:
        turn = self._turn
        self._ingestor, self._incarnation, self._number = turn.ingestor, turn.incarnation, turn.number

    def _add(self, run: Run) -> None:
        if not self._runs:
            self._turn.touched.append(self)
        self._runs.append(run)

    def _close_run(self) -> None:
        if self._run:
            self._runs.append(
                Run(_INCREMENTS, self._epoch, self._run_first, None, self._ts_event, self.input, self._run)
            )
            self._run, self._bytes = [], 0
