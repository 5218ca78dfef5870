"""Whatever happens on the way, trades are gapless or declared, books are their line's, and a restart goes on."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lfmesh.core.liveness import LOST_CONNECTION
from lfmesh.core.product import NOTHING_RESTORED
from lfmesh.messages import BackfillPage
from lfmesh.types import BookSnapshot, BookUpdate, Channel, Trade, TradePosition, VenueEvent
from tests.core.product_follower import Followed, complete, put
from tests.core.product_world import PRODUCT, T0, A, B, World, heartbeat, page, quote, trade

FIRST = 100
SNAPSHOT_OF_LINE = {A: "50.0", B: "51.0"}
"""A level that tells whose book it is."""


def book_snapshot(line: int) -> BookSnapshot:
    return BookSnapshot(PRODUCT, [(SNAPSHOT_OF_LINE[line], "1"), ("90", "1")], [("110", "1")])


def feed(kinds: str) -> list[VenueEvent]:
    """What the venue says: t trade, u book update, q ticker, h heartbeat."""
    events: list[VenueEvent] = [TradePosition(trade(FIRST))]
    last = FIRST
    for number, kind in enumerate(kinds, 1):
        match kind:
            case "t":
                last += 1
                events.append(trade(last, px=f"100.{last % 7}0", qty=f"0.{last % 5}1"))
            case "u":
                side = "buy" if number % 2 else "sell"
                px = f"{80 + number % 15}.5" if side == "buy" else f"{105 + number % 15}.5"
                qty = "0" if number % 5 == 0 else f"{number % 9 + 1}.00"
                events.append(BookUpdate(PRODUCT, [(side, px, qty)], T0 + number))  # type: ignore[list-item]
            case "q":
                bid = f"{95 + number % 3}.{number % 10}"
                same = trade(last, px=f"100.{last % 7}0", qty=f"0.{last % 5}1") if last > FIRST else None
                events.append(quote(1000 + 10 * number, same, bid, "104"))
            case _:
                events.append(heartbeat(last, sequence=1000 + 10 * number))
    return events


def rest_page(first: int, last: int, given: set[int]) -> BackfillPage:
    """REST's answer, of those that it gives."""
    rows = page(first, last, sorted(given & set(range(first, last + 1)))).trades
    exact = [
        type(row)(row.trade_id, f"100.{row.trade_id % 7}0", f"0.{row.trade_id % 5}1", row.side, row.ts_event)
        for row in rows
    ]
    return BackfillPage(PRODUCT, first, last, exact, complete=True)


# Two lines, faults, REST ----------------------------------------------------------------------------------------------


@dataclass
class Arm:
    """One line: what is still to come of it, what its book should be, where in its numbers it is."""

    line: int
    events: list[VenueEvent]
    at: int = 0
    sent: list[VenueEvent] = field(default_factory=list)
    book: tuple[dict[Any, Any], dict[Any, Any]] | None = None
    newest: int = 0

    def apply(self, event: VenueEvent) -> None:
        """What a book of this line's frames is, by other means."""
        match event:
            case BookSnapshot():
                self.book, self.newest = ({}, {}), 0
                put(self.book[0], event.bids)
                put(self.book[1], event.asks)
            case BookUpdate() if self.book is not None:
                if event.ts_event < self.newest:
                    self.book = None
                    return
                self.newest = event.ts_event
                for side, px, qty in event.changes:
                    put(self.book[side != "buy"], [(px, qty)])


