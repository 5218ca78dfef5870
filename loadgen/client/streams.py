"""One stream as a client follows it: how it begins, positions, parts of snapshots, and the state they lead to.

A stream is begun with what was asked for (`Start`), then fed with its messages; what breaks a promise is reported and
the stream goes on from what came, so that one fault is one violation.

Where a snapshot stands at or before the position reached in the same epoch, guarantee 3 can be checked exactly: the
state reached is kept aside until the increments after the snapshot have come up to the same position. (A merged
increment may lead past it; then nothing is compared.)
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from lfmesh.types import Position
from loadgen.client.pace import Pace
from loadgen.client.state import Book, Problem, Ticker, Trades, ticker_of
from loadgen.client.violations import Kind
from loadgen.client.wire import (
    BookIncrement,
    Increment,
    NotExact,
    Snapshot,
    Tick,
    TradeIncrement,
    decode_book,
    decode_ticker,
    decode_trades,
)

Report = Callable[[Kind, str], None]


class Pause(NamedTuple):
    """`ns` without a message of a stream, beginning at `since`."""

    ns: int
    since: int


@dataclass(frozen=True, slots=True)
class Start:
    """How a stream must begin: with a snapshot, after a position (epoch None: a bare seq), or with whatever is next.

    "any": it goes on in a replay that plays from another moment.
    """

    how: Literal["snapshot", "resume", "next", "any"]
    epoch: int | None = None
    seq: int = 0


class StreamCheck[V]:
    """What all channels have alike; `V` is a picture of the state that can be compared."""

    may_conflate = True

    def __init__(self, report: Report) -> None:
        self.active = False
        self.asked_at = 0
        self.conflate_ms = 0
        self.epoch = -1
        self.seq = -1
        self.increments = 0
        self.conflated = 0
        self.reasons: Counter[str] = Counter()
        self.continuity: Counter[str] = Counter()
        self.status = ""
        self._heard_at = 0
        self._longest = Pause(0, 0)
        self._report = report
        self._start: Start | None = None
        self._parts: list[Snapshot] = []
        self._awaited: tuple[int, V] | None = None
        self._pace: Pace | None = None

    @property
    def position(self) -> Position | None:
        """Where the stream stands, None before its first message."""
        return Position(self.epoch, self.seq) if self.epoch >= 0 else None

    @property
    def started(self) -> bool:
        """True when the first message after the latest `subscribed` has come."""
        return self.active and self._start is None

    def heard(self, now: int) -> None:
        """A message of it has come."""
        before, self._heard_at = self._heard_at, now
        if before and now - before > self._longest.ns:
            self._longest = Pause(now - before, before)

    def pause(self, now: int) -> Pause:
        """The longest time without a message of it so far, connected or not; it may not have ended yet."""
        current = Pause(now - self._heard_at, self._heard_at) if self._heard_at else Pause(0, 0)
        return max(self._longest, current)

    def forget_pause(self) -> None:
        """Count pauses anew; one that goes on is counted whole."""
        self._longest = Pause(0, 0)

    def begin(self, start: Start, asked_at: int, conflate_ms: int = 0) -> None:
        """`subscribed` has come for it, in answer to what was asked at `asked_at`."""
        here = start.how == "resume" and start.seq == self.seq and start.epoch in (None, self.epoch)
        if not here and not (self.active and start.how == "snapshot"):
            self._give_up()
        self.active = True
        self.asked_at = asked_at
        self.conflate_ms = conflate_ms if self.may_conflate else 0
        self._pace = Pace(self.conflate_ms * 1_000_000) if self.conflate_ms else None
        self._start = start
        self._parts = []

    def rewound(self) -> None:
        """A replay plays from another moment: what comes need not follow on what came."""
        self._parts = []
        if self.active and (self._start is None or self._start.how == "resume"):
            self._start = Start("any")
        self._rewound()

    def end(self) -> None:
        """`unsubscribed` has come, or the connection is lost; the state stays."""
        self.active = False
        self._start = None
        self._parts = []

    def increment(self, data: Increment) -> None:
        """The next increment."""
        if data.epoch == self.epoch and data.seq == self.seq + 1 and data.prev_seq is None and self._start is None:
            self.seq = data.seq
        else:
            self._jump(data)
        # What was published before it was asked for is the tail of a join or a resume, and may come as it is.
        live = data.ts_publish > self.asked_at
        if live and self._pace is not None and self._pace.exceeded(self._heard_at, data.ts_publish):
            self._report(Kind.PACE, f"more than one increment in {self.conflate_ms} ms, again and again")
        if self._parts:
            self._drop_parts("an increment comes between them")
        self.increments += 1
        self.continuity[data.continuity] += 1
        try:
            self._apply(data)
        except NotExact as error:
            self._report(Kind.NOT_EXACT, str(error))
        if self._awaited is not None:
            self._compare_awaited()

    def snapshot(self, data: Snapshot) -> None:
        """A snapshot, or a part of one."""
        if data.parts > 1 or data.part > 1 or self._parts:
            if not self._take_part(data):
                return
            parts, self._parts = self._parts, []
        else:
            parts = [data]
        first = parts[0]
        self.reasons[first.reason] += 1
        start, self._start = self._start, None
        self._check_reason(first, start)
        before = self._picture() if first.epoch == self.epoch and first.seq <= self.seq else None
        reached = self.seq
        self.epoch, self.seq = first.epoch, first.seq
        try:
            problems = self._load(parts, restart=start is not None)
        except NotExact as error:
            problems = [(Kind.NOT_EXACT, str(error))]
        except msgspec.DecodeError as error:
            problems = [(Kind.MALFORMED, f"state: {error}")]
        for kind, detail in problems:
            self._report(kind, detail)
        self._awaited = None if before is None else (reached, before)
        if self._awaited is not None:
            self._compare_awaited()

    # Inside ---------------------------------------------------------------------------------------------------

    def _jump(self, data: Increment) -> None:
        """Take a position that is not simply the next one, and say what is wrong with that, if anything is."""
        start, self._start = self._start, None
        prev_seq = data.prev_seq
        if prev_seq is not None:
            self.conflated += 1
        if prev_seq is not None and not self.conflate_ms:
            why = "where `conflate_ms` was not asked for" if self.may_conflate else "on trades"
            self._report(Kind.SEQ, f"seq {data.seq} with prev_seq {prev_seq} {why}")
        elif prev_seq is not None and prev_seq >= data.seq:
            self._report(Kind.SEQ, f"seq {data.seq} with prev_seq {prev_seq}")
        elif start is not None:
            self._check_first(data, start)
        elif data.epoch != self.epoch:
            self._report(Kind.EPOCH, f"seq {data.seq} of epoch {data.epoch} in epoch {self.epoch}, without a snapshot")
        elif prev_seq is None:
            self._report(Kind.SEQ, f"seq {data.seq} after {self.seq}")
        elif prev_seq != self.seq:
            self._report(Kind.SEQ, f"seq {data.seq} with prev_seq {prev_seq} after {self.seq}")
        self.epoch, self.seq = data.epoch, data.seq

    def _check_first(self, data: Increment, start: Start) -> None:
        match start.how:
            case "next" | "any":
                pass
            case "snapshot":
                self._report(Kind.START, f"begins with increment {data.seq} where a snapshot was asked for")
            case "resume":
                follows = data.seq == start.seq + 1 if data.prev_seq is None else data.prev_seq == start.seq
                if not follows or (start.epoch is not None and start.epoch != data.epoch):
                    asked = f"({start.epoch}, {start.seq})"
                    self._report(Kind.START, f"resumed at {asked}, begins with ({data.epoch}, {data.seq})")

    def _check_reason(self, data: Snapshot, start: Start | None) -> None:
        reason = data.reason
        if start is not None and start.how == "any":
            return
        if start is None or start.how == "next":
            if reason in ("subscribe", "resume_failed"):
                self._report(Kind.REASON, f"reason {reason} where neither was asked for")
        elif start.how == "snapshot":
            if reason == "resume_failed":
                self._report(Kind.REASON, "reason resume_failed where no position was given")
        elif reason in ("conflated", "gap") and data.seq > start.seq:
            pass  # it went on where it stood, without a message, and fell behind later, or the next one was lost to all
        elif reason == "subscribe" or (reason != "resume_failed" and data.epoch == start.epoch):
            self._report(Kind.START, f"resumed in epoch {start.epoch}, begins with a snapshot of it, reason {reason}")

    def _take_part(self, data: Snapshot) -> bool:
        """Add a part; True when the snapshot is complete."""
        parts = self._parts
        if data.part > data.parts:
            self._report(Kind.PARTS, f"part {data.part} of {data.parts}")
            return False
        if data.part == 1:  # also if one has begun: a publisher that is replaced takes its states with it
            self._parts = [data]
        else:
            expected = len(parts) + 1
            same = parts and (data.epoch, data.seq, data.parts) == (parts[0].epoch, parts[0].seq, parts[0].parts)
            if data.part != expected or not same:
                self._report(Kind.PARTS, f"part {data.part} of {data.parts} where part {expected} should be")
                self._parts = []
                return False
            parts.append(data)
        return data.part == data.parts

    def _drop_parts(self, why: str) -> None:
        self._report(Kind.PARTS, f"{len(self._parts)} of {self._parts[0].parts} parts came, then {why}")
        self._parts = []

    def _compare_awaited(self) -> None:
        assert self._awaited is not None
        reached, before = self._awaited
        if self.seq < reached:
            return
        self._awaited = None
        now = self._picture()
        if self.seq == reached and now is not None:
            difference = self._difference(before, now)
            if difference:
                self._report(Kind.STATE, f"at ({self.epoch}, {self.seq}) {difference}")

    # For each channel -----------------------------------------------------------------------------------------

    def _apply(self, data: Increment) -> None:
        raise NotImplementedError

    def _load(self, parts: list[Snapshot], *, restart: bool) -> list[Problem]:
        raise NotImplementedError

    def _picture(self) -> V | None:
        """The state as it stands; it is replaced, not changed, by the next `_load`."""
        raise NotImplementedError

    def _difference(self, before: V, now: V) -> str | None:
        raise NotImplementedError

    def _give_up(self) -> None:
        """The client begins anew, whatever it holds."""

    def _rewound(self) -> None:
        """What is known of the order of contents counts no more."""


class TickerCheck(StreamCheck[Ticker]):
    """A ticker stream."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.ticker: Ticker | None = None

    def _apply(self, data: Increment) -> None:
        assert isinstance(data, Tick)
        self.ticker = ticker_of(data.fields)

    def _load(self, parts: list[Snapshot], *, restart: bool) -> list[Problem]:
        del restart
        self.ticker = None
        self.ticker = ticker_of(decode_ticker(parts[-1].state))
        return []

    def _picture(self) -> Ticker | None:
        return self.ticker

    def _difference(self, before: Ticker, now: Ticker) -> str | None:
        return None if before == now else f"ticker {now}, was {before}"


