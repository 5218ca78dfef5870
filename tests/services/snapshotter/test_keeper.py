"""The durable copy, with a store that does as it is told."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

import pytest

from lfmesh.errors import StatesLeft, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import StateStore, StoredState
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.keeper import StateKeeper
from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually, run
from tests.services.snapshotter.link import BOOK, TICKER, Link
from tests.services.snapshotter.world import Supervisor, supervised

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


@dataclass
class FakeStore:
    """Keeps what is written in `data`, which outlives it. `gate` holds writes up until it is set."""

    data: dict[StreamKey, StoredState] = field(default_factory=dict)
    fault: str = ""
    fault_at_open: str = ""
    misconfigured: str = ""
    refused: frozenset[StreamKey] = frozenset()
    """These can't be written, all others can."""
    bug: Exception | None = None
    gate_at_open: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[StreamKey]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()
        self.gate_at_open.set()

    def open(self) -> StateStore:
        self.note("open")
        assert self.gate_at_open.wait(20)
        if self.misconfigured:
            raise StoreMisconfigured(self.misconfigured)
        if self.fault_at_open:
            raise StoreUnavailable(self.fault_at_open)
        return self

    def load(self) -> Sequence[StoredState]:
        self.note("load")
        return list(self.data.values())

    def write(self, states: Sequence[StoredState]) -> int:
        self.note("write")
        assert self.gate.wait(20)
        if self.fault:
            raise StoreUnavailable(self.fault)
        if self.bug is not None:
            raise self.bug
        self.batches.append([one.stream for one in states])
        left = self.refused & {one.stream for one in states}
        for one in states:
            if one.stream in left:
                continue
            known = self.data.get(one.stream)
            if known is None or (one.term, one.position) > (known.term, known.position):
                self.data[one.stream] = one
        if left:
            raise StatesLeft("the object store is down", left, len(states) - len(left))
        return len(states)

    def close(self) -> None:
        self.note("close")

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())


class Bench:
    """An intake with two streams, a keeper and its store, on a clock that is moved by hand."""

    def __init__(self, supervisor: Supervisor, store: FakeStore) -> None:
        self.now = 1000 * SECOND
        self.link = Link()
        self.store = store
        self.log = supervisor.log
        self.events = supervisor.events
        self.adopted: list[StoredState] = []
        self.writes = True
        self.flushed: list[int] = []
        self.keeper = StateKeeper(
            store.open, self.link.intake, supervisor.context(lambda: self.now), self.adopted.extend,
            self.flush, lambda: self.writes,
        )  # fmt: skip

    async def flush(self) -> None:
        self.flushed.append(self.store.calls.count("write"))

    @property
    def intake(self) -> Intake:
        return self.link.intake

    def publish(self, key: StreamKey, numbers: list[int]) -> Position:
        known = key in self.link.source.streams
        frame = self.link.source.increment(key, numbers) if known else self.link.source.open(key)
        self.intake.frames([frame], self.now)
        return self.link.source.streams[key].position

    async def beat(self, writes: int) -> None:
        """Beat until the store has been called to write so many times in all."""
        self.keeper.beat(self.now)
        await eventually(lambda: self.store.calls.count("write") >= writes and self.keeper._idle.is_set())


def bench(scenario: Callable[[Bench], Coroutine[object, object, None]], store: FakeStore | None = None) -> Bench:
    async def body() -> Bench:
        async with supervised() as supervisor:
            made = Bench(supervisor, store or FakeStore())
            await scenario(made)
            await made.keeper.close()
            return made

    return run(body())


def test_what_was_stored_is_adopted_first() -> None:
    before = Link()
    before.take(before.source.open(BOOK))
    state = before.intake.state.get(BOOK)
    assert state is not None

    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        assert made.keeper.fault == ""

    made = bench(scenario, FakeStore(data={BOOK: state.stored()}))
    assert made.adopted == [state.stored()]
    assert made.store.calls == ["open", "load", "close"]
    assert threading.get_ident() not in made.store.threads, "the loop's thread never touches the store"


