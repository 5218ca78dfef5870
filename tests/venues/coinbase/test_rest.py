"""REST: answers as bytes, then a venue of a few lines on a socket."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lfmesh.config import VenueSection
from lfmesh.errors import LfmeshError, VenueLimited, VenueRefused, VenueUnavailable
from lfmesh.messages import BackfilledTrade
from lfmesh.venues.coinbase.rest import MAX_ANSWER_BYTES, RestClient, parse_trades, retry_after_s
from tests.aio import run

TIME = "2021-04-17T16:43:37.075687Z"
TIME_NS = 1618677817075687000


def row(trade_id: object, **changes: object) -> dict[str, object]:
    fields = {"trade_id": trade_id, "side": "sell", "size": "0.01000000", "price": "10.00000000", "time": TIME}
    return fields | changes


def body(*rows: object) -> bytes:
    return json.dumps(list(rows)).encode()


def test_trades_keep_their_digits_and_get_the_takers_side() -> None:
    rows = (
        row(74, side="buy", price="60000.10", size="0.00000001", maker_order_id="x"),
        row(73, side="sell", price="0.000000010", time="2021-04-17T16:43:37Z"),
    )
    page = parse_trades(body(*rows), after=75)
    assert page.trades == [
        BackfilledTrade(73, "0.000000010", "0.01000000", "buy", TIME_NS // 10**9 * 10**9),
        BackfilledTrade(74, "60000.10", "0.00000001", "sell", TIME_NS),
    ]
    assert (page.rows, page.refused) == (2, {})


def test_an_empty_list() -> None:
    page = parse_trades(b" [] ", after=1)
    assert (page.trades, page.rows, page.refused) == ([], 0, {})


def test_order_and_repetition_do_not_matter() -> None:
    page = parse_trades(body(row(3), row(5), row(4), row(4)), after=6)
    assert [trade.trade_id for trade in page.trades] == [3, 4, 5]
    assert page.rows == 4


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(9, price="1e3"), "bad_price"),
        (row(9, price="0.00"), "bad_price"),
        (row(9, price="-1"), "bad_price"),
        (row(9, price=1.5), "bad_type"),
        (row(9, size="1,5"), "bad_size"),
        (row(9, side="up"), "bad_side"),
        (row(9, time="yesterday"), "bad_time"),
        (row("9"), "bad_type"),
        (row(0), "bad_number"),
        (row(2**53), "bad_number"),
        (row(-1), "bad_number"),
        (row(10), "out_of_range"),
        ({"trade_id": 9}, "missing_field"),
        ("trade", "bad_type"),
        (None, "bad_type"),
    ],
)
def test_a_bad_row_is_left_out_and_counted(bad: object, reason: str) -> None:
    page = parse_trades(body(row(8), bad, row(7)), after=10)
    assert [trade.trade_id for trade in page.trades] == [7, 8]
    assert (page.rows, page.refused) == (3, {reason: 1})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no list of trades"),
        (b"<html>", "no list of trades"),
        (b'{"message":"NotFound"}', "no list of trades"),
        (body(row(1))[:-1], "no list of trades"),
        (b'["\xff"]', "no usable row"),
        (b"[" * 5000, "no list of trades"),
        (body(row(5), row(6)), "no usable row among 2: out_of_range"),
        (body(row(1, price="x")), "no usable row among 1: bad_price"),
    ],
)
def test_an_answer_of_no_use(answer: bytes, words: str) -> None:
    with pytest.raises(VenueUnavailable, match=words) as caught:
        parse_trades(answer, after=5)
    assert caught.value.reason == "bad_answer"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("2", None, 2.0),
        (" 0 ", None, 0.0),
        ("86400", None, 60.0),
        ("9" * 400, None, 60.0),
        ("-1", None, None),
        ("soon", None, None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None, None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:49 GMT", 10.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59 -0000", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", "Sat, 01 Jan 2000 00:00:59 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, date) == seconds


class Exchange:
    """Answers each request with the same bytes, and keeps what was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.asked.append(head.split()[1])
                self.heads.append(head.lower())
                writer.write(self.answer)
                await writer.drain()
                if b"content-length" not in self.answer.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(status: str, content: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@asynccontextmanager
async def client(answer: bytes, timeout_s: float = 5.0) -> AsyncIterator[tuple[Exchange, RestClient]]:
    exchange = Exchange(answer)
    server = await asyncio.start_server(exchange.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rest = RestClient(VenueSection(rest_url=f"http://127.0.0.1:{port}/api/", rest_timeout_s=timeout_s))
    try:
        await rest.open()
        yield exchange, rest
    finally:
        await rest.close()
        server.close()
        await server.wait_closed()


def test_what_is_asked() -> None:
    async def main() -> None:
        async with client(http("200 OK", body(row(8), row(7)))) as (exchange, rest):
            page = await rest.trades("BTC-USD", after=9, limit=2)
            assert [trade.trade_id for trade in page.trades] == [7, 8]
            await rest.trades("ETH-USD", after=9, limit=1000)
            assert exchange.asked == [
                "/api/products/BTC-USD/trades?limit=2&after=9",
                "/api/products/ETH-USD/trades?limit=1000&after=9",
            ]
            assert "user-agent: lfmesh/" in exchange.heads[0]
            await rest.close()
            await rest.close()

    run(main())


def test_a_compressed_answer() -> None:
    async def main() -> None:
        packed = gzip.compress(body(row(7)))
        async with client(http("200 OK", packed, "Content-Encoding: gzip")) as (_, rest):
            assert (await rest.trades("BTC-USD", 9, 2)).rows == 1

    run(main())


@pytest.mark.parametrize(
    ("answer", "kind", "reason", "words"),
    [
        (http("404 Not Found"), VenueRefused, None, "HTTP 404 Not Found"),
        (http("400 Bad Request"), VenueRefused, None, "HTTP 400 Bad Request"),
        (http("503 Service Unavailable"), VenueUnavailable, "http_5xx", "HTTP 503 Service Unavailable"),
        (http("500 \x00"), VenueUnavailable, "connection", "ProtocolError"),
        (http("403 Forbidden"), VenueUnavailable, "http_other", "HTTP 403 Forbidden"),
        (http("302 Found", b"", "Location: http://127.0.0.1:1/"), VenueUnavailable, "http_other", "HTTP 302 Found"),
        (http("200 OK", b"nonsense"), VenueUnavailable, "bad_answer", "no list of trades"),
        (http("200 OK", b"nonsense", "Content-Encoding: gzip"), VenueUnavailable, "bad_answer", "DecodingError"),
        (http("200 OK", b" " * (MAX_ANSWER_BYTES + 1)), VenueUnavailable, "bad_answer", "more than"),
        (b"HTTP/1.1 200 O", VenueUnavailable, "connection", "ProtocolError"),
        (b"nonsense\r\n\r\n", VenueUnavailable, "connection", "ProtocolError"),
    ],
)
def test_each_way_to_fail(answer: bytes, kind: type[LfmeshError], reason: str | None, words: str) -> None:
    async def main() -> None:
        async with client(answer) as (_, rest):
            with pytest.raises(kind, match=words) as caught:
                await rest.trades("BTC-USD", 9, 2)
            assert getattr(caught.value, "reason", None) == reason

    run(main())


def test_429_says_when_to_come_back() -> None:
    async def main() -> None:
        for header, wait in ((("Retry-After: 3",), 3.0), ((), None)):
            async with client(http("429 Too Many Requests", b"{}", *header)) as (_, rest):
                with pytest.raises(VenueLimited) as caught:
                    await rest.trades("BTC-USD", 9, 2)
                assert caught.value.retry_after_s == wait

    run(main())


def test_no_answer_and_nobody_there() -> None:
    async def main() -> None:
        async with client(b"", timeout_s=0.1) as (exchange, rest):
            exchange.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n["  # and then nothing more
            with pytest.raises(VenueUnavailable, match=r"no answer within 0\.1 s") as caught:
                await rest.trades("BTC-USD", 9, 2)
            assert caught.value.reason == "timeout"
        nobody = RestClient(VenueSection(rest_url="http://127.0.0.1:1"))
        await nobody.open()
        with pytest.raises(VenueUnavailable, match="ConnectError") as caught:
            await nobody.trades("BTC-USD", 9, 2)
        assert caught.value.reason == "connection"
        await nobody.close()

    run(main())
