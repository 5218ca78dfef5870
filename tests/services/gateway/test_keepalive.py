"""Who lives, by what comes from it; with a loop that runs, and clients that are only times."""

import asyncio
from dataclasses import dataclass, field

from lfmesh.services.gateway.keepalive import Keepalive
from tests.aio import eventually, run

INTERVAL_S = 0.1


@dataclass
class Someone:
    answers: bool
    takes: bool = True
    heard_at: float = 0.0
    pinged_at: float = 0.0
    pings: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ping(self) -> bool:
        if not self.takes:
            return False
        self.pings += 1
        if self.answers:
            self.heard_at = asyncio.get_running_loop().time()
        return True

    def silent(self) -> None:
        self.ended.set()


def test_who_answers_is_kept_who_does_not_is_given_up_and_who_can_t_be_asked_is_left_to_others() -> None:
    async def scenario() -> None:
        now = asyncio.get_running_loop().time()
        alive, dead, full = Someone(True, heard_at=now), Someone(False, heard_at=now), Someone(False, takes=False)
        keepalive = Keepalive(INTERVAL_S, lambda: [alive, dead, full])
        keepalive.start()
        await dead.ended.wait()
        assert dead.pings == 1
        await eventually(lambda: alive.pings >= 3)
        assert not alive.ended.is_set()
        assert not full.ended.is_set()
        keepalive.close()
        pings = alive.pings
        await asyncio.sleep(2 * INTERVAL_S)
        assert alive.pings == pings

    run(scenario(), 10)
