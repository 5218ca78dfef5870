"""Which sessions there are and which have something to write; the pump that makes the feed play."""

import asyncio
import time

from loadgen.sim.feed import Feed, Instant
from loadgen.sim.session import Session

_SLICE_S = 0.002
"""The shortest rest between two turns: what falls due meanwhile is written together."""

_LONG_S = 0.005
"""Rests longer than this can be ended by a control call."""

_CONGESTED_BYTES = 1024 * 1024


def instant() -> Instant:
    """Both clocks now."""
    return Instant(time.monotonic_ns(), time.time_ns())


class SessionOutlet:
    """Writes each session's outbox once a turn; drops slow consumers."""

    def __init__(self, buffer_limit_bytes: int, slow_consumer_s: float) -> None:
        self.buffer_limit_bytes = buffer_limit_bytes
        self.sessions: set[Session] = set()
        self.slow_consumers_dropped = 0
        self._slow_consumer_ns = int(slow_consumer_s * 1e9)
        self._ready: list[Session] = []

    def ready(self, session: Session) -> None:
        """The session's outbox has become non-empty."""
        self._ready.append(session)

    def overflowed(self) -> None:
        """A slow consumer was dropped."""
        self.slow_consumers_dropped += 1

    def flush(self) -> None:
        """Write everything that waits."""
        ready, self._ready = self._ready, []
        for session in ready:
            session.flush()

    def congested(self, now: Instant) -> bool:
        """Whether a reader is behind by more than 1 MiB; one that is for too long is dropped."""
        congested = False
        for session in list(self.sessions):
            if session.unsent_bytes() <= _CONGESTED_BYTES:
                session.slow_since_ns = None
                continue
            congested = True
            if session.slow_since_ns is None:
                session.slow_since_ns = now.mono_ns
            elif now.mono_ns - session.slow_since_ns > self._slow_consumer_ns:
                self.overflowed()
                session.cut()
        return congested


class Pump:
    """Calls the feed's turns when they are due and writes what they brought."""

    def __init__(self, feed: Feed, outlet: SessionOutlet) -> None:
        self._feed = feed
        self._outlet = outlet
        self._woken = asyncio.Event()
        self.finished = asyncio.Event()

    def wake(self) -> None:
        """Something has changed that may make a turn useful."""
        self._woken.set()
        self._note_end()

    def _note_end(self) -> None:
        if self._feed.state().finished:
            self.finished.set()
        else:
            self.finished.clear()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._woken.clear()
            now = instant()
            if self._feed.waits_for_slow and self._outlet.congested(now):
                await asyncio.sleep(_SLICE_S)
                continue
            rest_ns = self._feed.turn(now)
            self._outlet.flush()
            if rest_ns is None:
                self._note_end()
                await self._woken.wait()
            elif rest_ns == 0:
                await asyncio.sleep(0)
            else:
                await self._rest(max(rest_ns * 1e-9, _SLICE_S))

    async def _rest(self, seconds: float) -> None:
        if seconds <= _LONG_S:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