def test_a_book_that_has_to_wait_holds_no_ticker_up() -> None:
    async def scenario(made: Bench) -> None:
        made.store.refused = frozenset({BOOK})
        await made.keeper.open()
        made.publish(BOOK, [])
        made.publish(TICKER, [])
        made.now += MINUTE
        await made.beat(1)  # says when the book's moments are
        made.now += MINUTE
        made.publish(TICKER, [1])
        await made.beat(2)
        assert made.store.data[TICKER].position.seq == 1
        assert made.keeper.fault == "the object store is down"
        made.publish(TICKER, [2])
        made.now += SECOND // 4
        await made.beat(3)
        assert made.store.batches[-1] == [TICKER], "the book waits for its next moment"
        assert made.store.calls.count("open") == 1, "the store itself can be used"
        assert made.keeper.fault == "the object store is down", "it is still to be written"
        made.store.refused = frozenset()
        made.now += MINUTE
        await made.beat(4)
        assert BOOK in made.store.data
        assert made.keeper.fault == ""

    bench(scenario)


def test_changes_are_written_in_one_batch_and_only_once() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        made.publish(StreamKey("P1-USD", Channel.TICKER), [])
        made.publish(TICKER, [1, 2])
        await made.beat(1)
        made.keeper.beat(made.now)
        assert made.store.batches == [[TICKER, StreamKey("P1-USD", Channel.TICKER)]]
        assert made.store.data[TICKER].position == made.link.source.streams[TICKER].position
        assert made.intake.counters.store_states_written_total == 2

    assert bench(scenario).store.calls == ["open", "load", "write", "close"]


def test_books_wait_for_their_moment_and_are_written_at_the_end() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(BOOK, [])
        made.publish(TICKER, [])
        await made.beat(1)
        assert made.store.batches == [[TICKER]]
        made.now += 10 * SECOND
        await made.beat(2)
        assert made.store.batches[1:] == [[BOOK]]
        made.publish(BOOK, [1])

    made = bench(scenario)
    assert made.store.batches[2:] == [[BOOK]]
    assert made.store.data[BOOK].position == made.link.source.streams[BOOK].position


def test_at_most_one_batch_is_under_way_and_the_end_waits_for_it() -> None:
    """SIGTERM in the middle of a write: that write ends, then everything newer is written."""

    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.store.gate.clear()
        made.publish(TICKER, [])
        made.keeper.beat(made.now)
        await eventually(lambda: made.store.calls.count("write") == 1)
        for _ in range(3):
            made.publish(TICKER, [1])
            made.publish(BOOK, [1])
            made.keeper.beat(made.now)
        closing = asyncio.ensure_future(made.keeper.close())
        await asyncio.sleep(0)
        assert made.store.calls.count("write") == 1
        made.store.gate.set()
        await closing
        assert made.store.batches == [[TICKER], [TICKER, BOOK]]

    made = bench(scenario)
    for key in (TICKER, BOOK):
        assert made.store.data[key].position == made.link.source.streams[key].position
    assert made.store.calls[-1] == "close"


def test_a_store_that_fails_is_left_and_tried_again_with_what_is_then_newest() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.store.fault = "the disk is full; make room on it"
        made.publish(TICKER, [])
        made.publish(StreamKey("P1-USD", Channel.TICKER), [])
        await made.beat(1)
        assert made.keeper.fault == made.store.fault
        calls = list(made.store.calls)
        made.keeper.beat(made.now - 1)
        assert made.store.calls == calls, "not before the pause is over"
        for _ in range(3):
            made.now += MINUTE
            made.publish(TICKER, [1])
            made.keeper.beat(made.now)
            await eventually(lambda: made.keeper._idle.is_set() and not made.keeper._begun)
            await made.beat(0)
        made.store.fault = ""
        newest = made.publish(TICKER, [1])
        for _ in range(2):
            made.now += MINUTE
            made.keeper.beat(made.now)
            await eventually(lambda: made.keeper._idle.is_set() and not made.keeper._begun)
        assert made.keeper.fault == ""
        assert made.store.data[TICKER].position == newest
        assert len(made.store.data) == 2

    made = bench(scenario)
    assert len(made.events("the state store cannot be used; the mesh goes on without it")) >= 1
    assert len(made.events("the state store can be used again")) >= 1
    assert made.intake.counters.store_errors_total >= 2


