"""What a normalizer that starts, or takes over, learns of its streams, and from where it goes on.

    snapshotters' answers ──► merged (the best of each stream) ──► History
    a standby's replica ─────────────────────────────────────────►

Terms and epochs only grow. A stream may go on in its epoch where its state is a function of one ingestor's records up
to a known one (`StreamSummary.input`), and those after it can be read again: it must not be too far behind the others
(`MAX_REREAD`). Streams that wait for something (trades for a missing one, a book for its snapshot) are the reason why
an ingestor is read again from before the last record dealt with. A ticker goes on only with its book.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from lfmesh import messages
from lfmesh.core.product import Restored, RestoredBook
from lfmesh.core.replica import Replica
from lfmesh.errors import BadMeshFrame, LfmeshError, RequestFailed, RequestTimeout
from lfmesh.messages import StatesReply, StatesRequest, StreamSummary
from lfmesh.transport import Requester, Transport
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, Side, StreamKey, Trade

MAX_REREAD = 60_000
"""A stream goes on in its epoch if so many of an ingestor's records at most must be read again for it."""


class History(NamedTuple):
    """The highest term known, what is known by product, and the last record dealt with of each ingestor."""

    term: int
    products: Mapping[str, Restored]
    begins: Sequence[InputPosition] = ()


NO_HISTORY = History(0, {})


class Told(NamedTuple):
    """What one snapshotter, or several, have told: see `StatesReply` and `StreamSummary`."""

    term: int
    inputs: Sequence[InputPosition]
    summaries: Sequence[StreamSummary]


# Asking ---------------------------------------------------------------------------------------------------------------


async def ask(transport: Transport, endpoint: str, shard: int, timeout_s: float) -> Told:
    """All that the snapshotter at this endpoint knows; it may take `timeout_s` for each page of it.

    RequestTimeout if it does not answer, RequestFailed if it refuses, BadMeshFrame if its answer can't be read.
    """
    requester = Requester(transport, endpoint)
    term, inputs = 0, None
    found: list[StreamSummary] = []
    more = True
    try:
        while more:
            request = StatesRequest(shard, found[-1].product if found else "")
            reply = await requester.request(messages.encode(request), timeout_s)
            header = messages.decode_reply(reply[0])
            if not isinstance(header, StatesReply):
                raise RequestFailed(
                    f"the snapshotter at {endpoint} gives no states: {getattr(header, 'reason', header)}"
                )
            page = [messages.decode_summary(frame) for frame in reply[1:]]
            found += page
            term = max(term, header.term)
            # Later pages are further; what holds for all of them is what the first one says.
            inputs = header.inputs if inputs is None else inputs
            more = header.more and bool(page)
    finally:
        requester.close()
    return Told(term, inputs or (), found)


async def ask_all(
    transport: Transport, endpoints: Iterable[str], shard: int, timeout_s: float
) -> tuple[Told | None, list[LfmeshError]]:
    """The best of what these snapshotters know, None if none of them told anything, and why some did not."""
    asked = (ask(transport, endpoint, shard, timeout_s) for endpoint in endpoints)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    told: list[Told] = []
    failed: list[LfmeshError] = []
    for answer in answers:
        if isinstance(answer, Told):
            told.append(answer)
        elif isinstance(answer, RequestTimeout | RequestFailed | BadMeshFrame):
            failed.append(answer)
        else:
            raise answer
    return (merged(told) if told else None), failed


def merged(told: Sequence[Told]) -> Told:
    """The newest of each stream; who knows most is preferred where several know the same."""
    best: dict[StreamKey, tuple[StreamSummary, int]] = {}
    ordered = sorted(told, key=lambda one: (one.term, sum(source.number for source in one.inputs)), reverse=True)
    for number, one in enumerate(ordered):
        for summary in one.summaries:
            key = StreamKey(summary.product, summary.channel)
            known = best.get(key)
            if known is None or _rank(summary) > _rank(known[0]):
                best[key] = summary, number
    # A stream holds what its own teller had read: of tellers that count, the one that had read least decides.
    inputs: dict[int, InputPosition] = {}
    for number in sorted({number for _, number in best.values()}):
        for source in ordered[number].inputs:
            known_input = inputs.get(source.ingestor)
            if known_input is None or source.incarnation > known_input.incarnation:
                inputs[source.ingestor] = source
            elif source.incarnation == known_input.incarnation:
                inputs[source.ingestor] = min(source, known_input)
    term = max((one.term for one in told), default=0)
    return Told(term, list(inputs.values()), [summary for summary, _ in best.values()])


def _rank(summary: StreamSummary) -> tuple[int, int, int, int]:
    return summary.term, summary.epoch, summary.seq, summary.input.number


# From where to go on --------------------------------------------------------------------------------------------------


class _Streams(NamedTuple):
    """How far the records are in each stream, and where to begin."""

    inputs: dict[StreamKey, InputPosition]
    begins: list[InputPosition]


def _continued(inputs: Iterable[InputPosition], streams: Mapping[StreamKey, InputPosition]) -> _Streams:
    """Which of the streams may go on in their epochs, and after which record each ingestor is then to be read.

    An ingestor's records were dealt with up to `inputs`; where that does not say, up to the furthest of its streams.
    """
    reached = {source.ingestor: source for source in inputs}
    told = set(reached)
    for source in streams.values():
        known = reached.get(source.ingestor, NO_INPUT)
        if source.ingestor not in told and source > known:
            reached[source.ingestor] = source
    begins = dict(reached)
    going_on: dict[StreamKey, InputPosition] = {}
    for key, source in streams.items():
        if source == NO_INPUT:
            continue
        end = reached[source.ingestor]
        if source.incarnation != end.incarnation or end.number - source.number > MAX_REREAD:
            continue
        if key.channel is Channel.TICKER and not _goes_with_its_book(key.product, source, streams, going_on):
            continue
        going_on[key] = source
        begins[source.ingestor] = min(begins[source.ingestor], source)
    return _Streams(going_on, [begin for begin in begins.values() if begin != NO_INPUT])


