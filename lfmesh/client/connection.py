"""The sockets of a feed: connect, read, send, again and again.

A `Connector` runs on the loop: it takes messages off the socket as long as its `Inbox` has room, and, while there is a
connection, sends what the inbox's owner has to say. What it brings is in order: `Opened`, any number of `Text`, `Over`;
an `Over` alone is an attempt that came to nothing. After each `Over` it waits until all has been worked off, since only
then it is known whether, and when, to go on.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lfmesh.client.link import Failed, Route, is_hopeless, open_connection, reason_of

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_SILENCE_NS = 10_000_000_000
_BEAT_S = 0.25


class Tap(Protocol):
    """Sees everything raw, at the moment it happens; for recorders and auditors. Times in ns since the Unix epoch."""

    def opened(self, url: str, now: int) -> None:
        """A connection is open."""

    def sent(self, text: str, now: int) -> None:
        """A request is being sent."""

    def received(self, text: str, now: int) -> None:
        """A message has come."""

    def closed(self, reason: str, now: int) -> None:
        """The connection is over; `reason` is empty when the feed itself was closed."""

    def ticked(self, now: int) -> None:
        """Time passes; a few times a second while there is a connection."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection is open."""

    url: str
    at: int


@dataclass(frozen=True, slots=True)
class Text:
    """A message has come."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Over:
    """A connection is over, or (`failure`) could not be made."""

    url: str
    reason: str
    code: int | None
    lasted_ns: int
    failure: Failed | None
    at: int


Item = Opened | Text | Over


class Inbox(Protocol):
    """Where a connector brings what it has, and asks what to do."""

    def put(self, item: Item) -> None:
        """Something has come."""

    async def room(self) -> None:
        """Wait until there is room for more."""

    async def worked_off(self) -> float:
        """Wait until all has been worked off; the pause before the next attempt. NoGateway: there is to be none."""

    def due(self, now: int) -> tuple[list[str], str | None, float | None]:
        """(requests to send, why to give the connection up, in how many seconds to leave it in peace)."""


class Connector:
    """See the module's docstring. `wake` has the sender look at once for what is due."""

    def __init__(self, route: Route, inbox: Inbox, tap: Tap | None) -> None:
        self.connections = self.messages = self.bytes = 0
        self.ending = False
        """The feed itself is being closed."""
        self._route = route
        self._inbox = inbox
        self._tap = tap
        self._connection: ClientConnection | None = None
        self._wake = asyncio.Event()
        self._heard_at = 0
        self._reading = False
        self._drop_reason: str | None = None

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def drop(self, reason: str) -> None:
        """Cut the connection, if there is one, without a goodbye."""
        if self._connection is not None:
            self._drop_reason = reason
            self._connection.transport.abort()

    async def run(self) -> None:
        """For ever; NoGateway for what trying again cannot mend."""
        while True:
            url = self._route.url
            connection = await open_connection(url)
            if isinstance(connection, Failed):
                over = Over(url, connection.reason, None, 0, connection, time.time_ns())
            else:
                over = await self._converse(url, connection)
            self._inbox.put(over)
            await asyncio.sleep(await self._inbox.worked_off())

    async def _converse(self, url: str, connection: "ClientConnection") -> Over:
        """One connection from its beginning to its end."""
        began = self._heard_at = time.time_ns()
        self._connection, self._drop_reason = connection, None
        self.connections += 1
        if self._tap is not None:
            self._tap.opened(url, began)
        self._inbox.put(Opened(url, began))
        sender = asyncio.create_task(self._send(connection), name="lfmesh feed, sender")
        reason, code, failure = "", None, None
        try:
            reason, code, failure = await self._read(url, connection)
        finally:
            self._reading, self._connection = False, None
            sender.cancel()
            await asyncio.wait([sender])
            await connection.close()
            if self._tap is not None:
                self._tap.closed("" if self.ending else reason, time.time_ns())
        if not sender.cancelled() and (broken := sender.exception()) is not None:
            raise broken
        now = time.time_ns()
        return Over(url, reason, code, now - began, failure, now)

    async def _read(self, url: str, connection: "ClientConnection") -> tuple[str, int | None, Failed | None]:
        """Take what comes, until nothing does any more, and say why."""
        from websockets.exceptions import ConnectionClosed

        inbox, tap = self._inbox, self._tap
        try:
            while True:
                self._reading = True
                text = await connection.recv()
                self._reading = False
                if isinstance(text, bytes):
                    reason = f"{url} sends binary frames: it is no gateway"
                    return reason, None, Failed(reason, hopeless=True)
                now = self._heard_at = time.time_ns()
                self.messages += 1
                self.bytes += len(text)
                if tap is not None:
                    tap.received(text, now)
                inbox.put(Text(text, now))
                await inbox.room()
        except ConnectionClosed as error:
            reason, code = reason_of(error)
            hopeless = is_hopeless(code)
            return self._drop_reason or reason, code, Failed(f"{url}: {reason}", hopeless=True) if hopeless else None

    async def _send(self, connection: "ClientConnection") -> None:
        """Send what is due, and watch the time, while the connection lasts."""
        from websockets.exceptions import ConnectionClosed

        tap = self._tap
        with suppress(ConnectionClosed):
            while True:
                self._wake.clear()
                now = time.time_ns()
                if tap is not None:
                    tap.ticked(now)
                texts, broken, leave_in_s = self._inbox.due(now)
                for text in texts:
                    if tap is not None:
                        tap.sent(text, now)
                    await connection.send(text)
                if broken is None and self._reading and now - self._heard_at > _SILENCE_NS:
                    broken = f"no word for {_SILENCE_NS / 1e9:g} s"
                if broken is not None:
                    self.drop(broken)
                    return
                if leave_in_s is not None and leave_in_s <= 0:
                    self._drop_reason = "the gateway goes away"
                    await connection.close()
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_S if leave_in_s is None else min(_BEAT_S, leave_in_s)):
                        await self._wake.wait()
