"""Who paces a publisher by what clients have got."""

from pathlib import Path

import pytest

from loadgen.bench.counters import Counters, Pace
from loadgen.bench.process import BenchmarkFailed, Program, Worker, median, requests, until


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    with Counters(tmp_path / "counters", 3) as mine, Counters(tmp_path / "counters") as theirs:
        mine.values[2] = 1 << 40
        assert list(theirs.values) == [0, 0, 1 << 40]


def test_the_slowest_client_holds_the_publisher_back(tmp_path: Path) -> None:
    with Counters(tmp_path / "counters", 2) as counters:
        counters.values[0] = 7
        pace = Pace(counters.values, each=10, window=100)
        assert pace.room() == 100
        pace.sent = 100
        counters.values[0] += 500
        assert (pace.behind(), pace.room()) == (100, 0)
        counters.values[1] += 305
        assert (pace.behind(), pace.room()) == (70, 30), "thirty whole messages have come to the slower one"


def test_clients_that_get_one_message_in_so_many_count_for_as_many(tmp_path: Path) -> None:
    with Counters(tmp_path / "counters", 1) as counters:
        pace = Pace(counters.values, each=10, window=100, every=25)
        pace.sent = 100
        counters.values[0] += 20
        assert pace.room() == 50


def test_the_middle_of_figures() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.0


def test_a_program_that_ends_is_not_waited_for() -> None:
    with (
        Program(["sh", "-c", "echo trouble here >&2; exit 3"]) as program,
        pytest.raises(BenchmarkFailed, match="has ended: trouble here"),
    ):
        program.until(lambda: False, "nothing")


def test_nothing_is_waited_for_without_end() -> None:
    with pytest.raises(BenchmarkFailed, match="for a wonder"):
        until(lambda: False, "a wonder", deadline_s=0.05)


def _echo(control: object) -> None:
    from multiprocessing.connection import Connection

    assert isinstance(control, Connection)
    for request in requests(control):
        control.send(request)
        if request == ("die",):
            raise SystemExit


def test_a_worker_answers_until_it_dies() -> None:
    with Worker(_echo) as worker:
        assert worker.ask("twice", 2) == ("twice", 2)
        worker.ask("die")
        with pytest.raises(BenchmarkFailed, match="died"):
            worker.ask("again")
