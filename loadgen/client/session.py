"""One WebSocket connection that feeds a checker (or anything else that takes frames).

    async with Session(url, checker) as session:
        await session.subscribe(["BTC-USD"], ["ticker", "book"])
        await session.until(lambda: not checker.waiting(), timeout_s=5)

The session reads until it is left or the gateway closes; it never reconnects by itself. What a second session with the
same checker resumes (`from_seq`) is checked against what the first one left.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from lfmesh.errors import LfmeshError
from loadgen.client.wire import Ping, Request, ResumePosition, Subscribe, Unsubscribe, encode

_OPEN_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 1.0
_TICK_S = 0.25
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_QUEUE_FRAMES = 1024
_PRODUCTS_A_REQUEST = 200
_RESUMES_A_REQUEST = 100

FromSeq = Mapping[str, Mapping[str, ResumePosition]]


class Receiver(Protocol):
    """What a session feeds; times in ns since the Unix epoch. `Checker` is one."""

    def connected(self, now: int) -> None:
        """The connection is open."""

    def disconnected(self) -> None:
        """It is over."""

    def requested(self, request: Request, now: int) -> None:
        """A request is being sent."""

    def receive(self, frame: bytes, now: int) -> None:
        """A text frame has come."""

    def tick(self, now: int) -> None:
        """Time passes."""


class Session:
    """One client; use it as an async context manager. LfmeshError if no connection can be made."""

    def __init__(self, url: str, receiver: Receiver, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.url = url
        self.ended: str | None = None
        """Why the gateway closed the connection, None while it is open."""
        self._receiver = receiver
        self._clock = clock
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._next_id = 0

    async def __aenter__(self) -> Self:
        self._connection = await _connect(self.url)
        self._receiver.connected(self._clock())
        self._reader = asyncio.create_task(self._read(self._connection))
        self._tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        assert self._reader is not None
        if self._ticker is not None:
            self._ticker.cancel()
        await self._connection.close()
        await self._reader
        self._receiver.disconnected()

    async def subscribe(
        self,
        products: Sequence[str],
        channels: Sequence[str],
        *,
        want_snapshot: bool = True,
        from_seq: FromSeq | None = None,
        conflate_ms: int = 0,
    ) -> None:
        """Ask for streams, in as many requests as the size of one allows; the answers come later."""
        size = _PRODUCTS_A_REQUEST if from_seq is None else max(1, _RESUMES_A_REQUEST // len(channels))
        for start in range(0, len(products), size):
            some = list(products[start : start + size])
            await self.send(
                Subscribe(
                    id=self._id(),
                    products=some,
                    channels=list(channels),
                    want_snapshot=want_snapshot,
                    from_seq={product: dict(from_seq[product]) for product in some if product in from_seq}
                    if from_seq
                    else {},
                    conflate_ms=conflate_ms,
                )
            )

    async def unsubscribe(self, products: Sequence[str] | None = None, channels: Sequence[str] | None = None) -> None:
        """Give streams up; None means all."""
        await self.send(
            Unsubscribe(
                id=self._id(),
                products=None if products is None else list(products),
                channels=None if channels is None else list(channels),
            )
        )

    async def ping(self, t: int) -> None:
        """Ask for a pong."""
        await self.send(Ping(t=t))

    async def send(self, request: Request) -> None:
        """Send one request; LfmeshError when the connection is over."""
        self._receiver.requested(request, self._clock())
        await self.send_text(encode(request).decode())

    async def send_text(self, text: str) -> None:
        """Send any text, also one that is no request; LfmeshError when the connection is over."""
        assert self._connection is not None
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise LfmeshError(f"the gateway has closed the connection: {_why(error)}") from error

    async def until(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Wait until `condition()` is true, looking after each arrival; TimeoutError, LfmeshError if closed before."""
        assert self._reader is not None
        async with asyncio.timeout(timeout_s):
            while not condition():
                if self.ended is not None:
                    raise LfmeshError(f"the gateway has closed the connection: {self.ended}")
                self._changed.clear()
                await self._changed.wait()

    async def wait_closed(self) -> str:
        """Wait until the gateway closes the connection, and return why."""
        assert self._reader is not None
        await asyncio.shield(self._reader)
        return self.ended or "closed"

    async def _read(self, connection: ClientConnection) -> None:
        receive, clock, changed = self._receiver.receive, self._clock, self._changed
        recv = connection.recv
        try:
            first = await recv()
            if isinstance(first, bytes):
                raise LfmeshError(f"{self.url} sends binary frames: it is no gateway of this protocol")
            receive(first.encode(), clock())
            changed.set()
            while True:
                frame = await recv(decode=False)
                receive(frame, clock())
                changed.set()
        except ConnectionClosed as error:
            self.ended = _why(error)
            changed.set()

    def _tick(self) -> None:
        self._receiver.tick(self._clock())
        self._changed.set()
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id


async def _connect(url: str) -> ClientConnection:
    try:
        return await connect(
            url,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            compression=None,
            max_size=_MAX_FRAME_BYTES,
            max_queue=_QUEUE_FRAMES,
            proxy=None,
        )
    except InvalidURI as error:
        raise LfmeshError(f"{url} is no WebSocket address, such as ws://localhost:8000/ws") from error
    except InvalidStatus as error:
        raise LfmeshError(f"cannot connect to {url}: it answers HTTP {error.response.status_code}") from error
    except InvalidHandshake as error:
        raise LfmeshError(f"cannot connect to {url}: {error}") from error
    except TimeoutError as error:
        raise LfmeshError(f"cannot connect to {url}: no answer within {_OPEN_TIMEOUT_S:g} s") from error
    except OSError as error:
        reason = "connection refused: is the mesh running?" if "refused" in str(error) or error.errno == 111 else error
        raise LfmeshError(f"cannot connect to {url}: {reason}") from error


def _why(error: ConnectionClosed) -> str:
    closed = error.rcvd
    return f"{closed.code} {closed.reason}".rstrip() if closed else "connection lost"


def http_base(url: str) -> str:
    """`http://HOST:PORT` of the gateway behind a `ws://HOST:PORT/ws`; LfmeshError if it is no such address."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.netloc:
        raise LfmeshError(f"{url} is no WebSocket address, such as ws://localhost:8000/ws")
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