def test_a_store_that_cannot_be_opened_is_opened_later() -> None:
    before = Link()
    before.take(before.source.open(BOOK))
    state = before.intake.state.get(BOOK)
    assert state is not None

    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        assert made.keeper.fault == "in use by another process"
        made.publish(TICKER, [])
        made.store.fault_at_open = ""
        made.now += MINUTE
        made.keeper.beat(made.now)
        await eventually(lambda: "load" in made.store.calls and not made.keeper._begun)
        await made.beat(1)
        assert made.keeper.fault == "", "what was written says that it can be used"

    made = bench(scenario, FakeStore(data={BOOK: state.stored()}, fault_at_open="in use by another process"))
    assert made.adopted == [state.stored()]
    assert TICKER in made.store.data
    assert made.store.calls == ["open", "open", "load", "write", "close"]


def test_what_could_not_be_written_at_the_end_is_said() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        made.store.fault = "gone"

    made = bench(scenario)
    (entry,) = made.events("the latest state was not written")
    assert (entry["streams"], entry["error"]) == (1, "gone")


def test_a_stream_without_a_readable_state_does_not_hold_up_the_batch() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        trades = StreamKey("P0-USD", Channel.TRADES)
        made.publish(trades, [])
        state = made.intake.state.get(trades)
        assert state is not None
        state.content.apply([b"nonsense"])
        await made.beat(1)

    assert bench(scenario).store.batches == [[TICKER]]


def test_a_failure_that_nobody_expected_is_not_kept_quiet() -> None:
    store = FakeStore()

    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        store.bug = ZeroDivisionError("a bug in a store")
        made.keeper.beat(made.now)
        await eventually(lambda: not made.keeper._begun)

    with pytest.raises(ExceptionGroup, match="tasks failed"):
        bench(scenario, store)


def test_what_is_written_was_journaled_before() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        await made.beat(1)
        made.publish(TICKER, [1])

    assert bench(scenario).flushed == [0, 1], "before each write, the last one too"


def test_while_another_one_writes_what_changes_waits() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.writes = False
        made.publish(TICKER, [])
        for _ in range(3):
            made.now += MINUTE
            made.keeper.beat(made.now)
        assert made.store.calls == ["open", "load"]
        made.writes = True
        await made.beat(1)
        assert made.store.batches == [[TICKER]]
        made.writes = False
        made.publish(TICKER, [1])

    assert bench(scenario).store.calls == ["open", "load", "write", "close"], "nor at the end"


def test_a_misconfigured_store_ends_the_start() -> None:
    async def scenario(made: Bench) -> None:
        with pytest.raises(StoreMisconfigured, match="no such table"):
            await made.keeper.open()

    bench(scenario, FakeStore(misconfigured="no such table"))


def test_a_store_that_takes_long_to_open_holds_up_nobody() -> None:
    store = FakeStore()
    store.gate_at_open.clear()

    async def scenario(made: Bench) -> None:
        await made.keeper.open(0.01)
        assert made.keeper.fault == "not opened yet"
        made.publish(TICKER, [])
        made.keeper.beat(made.now)
        store.gate_at_open.set()
        await eventually(lambda: not made.keeper.fault)
        await made.beat(1)

    assert bench(scenario, store).store.calls == ["open", "load", "write", "close"]


def test_one_that_turns_out_misconfigured_then_ends_the_service() -> None:
    store = FakeStore(misconfigured="no such table")
    store.gate_at_open.clear()

    async def scenario(made: Bench) -> None:
        await made.keeper.open(0.01)
        store.gate_at_open.set()
        await eventually(lambda: not made.keeper._begun)

    with pytest.raises(ExceptionGroup, match="tasks failed"):
        bench(scenario, store)


def test_the_end_is_bounded_in_time_whatever_the_store_does() -> None:
    store = FakeStore()

    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        store.gate.clear()
        made.publish(TICKER, [])
        await made.keeper.close(0.02)
        (entry,) = made.events("the state store does not answer; the latest state was not written")
        assert entry["streams"] == 1
        store.gate.set()

    bench(scenario, store)


def test_the_time_from_tick_to_stored_is_measured() -> None:
    async def scenario(made: Bench) -> None:
        await made.keeper.open()
        made.publish(TICKER, [])
        assert made.intake.latency.percentiles(made.now).p50_ms is None
        await made.beat(1)
        p50, p99 = made.intake.latency.percentiles(made.now)
        assert p50 is not None
        assert p50 > 0
        assert p99 == p50

    bench(scenario)
