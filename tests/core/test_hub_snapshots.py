import pytest

from lfmesh.core import encode
from lfmesh.core.hub_frames import payload
from lfmesh.core.hub_snapshots import (
    Cached,
    Holding,
    Missing,
    State,
    TradeIds,
    last_trade_id,
    missing_after,
    state_of,
    trade_ids,
)
from lfmesh.models import SnapshotMessage, TradesSnapshot, parse_message
from lfmesh.types import Channel, Position, StreamKey, Trade

TRADES = StreamKey("BTC-USD", Channel.TRADES)
TICKER = StreamKey("BTC-USD", Channel.TICKER)


def listing(*ids: int, last: int | None = None) -> bytes:
    texts = [encode.trade_fields(Trade("BTC-USD", number, "1.10", "0.50", "buy", 1)) for number in ids]
    return encode.trades_state(texts, last).encode()


def test_ids_are_read_from_states_and_messages() -> None:
    assert trade_ids([listing(7, 8, 901)]) == [7, 8, 901]
    assert trade_ids([listing(7), listing(8)]) == [7, 8]
    assert last_trade_id(listing(7, 8, 901)) == 901
    assert last_trade_id(listing(7, 8, last=901)) == 901
    assert last_trade_id(listing()) is None
    assert last_trade_id(b"") is None
    declared = encode.snapshot(*TRADES, Position(1, 0), 1, "gap", [listing(9)], (3, 8))[0]
    assert (trade_ids([declared]), last_trade_id(declared)) == ([9], 9)


@pytest.mark.parametrize(
    ("holding", "expected"),
    [
        (Holding(Position(5, 9)), None),  # it is where the state is
        (Holding(Position(5, 6)), None),  # the three after it are listed
        (Holding(Position(5, 5)), (96, 96)),
        (Holding(Position(5, 2)), (93, 96)),
        (Holding(Position(5, 20)), None),  # ahead of the state
        (Holding(Position(4, 2), 95), (96, 96)),
        (Holding(Position(4, 2), 96), None),
        (Holding(Position(4, 2), 120), None),
        (Holding(Position(4, 2)), (3, 96)),  # of another epoch one thing is known: each seq was a trade
        (Holding(Position(4, 96)), None),
    ],
)
def test_what_lies_between_a_client_s_position_and_a_list_is_missing(
    holding: Holding, expected: Missing | None
) -> None:
    state = State(Position(5, 9), 1, 1, (listing(97, 98, 99),))
    assert missing_after(holding, state, [97, 98, 99]) == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (96, (99, 104)),
        (98, (99, 104)),
        (99, (100, 104)),
        (104, (106, 106)),
        (95, (96, 104)),
        (105, (106, 106)),
        (106, None),
    ],
)
def test_holes_within_a_list_are_missing_too(held: int, expected: Missing | None) -> None:
    """Trades that the venue could not give were declared when that was found, to those who were there."""
    held_at = Holding(Position(4, 2), held)
    if expected is not None and held < 105:
        expected = (expected[0], 106)
    state = State(Position(5, 9), 1, 1, (listing(97, 98, 105, last=106),))
    assert missing_after(held_at, state, [97, 98, 105]) == expected


def test_a_list_without_trades_still_tells_how_far_they_go() -> None:
    assert missing_after(Holding(Position(4, 2), 95), State(Position(5, 0), 1, 1, (listing(),)), []) is None
    state = State(Position(5, 0), 1, 1, (listing(last=99),))
    assert missing_after(Holding(Position(4, 2), 95), state, []) == (96, 99)
    assert missing_after(Holding(Position(4, 2), 99), state, []) is None


def test_ids_of_positions_follow_from_one_known_pair_an_epoch() -> None:
    ids = TradeIds()
    assert ids.at(Position(5, 3), Position(5, 9)) is None
    ids.newest = listing(107, 108, 109)
    assert ids.at(Position(5, 3), Position(5, 9)) == 103
    assert ids.at(Position(4, 3), Position(5, 9)) is None
    ids.end_epoch(Position(5, 9))
    ids.newest = listing(200)
    assert ids.at(Position(5, 3), Position(6, 0)) == 103
    assert ids.at(Position(6, 0), Position(6, 0)) == 200
    ids.newest = b""
    assert ids.at(Position(6, 0), Position(6, 0)) is None
    ids.end_epoch(Position(6, 0))
    assert ids.at(Position(6, 0), Position(7, 0)) is None
    for epoch in range(100, 170):
        ids.newest = listing(epoch)
        ids.end_epoch(Position(epoch, 0))
    assert ids.at(Position(5, 3), None) is None, "bounded: the oldest is forgotten"
    assert ids.at(Position(169, 0), None) == 169


def test_frames_are_made_once_for_a_reason_and_say_what_each_client_misses() -> None:
    cached = Cached(TRADES, State(Position(5, 9), 1, 77, (listing(97, 98, 99),)))
    assert cached.frames("subscribe") is cached.frames("subscribe")
    assert cached.frames("gap", Holding(Position(5, 8))) is cached.frames("gap", Holding(Position(5, 9)))
    (frame,) = cached.frames("resume_failed", Holding(Position(5, 2)))
    message = parse_message(payload(frame))
    assert isinstance(message, SnapshotMessage)
    assert isinstance(message.data, TradesSnapshot)
    assert (message.data.reason, message.data.ts_snapshot) == ("resume_failed", 77)
    assert message.data.missing is not None
    assert (message.data.missing.from_trade_id, message.data.missing.to_trade_id) == (93, 96)
    assert cached.held == Holding(Position(5, 9), 99)


def test_only_trades_can_be_missing() -> None:
    fields = encode.ticker_fields('{"px":1.10,"qty":0.50,"side":"buy","trade_id":99}', "null", "null").encode()
    cached = Cached(TICKER, State(Position(5, 9), 1, 77, (fields,)))
    assert b"missing" not in cached.frames("resume_failed", Holding(Position(4, 2)))[0]


def test_the_tail_grows_with_what_is_published() -> None:
    cached = Cached(TICKER, State(Position(5, 9), 1, 77, (b"{}",)), [b"one"])
    assert (cached.tail(), cached.tail_bytes) == (b"one", 3)
    cached.extend([b"two", b"three"])
    assert (cached.tail(), cached.tail_bytes) == (b"onetwothree", 11)


def test_the_state_of_a_published_snapshot_is_cut_out_as_it_is() -> None:
    parts = ['{"bids":[[1.50,2]],"asks":[]}', '{"bids":[],"asks":[[3,4.00]]}']
    messages = encode.snapshot("BTC-USD", Channel.BOOK, Position(5, 0), 123, "resync", parts)
    assert state_of(Position(5, 0), 8, messages) == State(
        Position(5, 0), 8, 123, tuple(part.encode() for part in parts)
    )
