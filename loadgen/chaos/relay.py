"""TCP relays in front of the mesh's sockets: one listening port for each (who connects, which socket).

A relay passes bytes on as they come. Its link's `Weather` can cut it (both directions fall silent, newcomers are let in
and hear nothing; what was under way arrives after the cut, as TCP would resend it), delay it, or make whole ZeroMQ
messages vanish.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial

import msgspec

from loadgen.chaos.lane import Lane, Weather
from loadgen.chaos.views import Addresses, rewritten

_HELD_BYTES = 4 * 1024 * 1024
"""Past this a direction is not read any more until the other end has taken something."""
_BACKLOG = 1024


class Post(msgspec.Struct, frozen=True):
    """One relay: `name` tells it from others, `link` is the link that it belongs to; it leads to `host`:`port`.

    It listens at, and connects from, the address `via` (empty: this machine's own).

    `zmtp` False carries anything else (WebSocket, HTTP) and drops nothing. `drop_up` and `drop_down` say in which
    direction messages may vanish (up: from who connects). With `rewrites`, the answers of a registry replica that come
    down lead `connector` to its own relays.
    """

    name: str
    link: str
    connector: str
    host: str
    port: int
    via: str = ""
    zmtp: bool = True
    drop_up: bool = False
    drop_down: bool = False
    rewrites: bool = False


class Relay:
    """A listening relay; `open` it in a running loop. `addresses` may still grow afterwards."""

    def __init__(self, post: Post, weather: Weather, chance: random.Random, addresses: Addresses) -> None:
        self.post = post
        self.port = 0
        self._weather = weather
        self._chance = chance
        self._rewrite = partial(rewritten, addresses=addresses) if post.rewrites else None
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None

    async def open(self, host: str) -> None:
        """Listen on a port that the system chooses."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, self.post.via or host, 0, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    def changed(self) -> None:
        """The link's weather has changed."""
        for pair in tuple(self._pairs):
            pair.changed()

    def close(self) -> None:
        """Listen no more, and cut what is under way."""
        if self._server is not None:
            self._server.close()
        for pair in tuple(self._pairs):
            pair.abort()

    def _accept(self) -> asyncio.Protocol:
        post, weather, chance = self.post, self._weather, self._chance
        up = Lane(weather, chance, zmtp=post.zmtp, may_drop=post.drop_up)
        down = Lane(weather, chance, zmtp=post.zmtp, may_drop=post.drop_down, rewrite=self._rewrite)
        pair = _Pair(post, weather, up, down, self._pairs.discard)
        self._pairs.add(pair)
        return pair.near


class _End(asyncio.Protocol):
    """One of the two sockets of a pair; what it receives goes through `lane` to the other one."""

    def __init__(self, pair: "_Pair", lane: Lane) -> None:
        self.lane = lane
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self._pair = pair
        self._holds: set[str] = set()
        self._kept: list[bytes] = []  # what came all the same: a transport may read on for a moment

    @property
    def finished(self) -> bool:
        """Nothing more will come from it."""
        return self.ended and not self._kept and not self.lane.waiting_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream protocol it is always a Transport
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=_HELD_BYTES)
        self._pair.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._holds:
            self._kept.append(data)
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._pair.send(self, self.lane.take(data, self._pair.now()))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.ended = True
        self._pair.lost(self)

    def pause_writing(self) -> None:
        self._pair.other(self).hold("full")

    def resume_writing(self) -> None:
        self._pair.other(self).go("full")

    def hold(self, why: str) -> None:
        """Read no more, until `go` with the same reason."""
        self._holds.add(why)
        if self.transport is not None and not self.ended:
            self.transport.pause_reading()

    def go(self, why: str) -> None:
        """Read on, unless there is another reason not to."""
        if why not in self._holds:
            return
        self._holds.discard(why)
        if self._holds:
            return
        kept, self._kept = self._kept, []
        if kept:
            self._take(b"".join(kept))
        if not self._holds and self.transport is not None and not self.ended:
            self.transport.resume_reading()


class _Pair:
    """A connection to the relay and the one that it makes for it."""

    def __init__(self, post: Post, weather: Weather, up: Lane, down: Lane, done: "Callable[[_Pair], None]") -> None:
        self._post = post
        self._weather = weather
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._cut = False
        self.near, self.far = _End(self, up), _End(self, down)

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def other(self, end: _End) -> _End:
        """The opposite end."""
        return self.far if end is self.near else self.near

    def joined(self, end: _End) -> None:
        """An end has its socket."""
        if end is self.near:
            end.hold("far is missing")
            if self._weather.cut:
                self._cut = True
                end.hold("cut")
            else:
                self._dial()
        else:
            if self._cut:
                end.hold("cut")
            self.near.go("far is missing")
            self._flush()

    def send(self, end: _End, data: bytes) -> None:
        """Pass on to the other end what an end has received."""
        other = self.other(end)
        if data and other.transport is not None and not other.ended:
            other.transport.write(data)
        if end.lane.waiting_bytes:
            self._wait()
            if end.lane.waiting_bytes > _HELD_BYTES:
                end.hold("delayed")

    def changed(self) -> None:
        """Cut or healed, delayed or not."""
        if self._weather.cut != self._cut:
            self._cut = self._weather.cut
            for end in (self.near, self.far):
                (end.hold if self._cut else end.go)("cut")
        if not self._cut:
            if self.far.transport is None and self._dialling is None and not self.near.ended:
                self._dial()
            self._flush()

    def lost(self, end: _End) -> None:
        """A socket is gone: the other one goes too, when it has been sent everything."""
        if self.far.transport is None and self._dialling is None:
            self.far.ended = True  # it was never dialled, and need not be any more
        if end.ended and self.other(end).ended:
            self._end()
        elif not self._cut:
            self._flush()

    def abort(self) -> None:
        """Cut both at once."""
        if self._dialling is not None:
            self._dialling.cancel()
        for end in (self.near, self.far):
            if end.transport is not None:
                end.transport.abort()
        self._end()

    # ---------------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        self._dialling = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            via = (self._post.via, 0) if self._post.via else None
            await self._loop.create_connection(lambda: self.far, self._post.host, self._post.port, local_addr=via)
        except OSError:
            self.far.ended = True
            assert self.near.transport is not None
            self.near.transport.abort()
            if self.near.ended:
                self._end()

    def _wait(self) -> None:
        if self._timer is None:
            due = [at for end in (self.near, self.far) if (at := end.lane.next_due()) is not None]
            self._timer = self._loop.call_at(min(due), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        if self._cut:
            return  # comes again with the end of the cut
        for end in (self.near, self.far):
            self.send(end, end.lane.due(self.now()))
            if end.lane.waiting_bytes <= _HELD_BYTES:
                end.go("delayed")
            other = self.other(end)
            if end.finished and other.transport is not None and not other.ended:
                other.transport.close()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._done(self)
