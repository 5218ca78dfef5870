"""A product's lines: each ingestor that brings it keeps a book of its own here, and one of the books is published.

A book needs every update of one connection, so the lines' updates are never mixed. The published book changes to
another line (a new epoch with that line's book, nobody is asked) when its own is lost, its ingestor is silent, its
venue connection is over, or it lags another line's trades. A line's lost book is asked anew of its own ingestor; that,
and what is logged, the owner reads from the facts.
"""

from collections.abc import Callable

from lfmesh.core import encode
from lfmesh.core.book import Book
from lfmesh.core.liveness import SILENT_INGESTOR, Liveness
from lfmesh.core.outlet import Outlet
from lfmesh.core.product_facts import BookHeld, BookLost, BookOpened, LineChanged, Outcome, ProductFact
from lfmesh.core.ticker import Best, Ticker
from lfmesh.types import BookSnapshot, BookUpdate, InputPosition, Level, Position, SnapshotReason

CROSSED = "the book was crossed"
DISORDERED = "an update of the book came late"
NO_SNAPSHOT = "updates came without a snapshot"
BAD_BOOK_FRAME = "a frame of the book could not be read"
FRAMES_LOST = "frames were lost between ingestor and normalizer"
REPLACED_INGESTOR = "the ingestor was restarted"
STALLED = "the venue said nothing for too long"
CATCHING_UP = "what the venue said meanwhile is being read"
LAGGING = "the line lags behind the other"


class Line:
    """What one ingestor brings of the product. `behind`: what it brings now is history."""

    __slots__ = (
        "behind", "book", "book_time", "heartbeat_sequence", "held", "ingestor", "last_trade_id", "link_lost",
        "quote_sequence", "resync_wanted", "silent",
    )  # fmt: skip

    def __init__(self, ingestor: int, *, behind: bool = False) -> None:
        self.ingestor = ingestor
        self.behind = behind
        self.silent = False
        self.link_lost = ""
        self.book = Book()
        self.book_time = 0
        self.held = False
        self.resync_wanted = False
        self.begin_connection()

    def begin_connection(self) -> None:
        """What the next connection brings is compared with nothing of the one before."""
        self.last_trade_id = 0
        self.quote_sequence = -1
        self.heartbeat_sequence = -1

    @property
    def alive(self) -> bool:
        """True unless its ingestor is silent or its venue connection is over."""
        return not self.silent and not self.link_lost


