"""What was told by others becomes what the products begin with, and where to begin reading."""

import msgspec
import pytest

from lfmesh.core import encode
from lfmesh.core.product import RestoredBook
from lfmesh.errors import BadMeshFrame, RequestFailed, RequestTimeout
from lfmesh.messages import BackfilledTrade, Rejected, StatesReply, StreamSummary, Unavailable
from lfmesh.messages import encode as encode_message
from lfmesh.services.normalizer.restore import MAX_REREAD, NO_HISTORY, History, Told, ask, ask_all, history_of, merged
from lfmesh.transport import Responder, Server, Transport
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, Trade
from tests.aio import run

TRADE = Trade("BTC-USD", 7, "0.00001000", "1.50", "sell", 0)
A, B = 1, 2


def at(number: int, ingestor: int = A, incarnation: int = 10) -> InputPosition:
    return InputPosition(ingestor, incarnation, number)


def summary(
    channel: Channel, source: InputPosition = NO_INPUT, seq: int = 22, product: str = "BTC-USD", **fields: object
) -> StreamSummary:
    made = StreamSummary(product, channel, 3, 11, seq, source)
    return msgspec.structs.replace(made, **fields)


def history(*summaries: StreamSummary, inputs: tuple[InputPosition, ...] = (), term: int = 3) -> History:
    return history_of(Told(term, inputs, summaries))


def test_puts_a_products_streams_together_digit_for_digit() -> None:
    ticker = encode.ticker_fields(
        encode.trade_fields(TRADE), encode.level(("4.90", "1.00")), encode.level(("5.0", None))
    ).encode()
    made = history(
        summary(Channel.TICKER, fields=ticker),
        summary(Channel.TRADES, term=9, trades=[BackfilledTrade(6, "0.00001100", "1.0", "buy", 77)], last_trade_id=8),
        summary(Channel.BOOK, at(5), bids=[("1", "2")], asks=[("3.0", "4")]),
    )
    assert made.term == 9
    restored = made.products["BTC-USD"]
    assert restored.positions == dict.fromkeys(Channel, Position(11, 22))
    assert restored.last_trade == TRADE
    assert restored.trades == (Trade("BTC-USD", 6, "0.00001100", "1.0", "buy", 77),)
    assert restored.last_trade_id == 8
    assert (restored.bid, restored.ask) == (("4.90", "1.00"), ("5.0", None))
    assert restored.book == RestoredBook([("1", "2")], [("3.0", "4")], A)


def test_nothing_known_is_no_history() -> None:
    assert history(term=0) == History(0, {}, [])
    assert NO_HISTORY.products == {}


def test_a_ticker_without_anything_restores_nothing() -> None:
    made = history(summary(Channel.TICKER, fields=b'{"last_trade":null,"best_bid":null,"best_ask":null}'))
    restored = made.products["BTC-USD"]
    assert (restored.last_trade, restored.bid, restored.ask) == (None, None, None)


@pytest.mark.parametrize("fields", [b'{"last_trade":7}', b"nonsense", b'{"best_bid":{"px":1}}'])
def test_fields_that_are_no_ticker_are_refused(fields: bytes) -> None:
    with pytest.raises(BadMeshFrame, match="BTC-USD"):
        history(summary(Channel.TICKER, fields=fields))


def test_streams_go_on_whose_input_is_known_and_near() -> None:
    made = history(
        summary(Channel.TRADES, at(900)),
        summary(Channel.BOOK, at(1000)),
        summary(Channel.TICKER, at(1000)),
        inputs=(at(1000), at(70, B)),
    )
    assert made.products["BTC-USD"].inputs == {
        Channel.TRADES: at(900), Channel.BOOK: at(1000), Channel.TICKER: at(1000),
    }  # fmt: skip
    assert sorted(made.begins) == [at(900), at(70, B)], "trades that waited are read again"


@pytest.mark.parametrize(
    ("book", "ticker", "going_on"),
    [
        (at(10), at(10), {Channel.BOOK, Channel.TICKER}),
        (at(9), at(10), {Channel.BOOK, Channel.TICKER}),
        (at(11), at(10), {Channel.BOOK}),
        (at(10), NO_INPUT, {Channel.BOOK}),
        (at(10), at(10, B), {Channel.BOOK}),
        (NO_INPUT, at(10), set()),
        (None, at(10), {Channel.TICKER}),
        (at(10, incarnation=9), at(10), set()),
    ],
)
def test_a_ticker_goes_on_only_with_its_book(
    book: InputPosition | None, ticker: InputPosition, going_on: set[Channel]
) -> None:
    streams = [] if book is None else [summary(Channel.BOOK, book)]
    made = history(summary(Channel.TICKER, ticker), *streams, inputs=(at(20),))
    assert set(made.products["BTC-USD"].inputs) == going_on
    assert (made.products["BTC-USD"].book is not None) == (Channel.BOOK in going_on)


