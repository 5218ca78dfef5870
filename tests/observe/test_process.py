"""The process's own figures, against what is done to it."""

import asyncio
import time

from lfmesh.observe.process import LoopLag, cpu_s, rss_bytes, vitals
from tests.aio import eventually, run


def test_cpu_time_grows_with_work() -> None:
    before = cpu_s()
    while cpu_s() < before + 0.01:
        sum(range(1000))
    assert cpu_s() > before


def test_memory_grows_with_what_is_held() -> None:
    before = rss_bytes()
    held = bytearray(64 * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    assert rss_bytes() - before > 32 * 1024 * 1024
    assert len(held) > 0


def test_a_blocked_loop_shows_in_its_lag() -> None:
    async def scenario() -> None:
        lag = LoopLag()
        try:
            await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251 - blocking the loop is the point
            await eventually(lambda: lag.worst_s() > 0.2)
            assert vitals(lag).loop_lag_s == lag.worst_s()
        finally:
            lag.close()

    run(scenario())


def test_without_a_loop_the_lag_is_unknown() -> None:
    found = vitals()
    assert found.loop_lag_s is None
    assert found.cpu_s is not None
