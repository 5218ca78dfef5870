"""What a starting normalizer learns of its streams from its shard's snapshotter, so that terms and epochs only grow."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from lfmesh import messages
from lfmesh.core.product import Restored
from lfmesh.errors import BadMeshFrame, RequestFailed
from lfmesh.messages import Reply, StatesRequest, StreamSummary
from lfmesh.transport import Requester, Transport
from lfmesh.types import Channel, Position, Side, Trade


class History(NamedTuple):
    """The highest term known, and what is known by product."""

    term: int
    products: dict[str, Restored]


NO_HISTORY = History(0, {})


class _LastTrade(msgspec.Struct, frozen=True):
    """Digits stay the text that they are."""

    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _TickerFields(msgspec.Struct, frozen=True):
    last_trade: _LastTrade | None = None


_decode_ticker = msgspec.json.Decoder(_TickerFields).decode


async def ask(transport: Transport, endpoint: str, shard: int, timeout_s: float) -> History:
    """What the snapshotter at this endpoint knows.

    RequestTimeout if it does not answer, RequestFailed if it refuses, BadMeshFrame if its answer can't be read.
    """
    requester = Requester(transport, endpoint)
    try:
        reply = await requester.request(messages.encode(StatesRequest(shard)), timeout_s)
    finally:
        requester.close()
    header = messages.decode_reply(reply[0])
    if not isinstance(header, Reply):
        raise RequestFailed(f"the snapshotter at {endpoint} gives no states: {getattr(header, 'reason', header)}")
    return history_of(messages.decode_summary(frame) for frame in reply[1:])


def history_of(summaries: Iterable[StreamSummary]) -> History:
    """Summaries of streams put together by product; BadMeshFrame for fields that are no ticker."""
    term = 0
    by_product: dict[str, dict[Channel, StreamSummary]] = defaultdict(dict)
    for summary in summaries:
        term = max(term, summary.term)
        by_product[summary.product][summary.channel] = summary
    return History(term, {product: _restored(product, streams) for product, streams in by_product.items()})


def _restored(product: str, streams: dict[Channel, StreamSummary]) -> Restored:
    positions = {channel: Position(summary.epoch, summary.seq) for channel, summary in streams.items()}
    trades: tuple[Trade, ...] = ()
    last_trade = None
    if (summary := streams.get(Channel.TRADES)) is not None:
        trades = tuple(
            Trade(product, trade.trade_id, trade.px, trade.qty, trade.side, trade.ts_event) for trade in summary.trades
        )
    if (summary := streams.get(Channel.TICKER)) is not None and summary.fields:
        try:
            found = _decode_ticker(summary.fields).last_trade
        except msgspec.DecodeError as error:
            raise BadMeshFrame(f"restored ticker of {product}: {error}") from error
        if found is not None:
            px, qty = bytes(found.px).decode("ascii"), bytes(found.qty).decode("ascii")
            last_trade = Trade(product, found.trade_id, px, qty, found.side, 0)
    return Restored(positions, trades, last_trade)
