"""The clock of a replay: our time in, the archive's time out."""

import pytest

from lfmesh.services.player.pace import LATE_NS, Pace

SECOND = 1_000_000_000


def test_it_stands_until_it_is_let_run_and_then_goes_as_fast_as_it_is_told() -> None:
    pace = Pace(1000, 4.0)
    assert (pace.now(0), pace.now(SECOND), pace.running) == (1000, 1000, False)
    pace.run(SECOND)
    assert pace.now(3 * SECOND) == 1000 + 8 * SECOND
    pace.set_speed(0.5, 3 * SECOND)
    assert pace.now(5 * SECOND) == 1000 + 9 * SECOND
    pace.stop(5 * SECOND)
    assert pace.now(50 * SECOND) == 1000 + 9 * SECOND
    pace.run(50 * SECOND)
    assert pace.now(52 * SECOND) == 1000 + 10 * SECOND


def test_when_something_is_due() -> None:
    pace = Pace(0, 2.0)
    pace.run(0)
    assert pace.due_in_s(4 * SECOND, SECOND) == pytest.approx(1.0)
    assert not pace.is_due(4 * SECOND, SECOND)
    assert pace.is_due(4 * SECOND, 2 * SECOND)
    assert pace.due_in_s(SECOND, 2 * SECOND) == 0.0


def test_without_a_speed_all_is_due_and_the_time_is_that_of_what_was_played() -> None:
    pace = Pace(5, None)
    pace.run(0)
    assert pace.is_due(1 << 62, 0)
    assert pace.due_in_s(1 << 62, 0) == 0.0
    pace.reached(70)
    pace.reached(60)
    assert pace.now(99 * SECOND) == 70
    pace.set_speed(1.0, 100 * SECOND)
    assert pace.now(101 * SECOND) == 70 + SECOND
    pace.reached(1 << 60)
    assert pace.now(101 * SECOND) == 70 + SECOND, "a clock that runs does not follow"


def test_it_can_be_set_running_or_standing() -> None:
    pace = Pace(0, 1.0)
    pace.set(500, 0)
    assert pace.now(SECOND) == 500
    pace.run(SECOND)
    pace.set(7000, 2 * SECOND)
    assert pace.now(3 * SECOND) == 7000 + SECOND


def test_a_short_hold_is_made_up_for_a_long_one_has_stopped_the_clock() -> None:
    pace = Pace(0, 10.0)
    pace.run(0)
    pace.hold(SECOND)
    pace.hold(SECOND + LATE_NS // 2)
    pace.release(SECOND + LATE_NS)
    assert pace.now(3 * SECOND) == 30 * SECOND
    pace.hold(3 * SECOND)
    pace.release(8 * SECOND)
    assert pace.now(8 * SECOND) == 30 * SECOND
    pace.release(20 * SECOND)
    assert pace.now(20 * SECOND) == 150 * SECOND, "nothing was held"