class Scene:
    """A product of two lines under faults, and what a client has of it."""

    def __init__(self, kinds: str, given: set[int]) -> None:
        self.world = World()
        self.followed = Followed()
        self.given = given
        self.arms = {line: Arm(line, feed(kinds)) for line in (A, B)}
        self.delivered: set[int] = set()
        self.passed = 0
        for line in (A, B):
            self.send(line, [book_snapshot(line)])

    def send(self, line: int, events: list[VenueEvent]) -> None:
        arm = self.arms[line]
        for event in events:
            arm.apply(event)
            if isinstance(event, Trade):
                self.delivered.add(event.trade_id)
            elif isinstance(event, TradePosition):
                self.delivered.add(event.trade.trade_id)
            arm.sent.append(event)
            self.world.observe(event, line=line)
        self.check()

    def advance(self, line: int, fates: str) -> None:
        """The next events of a line: . sent, x lost, 2 sent twice, r sent after its successor."""
        arm = self.arms[line]
        late: list[VenueEvent] = []
        for fate in fates:
            if arm.at >= len(arm.events):
                break
            event = arm.events[arm.at]
            arm.at += 1
            if fate == "r":
                late.append(event)
                continue
            sent = [] if fate == "x" else [event] * (2 if fate == "2" else 1)
            self.send(line, sent + late)
            late = []
        self.send(line, late)

    def reconnect(self, line: int) -> None:
        """The line's venue connection is lost, what was said meanwhile is not heard, and a new one begins."""
        self.world.turn.source(line, 1)
        self.world.product.link_down(line, LOST_CONNECTION)
        self.arms[line].book = None
        arm = self.arms[line]
        known = [event.trade_id for event in arm.events[: arm.at] if isinstance(event, Trade)]
        opening: list[VenueEvent] = [book_snapshot(line)]
        if known:
            opening.insert(0, TradePosition(trade(known[-1], px=f"100.{known[-1] % 7}0", qty=f"0.{known[-1] % 5}1")))
        self.send(line, opening)

    def rest(self) -> None:
        """REST is asked for what is wanted, and answers."""
        for gap in self.world.product.backfill_wanted(self.world.now):
            self.world.observe(rest_page(gap.first, gap.last, self.given), line=A)
            self.arms[A].sent.append(TradePosition(trade(0)))  # takes its number
        self.check()

    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.check()

    def restart(self, reread: int) -> None:
        """A new process goes on from what a client-like consumer holds; each line is read again from before that."""
        line = self.world.product.line or A
        inputs = complete(self.world, self.world.numbers[line], line)
        restored = self.followed.restored(inputs, line)
        numbers = dict(self.world.numbers)
        begins = {each: max(0, number - reread) for each, number in numbers.items()}
        in_book = restored.inputs.get(Channel.BOOK)
        if in_book is not None:
            begins[line] = min(begins[line], in_book.number)
        self.world = World(restored, start=self.world.now)
        for each in (A, B):
            self.world.numbers[each] = begins[each]
            for event in self.arms[each].sent[begins[each] :]:
                if isinstance(event, TradePosition) and event.trade.trade_id == 0:
                    self.world.numbers[each] += 1
                    continue
                self.world.observe(event, line=each)
            if in_book is None or each != line:
                # Nothing of its book is known but what came again.
                self.arms[each].book = None
                for event in self.arms[each].sent[begins[each] :]:
                    self.arms[each].apply(event)
        self.check()

    def act(self, what: str, number: int, fates: str) -> None:
        """One step of a scene; in all of them together less time passes than trades are waited for."""
        match what:
            case "advance":
                self.advance(number, fates)
            case "rest":
                self.rest()
            case "time":
                if self.passed + number < 80:
                    self.passed += number
                    self.pass_time(number / 10)
            case "reconnect":
                self.reconnect(number)
            case "restart":
                self.restart(number)
            case _:
                for silent in (True, False):
                    self.world.product.silence(number, silent=silent)
                    self.world.collect()
                self.check()

    def check(self) -> None:
        self.followed.take(self.world)
        line = self.world.product.line
        if line is not None:
            assert (self.followed.bids, self.followed.asks) == self.arms[line].book


steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from((A, B)), st.text("....x2r", min_size=1, max_size=8)),
        st.tuples(st.just("rest"), st.just(0), st.just("")),
        st.tuples(st.just("time"), st.integers(1, 7), st.just("")),
        st.tuples(st.just("reconnect"), st.sampled_from((A, B)), st.just("")),
        st.tuples(st.just("restart"), st.integers(0, 12), st.just("")),
        st.tuples(st.just("silence"), st.sampled_from((A, B)), st.just("")),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.text("tttuuqh", max_size=50), steps=steps,
    withheld=st.sets(st.integers(FIRST + 1, FIRST + 30), max_size=8),
)  # fmt: skip
def test_trades_are_gapless_or_declared_and_books_are_their_line_s(
    kinds: str, steps: list[tuple[str, int, str]], withheld: set[int]
) -> None:
    given_ids = set(range(FIRST, FIRST + 60)) - withheld
    scene = Scene(kinds, given_ids)
    newest = FIRST + kinds.count("t")
    for step in steps:
        scene.act(*step)
    in_time = set(scene.delivered)
    for line in (A, B):
        scene.send(line, [heartbeat(newest, sequence=9000)])
    for _ in range(14):
        scene.pass_time(1)
        scene.rest()
    followed = scene.followed
    if followed.last_trade_id is None:
        return
    assert followed.last_trade_id == newest
    first = followed.first_trade_id
    assert first is not None
    declared = {trade_id for one, other in followed.declared for trade_id in range(one, other + 1)}
    due = set(range(first, newest + 1))
    assert set(followed.trades) | declared == due
    assert not set(followed.trades) & declared
    assert declared == due - in_time - given_ids, "declared is what nobody has given"
    for trade_id, (px, qty, _) in followed.trades.items():
        assert (px, qty) == (f"100.{trade_id % 7}0", f"0.{trade_id % 5}1")
    assert followed.backfilled <= given_ids
    assert followed.ticker is not None
    shown = int(followed.ticker["last_trade"]["trade_id"])
    assert max(in_time | set(followed.trades)) <= shown <= newest, "the venue's ticker may know of one that is lost"