class Lines:
    """All lines of one product. `current` is that of the record at hand."""

    def __init__(
        self,
        outlet: Outlet,
        note: Callable[[ProductFact], None],
        tell: Callable[[], None],
        liveness: Liveness,
        ticker: Ticker,
        lag_ns: int,
    ) -> None:
        self._product = outlet.stream.product
        self._outlet = outlet
        self._note = note
        self._tell = tell
        self._liveness = liveness
        self._ticker = ticker
        self._lag_ns = lag_ns
        self.current = Line(0)
        self.several = False
        self._lines: dict[int, Line] = {}
        self._published: Line | None = None
        self._behind: dict[int, bool] = {}  # whose history is awaited, and whether they are silent meanwhile
        self._held_back = False
        self._lagging_id = 0
        self._lagging_since = 0

    def resume(
        self, position: Position, source: InputPosition, bids: list[Level], asks: list[Level], ingestor: int
    ) -> None:
        """Go on in an earlier process's epoch with this book, of this ingestor's line."""
        line = self.turn_to(ingestor)
        line.book.replace(bids, asks)
        line.held = True
        self._published = line
        self._ticker.book_rules = True
        self._outlet.resume(position, source)

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def ingestors(self) -> list[int]:
        """Who brings the product, the living first."""
        return [line.ingestor for line in sorted(self._lines.values(), key=lambda line: not line.alive)]

    @property
    def published(self) -> Line | None:
        """The line whose book is published; None while none is."""
        return self._published

    @property
    def watches(self) -> bool:
        """True while `tick` may have something to do."""
        return self._lagging_since > 0

    def holds(self, ingestor: int) -> bool:
        """True if this ingestor's line holds a book."""
        line = self._lines.get(ingestor)
        return line is not None and line.held

    def may_bring(self, trade_id: int) -> bool:
        """True if a living line has not come to this trade yet."""
        return any(line.alive and line.last_trade_id < trade_id for line in self._lines.values())

    def top(self) -> tuple[Best, Best]:
        """Best bid and ask of the published book."""
        bid, ask, _ = self._published.book.top() if self._published is not None else (None, None, False)
        return bid, ask

    def state(self) -> list[str] | None:
        """The published book as the parts of a snapshot."""
        return None if self._published is None else _parts(self._published)

    # What arrives -----------------------------------------------------------------------------------------------

    def turn_to(self, ingestor: int) -> Line:
        """The records that follow are this ingestor's."""
        line = self._lines.get(ingestor)
        if line is None:
            line = self._lines[ingestor] = Line(ingestor, behind=ingestor in self._behind)
            if len(self._lines) == 2:
                self.several = True
                self._ticker.mix()
            if self._behind:
                self._await_nobody_in_vain()
        self.current = line
        return line

    def heard(self, line: Line) -> None:
        """The line's venue connection is back: a frame has come."""
        line.link_lost = ""
        self._judge()

    def update(self, update: BookUpdate) -> Outcome:
        """Apply an update to the book of its line, and publish it if that is the one."""
        line = self.current
        if not line.held:
            if not line.resync_wanted:
                self.lose(line, NO_SNAPSHOT, resync=True)
            return Outcome.BOOK_NOT_HELD
        ts_event = update.ts_event
        if ts_event < line.book_time:
            # Sizes are absolute: in the wrong order the older one stays.
            self.lose(line, DISORDERED, resync=True)
            return Outcome.DISORDERED
        line.book_time = ts_event
        book = line.book
        changes = update.changes
        book.apply(changes)
        bid, ask, crossed = book.top()
        if crossed:
            self.lose(line, CROSSED, resync=True, detail=f"bid {bid}, ask {ask}")
            return Outcome.CROSSED
        if changes and line is self._published:
            self._outlet.increment(ts_event, "unverified", encode.book_changes(changes))
            self._ticker.take_best(bid, ask, ts_event)
        return Outcome.ACCEPTED

    def snapshot(self, snapshot: BookSnapshot) -> Outcome:
        """A line's whole book."""
        line = self.current
        book = line.book
        book.replace(snapshot.bids, snapshot.asks)
        line.book_time = snapshot.ts_event
        bid, ask, crossed = book.top()
        if crossed:
            self.lose(line, CROSSED, resync=True, detail=f"bid {bid}, ask {ask}")
            return Outcome.INCONSISTENT
        line.held, line.resync_wanted = True, False
        self._note(BookHeld(self._product, line.ingestor))
        published = self._published
        if self._held_back:
            self._liveness.book_waits(CATCHING_UP)
        elif published is line or (published is None and not line.behind):
            self._publish(line, snapshot.ts_event)
        else:
            self._reconsider()
        return Outcome.ACCEPTED

    def traded(self, line: Line, trade_id: int, now: int) -> None:
        """A line has brought a trade: see whether the published one is as far (`several` only)."""
        line.last_trade_id = trade_id
        published = self._published
        if published is None or published.last_trade_id == 0:
            return
        if self._lagging_since and published.last_trade_id >= self._lagging_id:
            self._lagging_since = 0
        if not self._lagging_since and trade_id > published.last_trade_id:
            self._lagging_id, self._lagging_since = trade_id, now

    # What goes wrong --------------------------------------------------------------------------------------------

    def lose(self, line: Line, why: str, *, resync: bool, detail: str = "") -> None:
        """A line's book can't be trusted from here on. `resync`: its snapshot must be asked for."""
        if not line.held and resync == line.resync_wanted:
            return
        line.held, line.resync_wanted = False, resync
        self._note(BookLost(self._product, why, resync, detail, line.ingestor))
        if self._published is None:
            self._liveness.book_waits(why)
        elif self._published is line:
            self._withdraw(why)
        self._tell()

    def lost(self, ingestor: int, *, resync: bool) -> None:
        """Records of this ingestor are gone for good: whatever its book missed, nobody knows."""
        line = self._lines.get(ingestor)
        if line is not None:
            self.lose(line, FRAMES_LOST, resync=resync)
        elif not self._lines and resync:
            self._note(BookLost(self._product, FRAMES_LOST, resync=True))
            self._liveness.book_waits(FRAMES_LOST)
            self._tell()

    def link_down(self, ingestor: int, why: str) -> None:
        """The product's venue connection at this ingestor is over; its successor brings a snapshot by itself."""
        if ingestor in self._lines or not self._lines:
            line = self.turn_to(ingestor)
            line.link_lost = why
            line.begin_connection()
            if not self.several:
                self._ticker.forget_sequence()
            self.lose(line, why, resync=False)
            self._judge()

    def replaced(self, ingestor: int) -> None:
        """A new process of this ingestor has come: the old one's connections are over."""
        if ingestor in self._lines:
            self._lines[ingestor].silent = False
            self.link_down(ingestor, REPLACED_INGESTOR)

    def silence(self, ingestor: int, *, silent: bool) -> None:
        """An ingestor has fallen silent, or is heard again."""
        line = self._lines.get(ingestor)
        if line is not None:
            line.silent = silent
            self._reconsider()
        if ingestor in self._behind:
            self._behind[ingestor] = silent
            self._await_nobody_in_vain()

    def forget(self, trade_id: int) -> None:
        """There is no such trade; which line came how far is not known any more."""
        for line in self._lines.values():
            if line.last_trade_id >= trade_id:
                line.last_trade_id = 0

    def stalled(self) -> None:
        """Nothing has come for too long: who knows what was said meanwhile."""
        if self._published is not None and not self.several:
            self._ticker.reopen()  # this moment is no record's
        for line in sorted(self._lines.values(), key=lambda line: line is self._published):
            if line.held:
                self.lose(line, STALLED, resync=True)

    def tick(self, now: int) -> None:
        """Time has passed: a published line that lags for too long is left."""
        if self._lagging_since and now - self._lagging_since >= self._lag_ns:
            other = self._fit()
            if other is not None and other.last_trade_id >= self._lagging_id:
                self._change(other, LAGGING)

    def excuse(self, lateness_ns: int) -> None:
        """For so long we did not run ourselves."""
        if self._lagging_since:
            self._lagging_since += lateness_ns

    # History ----------------------------------------------------------------------------------------------------

    def hold_back(self, ingestor: int) -> None:
        """What this ingestor brings is history: neither book nor ticker begin with it before `go_on`.

        Without effect on a line that is known already, and on streams that are open.
        """
        self._ticker.hold_back()
        if ingestor in self._lines:
            return
        self._behind[ingestor] = False
        if not self._lines and not self._outlet.is_open:
            self._held_back = True
            self._liveness.book_waits(CATCHING_UP)

    def go_on(self, ingestor: int) -> None:
        """This ingestor brings the present now."""
        self._behind.pop(ingestor, None)
        line = self._lines.get(ingestor)
        if line is not None:
            line.behind = False
        if line is not None or not self._behind:
            self._begin_present()

    def _begin_present(self) -> None:
        if self._held_back:
            self._held_back = False
            self._liveness.book_waits_no_longer(CATCHING_UP)
        self._reconsider()
        self._ticker.go_on()

    def _await_nobody_in_vain(self) -> None:
        """If all whose history is awaited have fallen silent, what a living line brings is the present."""
        if all(self._behind.values()) and any(line.alive and not line.behind for line in self._lines.values()):
            self._begin_present()

    # Which is published -----------------------------------------------------------------------------------------

    def _fit(self) -> Line | None:
        """A line whose book could be published instead; of several the one that is furthest."""
        fit = [
            line
            for line in self._lines.values()
            if line is not self._published and line.held and line.alive and not line.behind
        ]
        return max(fit, key=lambda line: line.last_trade_id, default=None)

    def _reconsider(self) -> None:
        """Publish a line that stands if none is published, or one that does not."""
        published = self._published
        if not self._held_back and (published is None or not published.alive):
            other = self._fit()
            if other is not None and published is None:
                self._publish(other, 0)
            elif other is not None and published is not None:
                self._change(other, published.link_lost or SILENT_INGESTOR)
        self._judge()
        self._tell()

    def _withdraw(self, why: str) -> None:
        other = self._fit()
        if other is not None:
            self._change(other, why)
            return
        self._published = None
        self._lagging_since = 0
        self._ticker.book_rules = False
        self._outlet.whole = False
        self._liveness.book_waits(why)

    def _change(self, line: Line, why: str) -> None:
        before = self._published.ingestor if self._published is not None else 0
        self._note(LineChanged(self._product, before, line.ingestor, why))
        self._publish(line, 0)

    def _publish(self, line: Line, ts_event: int) -> None:
        """Begin an epoch with this line's book."""
        self._published = line
        self._lagging_since = 0
        self._ticker.book_rules = True
        outlet, book = self._outlet, line.book
        reason: SnapshotReason = "resync" if outlet.is_open else "epoch"
        outlet.whole = True
        outlet.open(reason, _parts(line), ts_event, ingestor=line.ingestor)
        self._note(BookOpened(self._product, reason, len(book.bids) + len(book.asks)))
        self._liveness.book_waits("")
        self._tell()
        bid, ask, _ = book.top()
        self._ticker.take_best(bid, ask, ts_event)

    def _judge(self) -> None:
        """Say of whom nothing can come: of nobody (the product's streams), or of the published line (its book)."""
        lines, liveness = self._lines.values(), self._liveness
        published = self._published
        if not lines or any(line.alive for line in lines):
            liveness.source_lost("")
            if published is not None:
                liveness.book_waits("" if published.alive else published.link_lost or SILENT_INGESTOR)
        else:
            heard = (line.link_lost for line in lines if not line.silent)
            liveness.source_lost(next(heard, SILENT_INGESTOR))


def _parts(line: Line) -> list[str]:
    return encode.book_state_parts(line.book.bids.sorted(), line.book.asks.sorted())
