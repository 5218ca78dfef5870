import json

import pytest

from lfmesh.core.codec import Flags
from lfmesh.core.outlet import MAX_RUN_BYTES, MAX_RUN_MESSAGES, Outlet, Turn
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, StreamKey

STREAM = StreamKey("BTC-USD", Channel.TRADES)
T0 = 1_700_000_000_000_000_000


def turn() -> Turn:
    shared = Turn()
    shared.begin(T0)
    shared.source(7, 8)
    shared.record(1, T0 - 5)
    return shared


def test_an_epoch_opens_with_a_snapshot_and_its_increments_count_from_one() -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    assert not outlet.is_open
    outlet.open("epoch", ['{"trades":[]}'], T0 - 9)
    outlet.increment(T0 - 8, "verified", '{"a":1}')
    shared.record(2, T0 - 4)
    outlet.increment(T0 - 7, "unverified", '{"a":2}')
    assert shared.touched == [outlet]
    snapshot, increments = outlet.take()
    epoch = T0 // 1000
    assert outlet.position == Position(epoch, 2)
    assert snapshot[:6] == (Flags.SNAPSHOT, epoch, 0, None, T0 - 9, InputPosition(7, 8, 1))
    assert increments[:6] == (Flags.INCREMENTS, epoch, 1, None, T0 - 7, InputPosition(7, 8, 2))
    first, second = (json.loads(message)["data"] for message in increments.messages)
    assert (first["type"], first["seq"], first["continuity"], first["fields"]) == ("trade", 1, "verified", {"a": 1})
    assert (second["seq"], second["ts_event"], second["ts_ingest"], second["ts_publish"]) == (2, T0 - 7, T0 - 4, T0)
    assert outlet.take() == []


def test_a_snapshot_splits_the_run_and_says_where_the_stream_stood() -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    outlet.increment(T0, "verified", "{}")
    outlet.open("gap", ["{}"], 0, (5, 9))
    outlet.increment(T0, "unverified", "{}")
    first, one, second, two = outlet.take()
    assert [run.flags for run in (first, one, second, two)] == [Flags.SNAPSHOT, 0, Flags.SNAPSHOT, 0]
    assert second.epoch > first.epoch, "epochs grow even within one microsecond"
    assert second.previous == Position(first.epoch, 1)
    assert json.loads(second.messages[0])["data"]["missing"] == {"from_trade_id": 5, "to_trade_id": 9}
    assert (one.first_seq, two.first_seq, two.epoch) == (1, 1, second.epoch)


def test_epochs_are_higher_than_restored_ones_whatever_the_clock_says() -> None:
    restored = Position(T0, 44)
    outlet = Outlet(STREAM, turn(), restored)
    outlet.open("epoch", ["{}"], 0)
    (run,) = outlet.take()
    assert run.epoch == T0 + 1
    assert run.previous == restored


def test_a_status_takes_no_number_and_keeps_its_place() -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    outlet.increment(T0, "verified", "{}")
    outlet.tell("stale", T0, "nothing came")
    outlet.increment(T0, "verified", "{}")
    assert [(run.flags, run.first_seq) for run in outlet.take()] == [(1, 0), (0, 1), (2, 1), (0, 2)]


@pytest.mark.parametrize(("fields", "count"), [("{}", MAX_RUN_MESSAGES), ("{" + " " * 100_000 + "}", 3)])
def test_runs_are_bounded(fields: str, count: int) -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    for _ in range(2 * count + 1):
        outlet.increment(T0, "verified", fields)
    assert shared.touched == [outlet]
    _, *runs = outlet.take()
    assert [len(run.messages) for run in runs] == [count, count, 1]
    assert [run.first_seq for run in runs] == [1, count + 1, 2 * count + 1]
    assert all(sum(map(len, run.messages[:-1])) < MAX_RUN_BYTES for run in runs)


BOOK = StreamKey("BTC-USD", Channel.BOOK)


