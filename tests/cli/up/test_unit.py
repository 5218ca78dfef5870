"""When a process is started again, and when that is hopeless."""

import pytest

from lfmesh.cli.up.unit import ATTEMPTS, PAUSE_MAX_S, STEADY_S, Ended, GiveUp, Restart, Unit, describe, pause_s
from lfmesh.types import Role

KILLED = 9
FAILED = 1 << 8


def a_unit() -> Unit:
    return Unit("gateway-0", Role.GATEWAY, None, 0)


def run(unit: Unit, now: float, for_s: float = 1.0) -> float:
    unit.forking(now)
    unit.forked(4711)
    unit.started(now)
    return now + for_s


def test_the_first_death_is_mended_at_once_and_says_why() -> None:
    unit = a_unit()
    now = run(unit, 0.0)
    assert unit.state == "running"
    assert unit.ended(KILLED, now) == Restart(0.0)
    assert (unit.state, unit.pid, unit.restarts) == ("pause", None, 1)
    assert unit.note == "killed by SIGKILL (pid 4711)"
    unit.forking(now)
    assert (unit.state, unit.note) == ("starting", "")


def test_pauses_grow_to_a_bound_and_a_steady_life_resets_them() -> None:
    unit = a_unit()
    now, pauses = 0.0, []
    for _ in range(12):
        now = run(unit, now)
        decision = unit.ended(KILLED, now)
        assert isinstance(decision, Restart)
        pauses.append(decision.pause_s)
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_S == pause_s(1000)
    now = run(unit, now, for_s=STEADY_S)
    assert unit.ended(KILLED, now) == Restart(0.0)


def test_a_first_start_that_cannot_succeed_is_given_up_with_its_line() -> None:
    unit = a_unit()
    unit.forking(0.0)
    unit.failed("PortInUse", "http://127.0.0.1:8000 is in use by another process")
    assert unit.ended(FAILED, 0.1) == GiveUp("gateway-0: http://127.0.0.1:8000 is in use by another process")
    assert unit.state == "failed"


def test_a_port_that_is_only_wished_for_is_replaced_by_another_at_once() -> None:
    unit = a_unit()
    unit.fallback = {"gateway": {"port": 0}}
    unit.forking(0.0)
    unit.failed("PortInUse", "http://127.0.0.1:8001 is in use by another process")
    assert unit.ended(FAILED, 0.1) == Restart(0.0)
    assert unit.note == "http://127.0.0.1:8001 is in use by another process; it gets another"
    assert (unit.state, unit.remembered, unit.restarts) == ("pause", {"gateway": {"port": 0}}, 0)
    unit.forking(0.1)
    unit.failed("PortInUse", "again")
    assert isinstance(unit.ended(FAILED, 0.2), GiveUp), "that was its one other choice"


def test_after_a_success_the_same_fault_is_tried_again_but_not_for_ever() -> None:
    unit = a_unit()
    decision = unit.ended(KILLED, run(unit, 0.0))
    attempts = 0
    while isinstance(decision, Restart):
        unit.forking(1.0)
        unit.failed("PortInUse", "in use")
        decision = unit.ended(FAILED, 1.0)
        attempts += 1
    assert decision == GiveUp("gateway-0: in use")
    assert attempts == ATTEMPTS - 1


def test_one_that_never_comes_up_is_given_up_after_some_attempts() -> None:
    unit = a_unit()
    decisions = []
    for _ in range(ATTEMPTS):
        unit.forking(0.0)
        decisions.append(unit.ended(70 << 8, 0.1))
    assert all(isinstance(decision, Restart) for decision in decisions[:-1])
    assert decisions[-1] == GiveUp("gateway-0 can't be started: ended with exit code 70")


def test_one_that_once_worked_and_crashes_at_start_is_tried_for_ever() -> None:
    unit = a_unit()
    unit.ended(KILLED, run(unit, 0.0))
    for _ in range(3 * ATTEMPTS):
        unit.forking(0.0)
        assert isinstance(unit.ended(70 << 8, 0.1), Restart)


@pytest.mark.parametrize("status", [0, KILLED, FAILED])
def test_an_ordered_end_is_no_death(status: int) -> None:
    unit = a_unit()
    run(unit, 0.0)
    unit.stopping()
    assert unit.ended(status, 2.0) == Ended()
    assert (unit.state, unit.restarts) == ("stopped", 0)


def test_statuses_in_words() -> None:
    assert describe(9) == "killed by SIGKILL"
    assert describe(11 | 0x80) == "killed by SIGSEGV"
    assert describe(3 << 8) == "ended with exit code 3"
