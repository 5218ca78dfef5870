import pytest

from lfmesh.core import encode
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import BackfilledTrade, StreamSummary
from lfmesh.services.normalizer.restore import NO_HISTORY, history_of
from lfmesh.types import NO_INPUT, Channel, Position, Trade

TRADE = Trade("BTC-USD", 7, "0.00001000", "1.50", "sell", 0)


def summary(channel: Channel, term: int = 3, **fields: object) -> StreamSummary:
    return StreamSummary("BTC-USD", channel, term, 11, 22, NO_INPUT, **fields)  # type: ignore[arg-type]  # shorthand


def test_puts_a_products_streams_together_digit_for_digit() -> None:
    ticker = encode.ticker_fields(encode.trade_fields(TRADE), "null", encode.level(("5.0", None))).encode()
    history = history_of(
        [
            summary(Channel.TICKER, fields=ticker),
            summary(Channel.TRADES, term=9, trades=[BackfilledTrade(6, "0.00001100", "1.0", "buy", 77)]),
            summary(Channel.BOOK, bids=[("1", "2")]),
        ]
    )
    assert history.term == 9
    restored = history.products["BTC-USD"]
    assert restored.positions == dict.fromkeys(Channel, Position(11, 22))
    assert restored.last_trade == TRADE
    assert restored.trades == (Trade("BTC-USD", 6, "0.00001100", "1.0", "buy", 77),)


def test_nothing_known_is_no_history() -> None:
    assert history_of([]) == NO_HISTORY


def test_a_ticker_without_a_trade_restores_none() -> None:
    history = history_of([summary(Channel.TICKER, fields=b'{"last_trade":null,"best_bid":null,"best_ask":null}')])
    assert history.products["BTC-USD"].last_trade is None


def test_fields_that_are_no_ticker_are_refused() -> None:
    with pytest.raises(BadMeshFrame, match="BTC-USD"):
        history_of([summary(Channel.TICKER, fields=b'{"last_trade":7}')])
