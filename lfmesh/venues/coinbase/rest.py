"""Coinbase Exchange's REST API, as far as the mesh needs it: trades of the past, newest first, a page a request.

    GET /products/{id}/trades?limit=1000&after=<id>      trades with ids below `after`, newest first
    ← [{"trade_id":74,"side":"sell","size":"0.01000000","price":"10.00000000","time":"2014-11-07T22:19:28.578544Z"},…]

`side` is the maker's in a row and the taker's in what is returned. Prices and sizes stay the venue's texts. A row that
cannot be used is counted and left out. 429 is answered past the venue's request limit, which the caller has to keep.
Source: the venue's documentation, "Get product trades" and "Rate limits".
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from lfmesh import __version__
from lfmesh.config import VenueSection
from lfmesh.errors import BadVenueFrame, VenueLimited, VenueRefused, VenueUnavailable
from lfmesh.messages import BackfilledTrade
from lfmesh.types import Side
from lfmesh.venues.coinbase.parse import MAX_DETAIL, TAKER, Reason, check, reason_of, to_ns

if TYPE_CHECKING:
    import httpx

MAX_ROWS = 1000
"""Trades that the venue gives a request, at most."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""A longer answer is not read to its end; a thousand trades have about 150 KB."""

MAX_RETRY_AFTER_S = 60.0

OUT_OF_RANGE = "out_of_range"
"""Why a row is refused that does not belong on the page: its id is not below `after`."""

_NO_SUCH_THING = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND)


class TradesPage(msgspec.Struct, frozen=True):
    """One page: usable trades, oldest first, each id once; and how many rows were refused, by reason.

    `rows` is how many the venue listed: fewer than asked for means that there are no older ones.
    """

    trades: list[BackfilledTrade]
    rows: int
    refused: Mapping[str, int]


class _Row(msgspec.Struct, gc=False):
    trade_id: Annotated[int, Meta(ge=1, lt=2**53)]
    side: Side
    size: str
    price: str
    time: str


_decode_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_row = msgspec.json.Decoder(_Row).decode


def parse_trades(body: bytes, after: int) -> TradesPage:
    """The page that was asked for with `after`; VenueUnavailable if it is no list, or not one of its rows is of use."""
    try:
        rows = _decode_rows(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VenueUnavailable("bad_answer", f"no list of trades: {str(error)[:MAX_DETAIL]}") from error
    found: dict[int, BackfilledTrade] = {}
    refused: Counter[str] = Counter()
    for row in rows:
        try:
            trade = _trade(row)
        except BadVenueFrame as error:
            refused[error.reason] += 1
            continue
        if trade.trade_id >= after:
            refused[OUT_OF_RANGE] += 1
        else:
            found[trade.trade_id] = trade
    if rows and not found:
        raise VenueUnavailable("bad_answer", f"no usable row among {len(rows)}: {', '.join(refused)}")
    return TradesPage([found[trade_id] for trade_id in sorted(found)], len(rows), dict(refused))


def _trade(raw: msgspec.Raw) -> BackfilledTrade:
    try:
        row = _decode_row(raw)
    except msgspec.ValidationError as error:
        raise BadVenueFrame(reason_of(error), str(error)[:MAX_DETAIL]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadVenueFrame(Reason.INVALID_JSON, str(error)[:MAX_DETAIL]) from error
    check(row.price, row.size)
    return BackfilledTrade(row.trade_id, row.price, row.size, TAKER[row.side], to_ns(row.time))


def retry_after_s(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait (RFC 9110, 10.2.3), at most a minute; None if it says nothing.

    One that names a time is measured against the answer's own Date.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        until, now = _http_date(value), _http_date(date)
        if until is None or now is None:
            return None
        seconds = (until - now).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


def _http_date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class RestClient:
    """Asks the venue. `open` before the first request; connections are kept open until `close`.

    The HTTP library costs a tenth of a second to import, and its TLS context some more: `open` has both made beside the
    loop, so that the feed flows on meanwhile.
    """

    def __init__(self, venue: VenueSection) -> None:
        self._base_url = venue.rest_url.rstrip("/")
        self._timeout_s = venue.rest_timeout_s
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Be ready to ask; idempotent."""
        if self._client is None:
            self._client = await asyncio.to_thread(self._new_client)

    async def trades(self, product: str, after: int, limit: int) -> TradesPage:
        """The newest `limit` (at most `MAX_ROWS`) trades with ids below `after`.

        VenueLimited for 429, VenueRefused for what the venue does not know, VenueUnavailable for all else.
        """
        assert self._client is not None, "open it first"
        url = f"{self._base_url}/products/{product}/trades"
        return parse_trades(await self._get(self._client, url, {"limit": limit, "after": after}), after)

    async def close(self) -> None:
        """Close the connections; idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _new_client(self) -> "httpx.AsyncClient":
        import httpx

        return httpx.AsyncClient(
            headers={"User-Agent": f"lfmesh/{__version__}", "Accept": "application/json"},
            timeout=self._timeout_s,
            follow_redirects=False,
            verify=self._base_url.startswith("https:"),  # no TLS context where there is no TLS
            trust_env=False,  # the same way to the venue as the feed's: never through a proxy
        )

    async def _get(self, client: "httpx.AsyncClient", url: str, params: dict[str, int]) -> bytes:
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s), client.stream("GET", url, params=params) as response:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise VenueUnavailable("bad_answer", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise VenueUnavailable("timeout", f"no answer within {self._timeout_s:g} s") from error
        except httpx.TransportError as error:
            raise VenueUnavailable("connection", f"{type(error).__name__}: {error}"[:MAX_DETAIL]) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise VenueUnavailable("bad_answer", f"{type(error).__name__}: {error}"[:MAX_DETAIL]) from error
        _check_status(response)
        return bytes(body)


def _check_status(response: "httpx.Response") -> None:
    status = response.status_code
    if status == HTTPStatus.OK:
        return
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        headers = response.headers
        raise VenueLimited(retry_after_s(headers.get("retry-after"), headers.get("date")))
    said = f"HTTP {status} {response.reason_phrase}".strip()
    if status in _NO_SUCH_THING:
        raise VenueRefused(said)
    raise VenueUnavailable("http_5xx" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "http_other", said)