# One line, continued --------------------------------------------------------------------------------------------------


def without_publishing_time(bodies: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """All that a message says but when it was published; epochs by their order, which begins with the cut's."""
    epochs: dict[tuple[str, str], int] = {}
    said = []
    for body in bodies:
        channel = body["channel"]
        key = channel, body["epoch"]
        if key not in epochs:
            epochs[key] = sum(known == channel for known, _ in epochs)
        rest = {name: value for name, value in body.items() if name not in ("epoch", "ts_publish", "ts_snapshot")}
        said.append((channel, epochs[key], rest))
    return sorted(said, key=lambda one: one[0])


@settings(max_examples=300, deadline=None)
@given(
    kinds=st.text("tttuuuqqh", min_size=1, max_size=60),
    fates=st.text("........x2r", min_size=61, max_size=61),
    breaks=st.dictionaries(st.integers(0, 60), st.sampled_from(("link", "cross", "snapshot")), max_size=3),
    pages=st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 25), st.integers(0, 12)), max_size=4),
    cut=st.integers(0, 70),
)
def test_a_product_restored_at_any_cut_says_what_it_would_have_said(
    kinds: str, fates: str, breaks: dict[int, str], pages: dict[int, tuple[int, int]], cut: int
) -> None:
    records = with_faults(feed(kinds), fates, breaks, pages)
    assume(cut < len(records))
    original, followed = World(), Followed()
    for record in records[:cut]:
        play(original, record)
    followed.take(original)
    inputs = complete(original, cut, A)
    restored = followed.restored(inputs, A) if followed.positions else NOTHING_RESTORED
    begin = min((source.number for source in restored.inputs.values()), default=cut)
    goes_on = set(restored.inputs)

    expected = []
    for record in records[cut:]:
        play(original, record)
        expected += followed.take(original)

    again, follower = World(restored), Followed(dict(restored.positions), last_trade_id=restored.last_trade_id)
    again.numbers[A] = begin
    said = []
    for record in records[begin:]:
        play(again, record)
        said += follower.take(again)
    streams = {str(channel) for channel in goes_on}
    assert without_publishing_time([body for body in said if body["channel"] in streams]) == without_publishing_time(
        [body for body in expected if body["channel"] in streams]
    )
    if original.product.book_held and again.product.book_held:
        assert again.product.state(Channel.BOOK) == original.product.state(Channel.BOOK)


type Record = VenueEvent | BackfillPage | str


def with_faults(
    events: list[VenueEvent], fates: str, breaks: dict[int, str], pages: dict[int, tuple[int, int]]
) -> list[Record]:
    """One line's records: frames with faults, lost connections, and pages over REST."""
    records: list[Record] = [book_snapshot(A)]
    late: list[Record] = []
    for number, event in enumerate(events):
        match breaks.get(number):
            case "link":
                records += ["link", book_snapshot(A)]
            case "cross":
                records.append(BookUpdate(PRODUCT, [("buy", "500", "1")], T0 + 1_000_000))
            case "snapshot":
                records.append(book_snapshot(A))
            case _:
                pass
        if number in pages:
            first, count = pages[number]
            ids = set(range(FIRST + first, FIRST + first + count + 1))
            records.append(rest_page(min(ids), max(ids), ids))
        fate = fates[number]
        if fate == "r" and not isinstance(event, BookUpdate):
            late.append(event)
            continue
        if fate != "x":
            records += [event] * (2 if fate == "2" else 1)
        records += late
        late = []
    return records + late


def play(world: World, record: Record) -> None:
    """One record in a turn of its own."""
    if not isinstance(record, str):
        world.observe(record)
        return
    number = world.numbers[A] = world.numbers.get(A, 0) + 1
    world.turn.begin(world.now)
    world.turn.source(A, 1)
    world.turn.record(number, T0 + number)
    world.product.link_down(A, LOST_CONNECTION)
    world.collect()
