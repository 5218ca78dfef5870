"""One stream as a client follows it. Pure: messages and times in, events and wishes out.

    ask ──► asked ──`subscribed`──► starting ──first message──► following ──trouble──► ask again

Positions are watched by the same `Follower` as on every other hop of the mesh. For a client epochs are compared for
equality only, and a snapshot may come at any time and sets the position, also back.

What is wrong is a `Violation`, and the stream is taken anew: after its position where that is still right (`resume`),
else with a snapshot. Until the gateway has answered, messages of a stream that is not trusted are dropped.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

from lfmesh.client.contents import Contents, Disordered, IncrementUnit, Outcome, SnapshotUnit, TooEarly, Unit
from lfmesh.client.events import StatusChanged, ViolationKind
from lfmesh.client.requests import Asked
from lfmesh.client.state import StreamStatus
from lfmesh.client.wire import IncrementData, SnapshotData, Status
from lfmesh.core.recovery import (
    Accepted,
    Based,
    Dropped,
    Fact,
    Follower,
    FollowerLimits,
    GapClosed,
    GapOpened,
    Opened,
    Wanted,
)
from lfmesh.errors import BadFrame
from lfmesh.types import Channel, Position, StreamKey

# A gateway waits up to 2 s for a position ahead of its own, so nothing is asked again before that.
_LIMITS = FollowerLimits(held_items=1024, retry_ns=5_000_000_000, retransmit_attempts=2, max_retry_ns=20_000_000_000)
_STATUS_FOLLOWS_NS = 500_000_000
"""A status comes right behind `subscribed`; so long after it none will."""
_MAX_PARTS_BYTES = 64 * 1024 * 1024

Start = Literal["snapshot", "resume", "next"]


class Stream:
    """See the module's docstring. `after`: a position of an earlier run, to go on from without its state."""

    def __init__(
        self,
        key: StreamKey,
        *,
        want_snapshot: bool = True,
        conflate_ms: int = 0,
        after: Position | None = None,
        keep_trades: int = 1000,
    ) -> None:
        self.key = key
        self.want_snapshot = want_snapshot
        self.conflate_ms = conflate_ms
        self.status = StreamStatus("waiting")
        self.contents = Contents(key, keep_trades)
        self.active = False
        """`subscribed` has come on this connection."""
        self.asked = False
        """A request for it is under way."""
        self._told: StreamStatus | None = None
        self._follower: Follower[Unit] = Follower(limits=_LIMITS, position=after)
        self._start: Start | None = None
        self._asked_start: Start = "snapshot"
        self._asked_after: Position | None = None
        self._fresh = False
        self._distrusted = False
        self._parts: list[tuple[SnapshotData, str]] = []
        self._parts_bytes = 0
        self._status_came = False
        self._begun_at = 0

    def take_over(self, earlier: "Stream") -> None:
        """Be this stream's successor: what it knew of the product stays, until something newer comes."""
        self.contents = earlier.contents
        self._told = earlier._told  # noqa: SLF001 - of the same class
        self.active = earlier.active
        self._distrusted = True

    # What is known of it ----------------------------------------------------------------------------------------

    @property
    def position(self) -> Position | None:
        """Where it stands."""
        return self._follower.position

    @property
    def started(self) -> bool:
        """Its state is that of the mesh: data has come since it was asked for, or it goes on from where it was."""
        return self.active and self._start in (None, "resume") and not self._distrusted

    # Asking -----------------------------------------------------------------------------------------------------

    def ask(self, *, fresh: bool = False) -> Asked:
        """What to ask of the gateway, which is now being asked. `fresh`: with a snapshot, wherever it stands."""
        self._fresh = self._fresh or fresh
        self._asked_after = None if self._fresh else self.position
        if self._asked_after is not None:
            self._asked_start = "resume"
        else:
            self._asked_start = "snapshot" if self.want_snapshot or self._fresh else "next"
        self.asked = True
        return Asked(*self.key, self._asked_after, self._asked_start != "next", self.conflate_ms)

    def begin(self, now: int) -> bool:
        """`subscribed` has come for it: the next message is the first one of what was asked.

        True if that will not do any more, and it has to be asked for again.
        """
        position = self._asked_after
        if position is None or position != self.position:
            self.contents.trades.restart()
        self._renew(position)
        if self._asked_start == "next":
            self._follower.join = "anywhere"
        self.active, self.asked = True, False
        self._start = self._asked_start
        self._distrusted = self._status_came = False
        again = self._fresh and self._asked_start == "resume"
        self._fresh = again
        # Of what is resumed nothing need come, and a stream of which nothing is said is live.
        waits = self._start != "resume"
        self.status = StreamStatus("waiting", 0, "nothing has come yet") if waits else StreamStatus("live")
        self._begun_at = now
        return again

    def overtaken(self) -> None:
        """`subscribed` has come for an earlier request than the newest: what follows is not what is wanted now."""
        self.active = self._distrusted = True
        self._parts, self._parts_bytes = [], 0

    def end(self, reason: str) -> None:
        """The connection is lost."""
        self._renew(self._follower.position)
        self.active = self.asked = False
        self._start = None
        self._distrusted = False
        self.status = StreamStatus("disconnected", 0, reason)

    def rewound(self) -> None:
        """What comes from now on may be before what came: a replay plays from another moment."""
        self.contents.trades.forget()
        self._parts, self._parts_bytes = [], 0

    def refused(self, reason: str) -> None:
        """The gateway will not carry it."""
        self.active = self.asked = False
        self.status = StreamStatus("refused", 0, reason)

    def tick(self, now: int, out: Outcome) -> None:
        """Time passes: what was not answered is asked again."""
        if self._goes_on and now - self._begun_at > _STATUS_FOLLOWS_NS:
            self._tell_status(now, out)
        if self._follower.gapped and self.active and not self.asked:
            self._facts(self._follower.tick(now), now, out)

    # What comes -------------------------------------------------------------------------------------------------

    def increment(self, data: IncrementData, text: str, now: int, out: Outcome) -> None:
        """An increment has come."""
        if self._distrusted:
            return
        if self._parts:
            self._distrust("parts", f"{len(self._parts)} parts of a snapshot, then an increment", now, out, text)
            return
        start = self._start
        if start is not None and not self._starts_right(data, start):
            told = f"begins with increment {data.seq} of epoch {data.epoch} where {_asked(start, self.position)}"
            self._distrust("start", told, now, out, text, fresh=True)
            return
        at = self._follower.position
        if at is not None and data.epoch != at.epoch:
            told = f"increment {data.seq} of epoch {data.epoch}, which no snapshot opened"
            self._distrust("epoch", told, now, out, text)
            return
        if data.prev_seq is not None and not self._may_merge(data.prev_seq, data.seq):
            self._distrust("gap", f"seq {data.seq} with prev_seq {data.prev_seq} after {at}", now, out, text)
            return
        if start is not None:
            self._has_started(now, out)
        unit = IncrementUnit(data, text, now)
        facts = self._follower.increments(data.epoch, data.seq, (unit,), now, data.prev_seq)
        self._facts(facts, now, out, _follows(data))

    def snapshot(self, data: SnapshotData, text: str, now: int, out: Outcome) -> None:
        """A snapshot has come, or a part of one."""
        if self._distrusted:
            return
        parts: tuple[SnapshotData, ...]
        texts: tuple[str, ...]
        if data.parts == 1:
            parts, texts = (data,), (text,)
            self._parts, self._parts_bytes = [], 0
        else:
            problem = self._take_part(data, text)
            if problem:
                self._distrust("parts", problem, now, out, text)
                return
            if data.part < data.parts:
                return
            parts = tuple(part for part, _ in self._parts)
            texts = tuple(part_text for _, part_text in self._parts)
            self._parts, self._parts_bytes = [], 0
        follows = self._start != "snapshot"
        if self._start is not None:
            self._has_started(now, out)
        first = parts[0]
        position = Position(first.epoch, first.seq)
        book = self.contents.book
        before = book.copy() if book.ready and book.position == position else None
        unit = SnapshotUnit(parts, texts, now, follows, before)
        self._facts(self._follower.rebase(position, (unit,), now), now, out)

    def status_came(self, status: Status, now: int, out: Outcome) -> None:
        """A status has come."""
        self._status_came = True
        self.status = StreamStatus(status.state, status.since, status.reason)
        self._tell_status(now, out)

    # Positions --------------------------------------------------------------------------------------------------

    def _facts(self, facts: Sequence[Fact[Unit]], now: int, out: Outcome, follows: int = 0) -> None:
        """`follows`: the position that the increment which has come goes on from."""
        for fact in facts:
            match fact:
                case Accepted(items=units) | Opened(items=units):
                    for unit in units:
                        self._take(unit, out)
                        if self._distrusted:
                            return
                case GapOpened(last):
                    told = f"increments {(last.seq if last else 0) + 1} to {follows} are missing"
                    out.complain(self.key, "gap", told, now)
                case Dropped(count, "duplicate"):
                    told = f"{count} increments at or before {self.position} came again"
                    out.complain(self.key, "repeated", told, now)
                case Wanted(rung, _):
                    self._fresh = self._fresh or rung == "snapshot"
                    self.status = StreamStatus("resyncing", now, "increments are missing")
                    out.anew = True
                case Based() | GapClosed() | Dropped():
                    pass
                case _:
                    assert_never(fact)

    def _renew(self, position: Position | None) -> None:
        self._follower = Follower(limits=_LIMITS, position=position)
        self._parts, self._parts_bytes = [], 0

    def _starts_right(self, data: IncrementData, start: Start) -> bool:
        at = self.position
        match start:
            case "snapshot":
                return False
            case "next":
                return True
            case "resume":
                return at == Position(data.epoch, _follows(data))

    def _may_merge(self, prev_seq: int, seq: int) -> bool:
        """Whether this is what a merged increment can be; one that came before is for the follower to see."""
        at = self.position
        in_place = at is None or at.seq <= prev_seq or seq <= at.seq
        return self.key.channel is not Channel.TRADES and prev_seq < seq and in_place

    def _take_part(self, data: SnapshotData, text: str) -> str | None:
        """Add a part; what is wrong with it. A snapshot may be begun anew, when its stream has been replaced."""
        if data.part == 1:
            self._parts, self._parts_bytes = [], 0
        self._parts.append((data, text))
        self._parts_bytes += len(text)
        first = self._parts[0][0]
        if data.part != len(self._parts) or data.part > data.parts:
            return f"part {data.part} of {data.parts} where part {len(self._parts)} should be"
        if (data.epoch, data.seq, data.parts) != (first.epoch, first.seq, first.parts):
            return f"part {data.part} is of another snapshot than part 1"
        return "a snapshot over 64 MB" if self._parts_bytes > _MAX_PARTS_BYTES else None

    # Trouble ----------------------------------------------------------------------------------------------------

    def _distrust(
        self, kind: ViolationKind, detail: str, now: int, out: Outcome, text: str, *, fresh: bool = False
    ) -> None:
        """Tell what is wrong, and believe nothing of this stream until it has been asked for anew."""
        out.complain(self.key, kind, detail, now, text)
        self._distrusted = True
        self._fresh = self._fresh or fresh
        self._parts, self._parts_bytes = [], 0
        self.status = StreamStatus("resyncing", now, f"the gateway broke a promise: {kind}")
        out.anew = True

    def _has_started(self, now: int, out: Outcome) -> None:
        self._start = None
        if not self._status_came:
            self.status = StreamStatus("live")
            if self._goes_on:
                self._tell_status(now, out)

    @property
    def _goes_on(self) -> bool:
        """It was told not to be live, and is, since nothing else has been said of it."""
        told = self._told is not None and self._told.state != "live"
        return told and self.active and not self._status_came and self.status.state == "live"

    def _tell_status(self, now: int, out: Outcome) -> None:
        self._told = self.status
        state, since, reason = self.status
        if state in ("live", "recovering", "stale"):
            product, channel = self.key
            out.events.append(
                StatusChanged(
                    product=product, channel=channel, state=state, since=since, reason=reason, ts_received=now
                )
            )

    # State ------------------------------------------------------------------------------------------------------

    def _take(self, unit: Unit, out: Outcome) -> None:
        """Take a unit into the state; if that can't be, or what comes of it can't be right, take the stream anew."""
        contents, now = self.contents, unit.at
        if isinstance(unit, SnapshotUnit):
            text = unit.texts[0]
            try:
                contents.load(unit, out)
            except BadFrame as error:
                kind: ViolationKind = "trade_order" if isinstance(error, Disordered) else "not_exact"
                self._distrust(kind, str(error), now, out, text, fresh=True)
                return
        else:
            data, text, _ = unit
            try:
                contents.apply(unit, out)
            except (BadFrame, TooEarly) as error:
                self._renew(Position(data.epoch, _follows(data)))
                self._distrust("trade_gap" if isinstance(error, TooEarly) else "not_exact", str(error), now, out, text)
                return
        crossing = contents.crossing
        if crossing is not None:
            self._distrust("crossed", crossing, now, out, text, fresh=True)


def _follows(data: IncrementData) -> int:
    """The seq that an increment goes on from: that of the message before it, or of those that are merged in it."""
    return data.seq - 1 if data.prev_seq is None else data.prev_seq


def _asked(start: Start, position: Position | None) -> str:
    return f"{position} was to be resumed" if start == "resume" else "a snapshot was asked for"
