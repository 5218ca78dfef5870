"""Where a feed connects to: addresses in turn, pauses, and what of a failed attempt can be mended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lfmesh.client.errors import NoGateway
from lfmesh.core.backoff import Backoff

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

_OPEN_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 1.0
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_BACKOFF_BASE_S = 0.2
_BACKOFF_MAX_S = 5.0
_CLIENT_ERRORS = range(400, 500)
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_POLICY = 1008


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that came to nothing. `hopeless`: trying again will not mend it."""

    reason: str
    hopeless: bool = False


def checked(urls: str | Sequence[str]) -> tuple[str, ...]:
    """WebSocket addresses; NoGateway if one is none."""
    found = (urls,) if isinstance(urls, str) else tuple(urls)
    if not found:
        raise NoGateway("no address is given")
    for url in found:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("ws", "wss") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise NoGateway(f"{url} is no WebSocket address, such as ws://127.0.0.1:8000/ws")
    return found


class Route:
    """Which address is next, and after what pause.

    After a loss the next address is tried at once. When all have been tried, pauses grow, with jitter. An address is
    hopeless if what answers there is no gateway, and never was one.
    """

    def __init__(self, urls: Sequence[str], random: Callable[[], float]) -> None:
        self.urls = tuple(urls)
        self.failures = 0
        """Attempts in a row that came to nothing."""
        self._tried = 0
        self._at = 0
        self._backoff = Backoff(_BACKOFF_BASE_S, _BACKOFF_MAX_S, random)
        self._served: set[str] = set()
        self._hopeless: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The present address."""
        return self.urls[self._at]

    def served(self, *, well: bool) -> None:
        """The present address is a gateway's; `well`: its connection lasted."""
        self._served.add(self.url)
        self._hopeless.pop(self.url, None)
        if well:
            self._backoff.reset()
            self.failures = self._tried = 0

    def lost(self, wait_s: float | None, *, well: bool) -> float:
        """A connection is over; the pause before the next attempt.

        `wait_s`: what is left of the time that a gateway which goes away has named. `well`: the connection lasted.
        """
        self._turn()
        if well and wait_s is not None:
            return wait_s if len(self.urls) == 1 else 0.0
        return self._pause()

    def failed(self, failure: Failed) -> float:
        """No connection could be made; the pause before the next attempt. NoGateway if no address is left."""
        self.failures += 1
        if failure.hopeless and self.url not in self._served:
            self._hopeless[self.url] = failure.reason
            if len(self._hopeless) == len(self.urls):
                raise NoGateway("; ".join(self._hopeless.values()))
        self._turn()
        return self._pause()

    def _turn(self) -> None:
        for _ in self.urls:
            self._at = (self._at + 1) % len(self.urls)
            if self.url not in self._hopeless:
                return

    def _pause(self) -> float:
        # One pause a round: alternatives are tried one right after the other.
        self._tried += 1
        usable = len(self.urls) - len(self._hopeless)
        return self._backoff.next_pause() if self._tried % max(1, usable) == 0 else 0.0


async def open_connection(url: str) -> "ClientConnection | Failed":
    """A WebSocket connection, or why there is none."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidURI

    try:
        return await connect(
            url,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            max_size=_MAX_FRAME_BYTES,
            compression=None,
            # A reader that takes its time would not see pongs. Gateways are never silent: silence is watched instead.
            ping_interval=None,
            proxy=None if _is_loopback(url) else True,
        )
    except (InvalidHandshake, InvalidURI) as error:
        return _no_gateway(url, error)
    except TimeoutError:
        return Failed(f"no answer within {_OPEN_TIMEOUT_S:g} s")
    except OSError as error:
        return Failed(_short(error))


def _no_gateway(url: str, error: "InvalidHandshake | InvalidURI") -> Failed:
    from websockets.exceptions import InvalidStatus

    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        hopeless = (status in _CLIENT_ERRORS and status not in _MAY_PASS) or status < HTTPStatus.MULTIPLE_CHOICES
        return Failed(f"{url} answers HTTP {status}" + (": it is no gateway" if hopeless else ""), hopeless)
    if isinstance(error.__cause__, EOFError):
        return Failed("closed before it was open")
    return Failed(f"{url} is no gateway: {error}", hopeless=True)


def reason_of(error: "ConnectionClosed") -> tuple[str, int | None]:
    """Why a connection is over, and the close code that came."""
    closed = error.rcvd
    if closed is None:
        return "connection broken", None
    return f"closed with {closed.code} {closed.reason}".rstrip(), closed.code


def http_base(url: str) -> str:
    """`http://HOST:PORT` of the gateway behind a WebSocket address."""
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"


def is_hopeless(code: int | None) -> bool:
    """Whether a close code says that trying again will not help."""
    return code == _POLICY


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _short(error: OSError) -> str:
    """`Connection refused` out of what asyncio says about each address that it tried."""
    if error.errno is not None and error.strerror and not error.strerror.startswith(("Connect call", "Multiple")):
        return error.strerror
    return "connection refused" if "Connect call failed" in str(error) else str(error)