def test_what_is_too_far_back_begins_anew_and_holds_nobody_up() -> None:
    made = history(
        summary(Channel.BOOK, at(5)),
        summary(Channel.TICKER, at(5)),
        summary(Channel.BOOK, at(6), product="ETH-USD"),
        inputs=(at(6 + MAX_REREAD),),
    )
    assert made.products["BTC-USD"].inputs == {}
    assert made.products["BTC-USD"].positions[Channel.BOOK] == Position(11, 22), "its epoch is known all the same"
    assert set(made.products["ETH-USD"].inputs) == {Channel.BOOK}
    assert made.begins == [at(6)]


def test_where_nobody_says_how_far_all_streams_are_the_furthest_does() -> None:
    made = history(
        summary(Channel.TRADES, at(3)), summary(Channel.BOOK, at(MAX_REREAD + 4)), summary(Channel.TICKER, at(500))
    )
    assert set(made.products["BTC-USD"].inputs) == {Channel.BOOK}, "a ticker is never ahead of its book"
    assert made.begins == [at(MAX_REREAD + 4)]


def test_of_several_tellers_the_newest_of_each_stream_counts() -> None:
    first = Told(5, [at(100), at(50, B)], [summary(Channel.BOOK, at(100), seq=7), summary(Channel.TRADES, seq=9)])
    second = Told(4, [at(90)], [summary(Channel.BOOK, at(95), seq=6), summary(Channel.TRADES, seq=10)])
    third = Told(4, [at(10)], [summary(Channel.BOOK, at(10), seq=5)])
    best = merged([third, second, first])
    assert best.term == 5
    assert {one.channel: one.seq for one in best.summaries} == {Channel.BOOK: 7, Channel.TRADES: 10}
    assert sorted(best.inputs) == [at(90), at(50, B)], "of those that count, the one that had read least"
    again = Told(4, [InputPosition(A, 11, 3)], [summary(Channel.TICKER, seq=1)])
    assert InputPosition(A, 11, 3) in merged([first, again]).inputs


def test_all_pages_are_asked_for() -> None:
    pages = {"": ("A-USD", "B-USD"), "B-USD": ("C-USD",), "C-USD": ("D-USD",)}

    def answer(payload: bytes, responder: Responder) -> None:
        request = msgspec.msgpack.decode(payload)
        names = pages[request["after"]]
        header = StatesReply(4 + len(pages), [at(100 + len(request["after"]))], more=names[-1] != "D-USD")
        responder.reply(
            encode_message(header), [encode_message(summary(Channel.TRADES, product=name)) for name in names]
        )

    async def scenario() -> None:
        with Transport() as transport:
            server = Server(transport, "tcp://127.0.0.1:0", answer)
            told = await ask(transport, server.endpoint, 0, 5)
            assert [one.product for one in told.summaries] == ["A-USD", "B-USD", "C-USD", "D-USD"]
            assert told.inputs == [at(100)], "what the first page said holds for all"

    run(scenario())


def test_who_does_not_answer_is_done_without() -> None:
    async def scenario() -> None:
        with Transport() as transport:

            def says(answer: object) -> str:
                return Server(
                    transport, "tcp://127.0.0.1:0", lambda _, responder: responder.reply(encode_message(answer))
                ).endpoint

            silent = Server(transport, "tcp://127.0.0.1:0", lambda *_: None).endpoint
            garbled = Server(transport, "tcp://127.0.0.1:0", lambda _, responder: responder.reply(b"garbage")).endpoint
            refusing = [says(Rejected("no")), says(Unavailable("not yet"))]
            told, failed = await ask_all(transport, [silent, garbled, *refusing], 0, 0.2)
            assert told is None
            assert [type(error) for error in failed] == [RequestTimeout, BadMeshFrame, RequestFailed, RequestFailed]
            told, failed = await ask_all(transport, [silent, says(StatesReply(9, []))], 0, 0.2)
            assert told == Told(9, [], [])
            assert len(failed) == 1

    run(scenario())
