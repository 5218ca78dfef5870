import json

import pytest

from lfmesh.core.codec import Flags
from lfmesh.core.outlet import MAX_RUN_BYTES, MAX_RUN_MESSAGES, Outlet, Turn
from lfmesh.types import Channel, InputPosition, Position, StreamKey

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
