"""States as of a moment, asked of the snapshotters' archives for people who come over HTTP.

    one asks ──► room for a few at a time ──► a snapshotter ──► the next one, if that does not know or does not answer

An archive may have to read a good deal for one answer: it is given time, and no more are asked at once than it takes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from lfmesh.core.hub_snapshots import State
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, SnapshotRequest, Unavailable, decode_reply, encode
from lfmesh.services.gateway.replies import state_in
from lfmesh.transport import Requester
from lfmesh.types import StreamKey

TIMEOUT_S = 8.0
"""All of it takes no longer. (What comes over HTTP must be answered 10 s after the connection was opened.)"""
MAX_UNDER_WAY = 4

Why = Literal["unknown", "senseless", "busy", "unavailable"]


class NoState(NamedTuple):
    """Why there is no state. "unknown": nothing is known of that moment; "senseless": it is none that could be known;
    "busy", "unavailable": it may be there, and can't be had now."""

    why: Why
    reason: str


class Moments:
    """Asks on behalf of all. `sources` gives whom to ask for a stream; `bad` is told of what can't be read."""

    def __init__(
        self, sources: Callable[[StreamKey], Sequence[Requester]], bad: Callable[[str, str], None], *, enabled: bool
    ) -> None:
        self.counters: Counter[str] = Counter()
        """Answers by what they were: `served`, or why not."""
        self._sources = sources
        self._bad = bad
        self._enabled = enabled
        self._closed = False
        self._waiting: set[asyncio.Future[Sequence[bytes] | None]] = set()
        self._under_way = 0
        self._turns = 0

    async def state_at(self, key: StreamKey, at: int) -> State | NoState:
        """The state as of `at` (ns, the venue's time), or why there is none."""
        found = await self._find(key, at)
        self.counters[found.why if isinstance(found, NoState) else "served"] += 1
        return found

    def close(self) -> None:
        """Whoever waits, and whoever still asks, gets no state; idempotent."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _find(self, key: StreamKey, at: int) -> State | NoState:
        if not self._enabled:
            return NoState("unavailable", "this mesh keeps no archive (archive.enabled is false)")
        sources = self._sources(key)
        if not sources:
            return NoState("unavailable", f"no snapshotter of {key.product} is known")
        if self._under_way >= MAX_UNDER_WAY:
            return NoState("busy", f"{MAX_UNDER_WAY} moments are being looked for already; ask again")
        self._under_way += 1
        self._turns += 1
        try:
            return await self._ask(key, at, [sources[(self._turns + n) % len(sources)] for n in range(len(sources))])
        finally:
            self._under_way -= 1

    async def _ask(self, key: StreamKey, at: int, sources: Sequence[Requester]) -> State | NoState:
        """What the first of them says that knows; else the most hopeful of their reasons."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TIMEOUT_S
        payload = encode(SnapshotRequest(*key, at=at))
        reasons: list[NoState] = []
        for number, source in enumerate(sources):
            left = deadline - loop.time()
            if self._closed or left <= 0:
                break
            # Who does not answer leaves some time for the others.
            parts = await self._request(source, payload, left if number == len(sources) - 1 else left * 0.6)
            found = self._read(key, parts)
            if isinstance(found, State):
                return found
            reasons.append(found)
        if self._closed:
            return NoState("unavailable", "this gateway is about to end")
        order: tuple[Why, ...] = ("senseless", "busy", "unavailable", "unknown")
        return min(reasons, key=lambda one: order.index(one.why))

    async def _request(self, source: Requester, payload: bytes, timeout_s: float) -> Sequence[bytes] | None:
        future: asyncio.Future[Sequence[bytes] | None] = asyncio.get_running_loop().create_future()

        def settle(parts: Sequence[bytes] | None) -> None:
            if not future.done():
                future.set_result(parts)

        self._waiting.add(future)
        try:
            source.ask(payload, settle, timeout_s)
            return await future
        finally:
            self._waiting.discard(future)

    def _read(self, key: StreamKey, parts: Sequence[bytes] | None) -> State | NoState:
        if parts is None:
            return NoState("unavailable", "the archive does not answer in time")
        try:
            state = state_in(key, parts)
            if state is not None:
                return state
            header = decode_reply(parts[0])
        except BadMeshFrame as error:
            self._bad("answer", str(error))
            return NoState("unavailable", "the archive's answer can't be read")
        match header:
            case Unavailable(reason, later):
                return NoState("busy" if later else "unknown", reason)
            case Rejected(reason):
                return NoState("senseless", reason)
            case _:
                return NoState("unavailable", "the archive answers something else")