def test_the_last_run_of_a_turn_says_how_far_all_is_and_those_before_it_how_far_they_are() -> None:
    shared = turn()
    outlet, other = Outlet(BOOK, shared), Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    shared.record(2, T0)
    outlet.increment(T0, "unverified", "{}")
    shared.record(3, T0)
    other.open("epoch", ["{}"], 0)
    shared.source(9, 1)
    shared.record(50, T0)
    assert [run.input for run in outlet.take()] == [InputPosition(7, 8, 1), InputPosition(7, 8, 3)]
    assert [run.input for run in other.take()] == [InputPosition(7, 8, 3)]
    assert sorted(shared.inputs) == [InputPosition(7, 8, 3), InputPosition(9, 1, 50)]
    shared.source(7, 8)
    shared.record(4, T0)
    assert (outlet.input, outlet.complete) == (InputPosition(7, 8, 2), InputPosition(7, 8, 4))


def test_a_stream_that_waits_stays_where_its_newest_message_is() -> None:
    shared = turn()
    outlet = Outlet(BOOK, shared)
    outlet.open("epoch", ["{}"], 0)
    shared.record(2, T0)
    outlet.whole = False
    shared.record(3, T0)
    assert outlet.complete == InputPosition(7, 8, 1)
    outlet.whole = True
    assert outlet.complete == InputPosition(7, 8, 3)


def test_trades_that_wait_are_read_again_from_before_the_first_of_them() -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    shared.record(5, T0)
    outlet.whole = False
    shared.record(6, T0)
    outlet.whole = False
    outlet.increment(T0, "backfilled", "{}")  # one of the missing ones; what waits still waits
    assert outlet.take()[-1].input == InputPosition(7, 8, 4)


def test_of_one_record_trades_can_be_in_two_runs_and_the_first_does_not_claim_it() -> None:
    shared = turn()
    outlet = Outlet(STREAM, shared)
    outlet.open("epoch", ["{}"], 0)
    shared.record(9, T0)
    for _ in range(MAX_RUN_MESSAGES + 1):
        outlet.increment(T0, "backfilled", "{}")
    _, first, second = outlet.take()
    assert (first.input.number, second.input.number) == (8, 9)


def test_what_comes_of_several_ingestors_names_none() -> None:
    outlet = Outlet(BOOK, turn())
    outlet.mixed = True
    outlet.open("epoch", ["{}"], 0)
    assert outlet.take()[0].input == outlet.complete == NO_INPUT


def test_a_book_of_another_line_is_complete_with_that_lines_records() -> None:
    shared = turn()
    outlet = Outlet(BOOK, shared)
    shared.record(6, T0)
    shared.source(9, 1)
    shared.record(50, T0)
    outlet.open("resync", ["{}"], 0, ingestor=7)
    assert outlet.take()[0].input == InputPosition(7, 8, 6)


def test_an_earlier_process_is_gone_on_from() -> None:
    shared = Turn()
    shared.begin(T0)
    shared.begin_at(InputPosition(7, 8, 90))
    outlet = Outlet(BOOK, shared, Position(11, 22))
    outlet.resume(Position(11, 22), InputPosition(7, 8, 100))
    assert (outlet.is_open, outlet.position, outlet.complete) == (True, Position(11, 22), InputPosition(7, 8, 100))
    assert shared.inputs == [InputPosition(7, 8, 90)]
    shared.source(7, 8)
    shared.record(95, T0)
    assert outlet.complete == InputPosition(7, 8, 100), "what is read again changes nothing"
    shared.record(101, T0)
    outlet.increment(T0, "unverified", "{}")
    (run,) = outlet.take()
    assert (run.flags, run.epoch, run.first_seq, run.input.number) == (0, 11, 23, 101)


def test_where_the_venue_tells_no_time_our_own_stands_in_unless_it_is_another_days() -> None:
    shared = turn()
    outlet = Outlet(BOOK, shared)
    shared.record(1, T0)
    outlet.open("epoch", ["{}"], 0)
    assert outlet.take()[0].ts_event == 0, "no time is known: it may be a recorded session"
    outlet.increment(T0 - 5, "unverified", "{}")
    shared.record(2, T0 + 9)
    outlet.open("resync", ["{}"], 0)
    assert outlet.take()[1].ts_event == T0 + 9
    years = 10**17
    shared.record(3, T0 + years)
    outlet.open("resync", ["{}"], 0)
    assert outlet.take()[0].ts_event == 0, "the session was recorded years ago"
