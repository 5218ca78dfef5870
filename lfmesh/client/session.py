"""A WebSocket session with a gateway that connects again whenever it is lost.

    async for event in Session(url, products, channels).events():
        match event:
            case Connected(): ...
            case Received(text): message = parse(text)
            case Lost(reason, retry_s): ...

The first retry is at once, later ones after a growing pause with jitter. What a retry cannot mend (a URL that is
none, a server that is no gateway) raises LfmeshError.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from lfmesh.config import is_loopback
from lfmesh.errors import LfmeshError

_OPEN_TIMEOUT_S = 5.0
_SILENCE_S = 10.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 5.0
_CLIENT_ERRORS = range(400, 500)
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is open and the subscription has been sent; `again` after a loss."""

    again: bool


@dataclass(frozen=True, slots=True)
class Received:
    """One message, as it came."""

    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """No connection, and why; the next attempt begins in `retry_s`."""

    reason: str
    retry_s: float


Event = Connected | Received | Lost


def backoff_s(failures: int) -> float:
    """Pause before the attempt that follows so many failures in a row, without jitter: the first retry is at once."""
    return 0.0 if failures <= 1 else min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(failures - 2, 10))


@dataclass(frozen=True, slots=True)
class Session:
    """A subscription that is kept up: `url` (ws:// or wss://), product ids, channels."""

    url: str
    products: Sequence[str]
    channels: Sequence[str]

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything that happens, until it is closed; LfmeshError for what a retry cannot mend."""
        failures = 0
        connected = False
        while True:
            reason = "closed"
            try:
                async with aclosing(self._connection()) as connection:
                    async for text in connection:
                        if text is None:
                            yield Connected(again=connected)
                            connected = True
                        else:
                            failures = 0
                            yield Received(text)
            except InvalidURI as error:
                raise LfmeshError(f"{self.url} is no WebSocket address, such as ws://127.0.0.1:8000/ws") from error
            except InvalidStatus as error:
                status = error.response.status_code
                if status in _CLIENT_ERRORS and status not in _MAY_PASS:
                    raise LfmeshError(f"{self.url} is no gateway: it answers HTTP {status}") from error
                reason = f"the server answers HTTP {status}"
            except ConnectionClosed as error:
                closed = error.rcvd
                reason = f"closed with {closed.code} {closed.reason}".rstrip() if closed else "connection broken"
            except TimeoutError:
                reason = f"no word for {_SILENCE_S:g} s" if connected else "no answer"
            except InvalidHandshake as error:
                if not isinstance(error.__cause__, EOFError):
                    raise LfmeshError(f"{self.url} is no gateway: {error}") from error
                reason = "closed before it was open"
            except OSError as error:
                reason = _short(error)
            failures += 1
            retry_s = backoff_s(failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            yield Lost(reason, retry_s)
            await asyncio.sleep(retry_s)

    async def _connection(self) -> AsyncGenerator[str | None, None]:
        """None once it is open and subscribed, then each message. A gateway is never silent: TimeoutError if it is."""
        direct = is_loopback(urlsplit(self.url).hostname or "")
        async with connect(
            self.url,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=1.0,
            max_size=None,
            compression=None,
            proxy=None if direct else True,
        ) as connection:
            try:
                await connection.send(_subscription(self.products, self.channels))
                yield None
                while True:
                    yield await _next(connection)
            except (GeneratorExit, asyncio.CancelledError):
                # The reader has had enough, which is no fault: left to itself, the library closes with 1011.
                await connection.close()
                raise


async def _next(connection: ClientConnection) -> str:
    async with asyncio.timeout(_SILENCE_S):
        return await connection.recv(decode=True)


def _subscription(products: Sequence[str], channels: Sequence[str]) -> str:
    return msgspec.json.encode({"op": "subscribe", "products": products, "channels": channels}).decode()


def _short(error: OSError) -> str:
    """`Connection refused` out of what asyncio says about each address that it tried."""
    if error.errno is not None and error.strerror and not error.strerror.startswith(("Connect call", "Multiple")):
        return error.strerror
    return "connection refused" if "Connect call failed" in str(error) else str(error)