def _goes_with_its_book(
    product: str,
    source: InputPosition,
    streams: Mapping[StreamKey, InputPosition],
    going_on: Mapping[StreamKey, InputPosition],
) -> bool:
    key = StreamKey(product, Channel.BOOK)
    if key not in streams:
        return True
    book = going_on.get(key)
    return book is not None and book[:2] == source[:2] and book.number <= source.number


_ORDER = (Channel.TRADES, Channel.BOOK, Channel.TICKER)
"""Books before tickers: see `_goes_with_its_book`."""


def _in_order(inputs: Mapping[StreamKey, InputPosition]) -> dict[StreamKey, InputPosition]:
    return {key: inputs[key] for channel in _ORDER for key in inputs if key.channel is channel}


# Histories ------------------------------------------------------------------------------------------------------------


def history_of(told: Told) -> History:
    """What snapshotters told, put together by product; BadMeshFrame for fields that are no ticker."""
    by_product: dict[str, dict[Channel, StreamSummary]] = defaultdict(dict)
    streams: dict[StreamKey, InputPosition] = {}
    term = told.term
    for summary in told.summaries:
        term = max(term, summary.term)
        by_product[summary.product][summary.channel] = summary
        streams[StreamKey(summary.product, summary.channel)] = summary.input
    going_on = _continued(told.inputs, _in_order(streams))
    products = {product: _restored(product, found, going_on.inputs) for product, found in by_product.items()}
    return History(term, products, going_on.begins)


def history_of_replica(replica: Replica, term: int) -> History:
    """What a standby has followed. Products are put together when they are looked up: deep books are work."""
    inputs = _in_order({state.key: replica.input_of(state)[0] for state in replica.state})
    going_on = _continued(replica.inputs, inputs)
    return History(max(term, replica.feed.term), _Followed(replica, going_on.inputs), going_on.begins)


class _Followed(Mapping[str, Restored]):
    """Products of a replica that is followed no more."""

    def __init__(self, replica: Replica, inputs: Mapping[StreamKey, InputPosition]) -> None:
        self._replica = replica
        self._inputs = inputs
        self._products = {state.key.product for state in replica.state}

    def __getitem__(self, product: str) -> Restored:
        if product not in self._products:
            raise KeyError(product)
        streams = {summary.channel: summary for summary in self._replica.summaries_of(product)}
        try:
            return _restored(product, streams, self._inputs)
        except BadMeshFrame:  # a ticker that nobody can read goes on for nobody
            streams[Channel.TICKER] = msgspec.structs.replace(streams[Channel.TICKER], fields=b"")
            inputs = {key: source for key, source in self._inputs.items() if key != (product, Channel.TICKER)}
            return _restored(product, streams, inputs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)


# One product ----------------------------------------------------------------------------------------------------------


class _LastTrade(msgspec.Struct, frozen=True):
    """Digits stay the text that they are."""

    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _Best(msgspec.Struct, frozen=True):
    """`qty` is the text `null` where it is unknown."""

    px: msgspec.Raw
    qty: msgspec.Raw


class _TickerFields(msgspec.Struct, frozen=True):
    last_trade: _LastTrade | None = None
    best_bid: _Best | None = None
    best_ask: _Best | None = None


_decode_ticker = msgspec.json.Decoder(_TickerFields).decode


def _restored(
    product: str, streams: Mapping[Channel, StreamSummary], inputs: Mapping[StreamKey, InputPosition]
) -> Restored:
    trades = streams.get(Channel.TRADES)
    book = streams.get(Channel.BOOK)
    fields = _ticker(product, streams.get(Channel.TICKER))
    going_on = {channel: inputs[key] for channel in streams if (key := StreamKey(product, channel)) in inputs}
    return Restored(
        positions={channel: Position(summary.epoch, summary.seq) for channel, summary in streams.items()},
        inputs=going_on,
        trades=() if trades is None else tuple(
            Trade(product, trade.trade_id, trade.px, trade.qty, trade.side, trade.ts_event) for trade in trades.trades
        ),
        last_trade=_trade(product, fields.last_trade),
        last_trade_id=None if trades is None else trades.last_trade_id or None,
        bid=_best(fields.best_bid),
        ask=_best(fields.best_ask),
        book=RestoredBook(book.bids, book.asks, going_on[Channel.BOOK].ingestor)
        if book is not None and Channel.BOOK in going_on
        else None,
    )  # fmt: skip


def _ticker(product: str, summary: StreamSummary | None) -> _TickerFields:
    if summary is None or not summary.fields:
        return _TickerFields()
    try:
        return _decode_ticker(summary.fields)
    except msgspec.DecodeError as error:
        raise BadMeshFrame(f"restored ticker of {product}: {error}") from error


def _trade(product: str, trade: _LastTrade | None) -> Trade | None:
    if trade is None:
        return None
    return Trade(product, trade.trade_id, _text(trade.px), _text(trade.qty), trade.side, 0)


def _best(level: _Best | None) -> tuple[str, str | None] | None:
    if level is None:
        return None
    qty = _text(level.qty)
    return _text(level.px), None if qty == "null" else qty


def _text(digits: msgspec.Raw) -> str:
    return bytes(digits).decode("ascii")