class BookCheck(StreamCheck[Book]):
    """A book stream."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.book: Book | None = None

    def _apply(self, data: Increment) -> None:
        assert isinstance(data, BookIncrement)
        if self.book is not None:
            self.book.apply(data.fields)

    def _load(self, parts: list[Snapshot], *, restart: bool) -> list[Problem]:
        del restart
        self.book = None
        self.book, problems = Book.of(decode_book(part.state) for part in parts)
        return problems

    def _picture(self) -> Book | None:
        return self.book

    def _difference(self, before: Book, now: Book) -> str | None:
        return before.difference(now)

    def _give_up(self) -> None:
        # Without a snapshot the next increments would be applied to a book of another position.
        self.book = None


class TradesCheck(StreamCheck[Trades]):
    """A trades stream. Its state is compared trade by trade, whatever the position."""

    may_conflate = False

    def __init__(self, report: Report, keep: int | None) -> None:
        super().__init__(report)
        self.trades = Trades(keep)

    def _apply(self, data: Increment) -> None:
        assert isinstance(data, TradeIncrement)
        for kind, detail in self.trades.add(data.fields):
            self._report(kind, detail)

    def _load(self, parts: list[Snapshot], *, restart: bool) -> list[Problem]:
        states = [decode_trades(part.state) for part in parts]
        listed = [trade for state in states for trade in state.trades]
        return self.trades.load(listed, parts[0].missing, restart=restart, settled=states[-1].last_trade_id)

    def _picture(self) -> Trades | None:
        return None

    def _difference(self, before: Trades, now: Trades) -> str | None:
        del before, now
        return None

    def _give_up(self) -> None:
        self.trades.forget_cursor()

    def _rewound(self) -> None:
        self.trades.forget_cursor()
