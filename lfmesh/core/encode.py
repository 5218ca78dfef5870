"""Messages in the form that clients receive, each encoded once for the whole mesh.

Texts of exact decimals go into the JSON as they came from the venue. Field order is fixed, and
`fields` (of an increment) and `state` (of a snapshot) come last, so that a consumer can cut them out without parsing.
Product ids and reasons are validated at the edge to need no JSON escaping.

Why templates and no encoder: everything that enters a message is either an integer or text that is known to be
valid JSON already, and most of an increment is the same for a whole epoch. Measured for a book increment of one level
(CPython 3.13, best of nine): a template whose recurring parts are made once 0.23 µs, a template alone 0.41 µs,
`msgspec.json.Encoder` over Structs with `Raw` digits 0.64 µs, with the fields as one `Raw` 0.48 µs.
"""

from collections.abc import Iterable, Sequence

from lfmesh.types import Channel, Continuity, Level, Position, Side, SnapshotReason, StreamState, Trade

PART_BYTES = 256 * 1024
"""A snapshot's state above this is split into parts."""

_FIELDS = b'"fields":'
_STATE = b'"state":'
_DATA = b'"data":'
_BIDS = b'{"bids":['
_ASKS = b'"asks":['


def increment_prefix(kind: str, product: str, channel: Channel, epoch: int) -> str:
    """The part of an increment that stays the same for a whole epoch; `kind` is tick, trade or book."""
    return (
        f'{{"op":"incr","data":{{"v":1,"type":"{kind}","product":"{product}","channel":"{channel}",'
        f'"epoch":{epoch},"seq":'
    )


def stamps(ts_ingest: int, ts_publish: int) -> str:
    """The part of an increment that is the same for everything that comes of one venue frame."""
    return f'"ts_ingest":{ts_ingest},"ts_publish":{ts_publish}'


def stamped_increment(prefix: str, seq: int, ts_event: int, stamped: str, continuity: Continuity, fields: str) -> bytes:
    """One increment from its `increment_prefix`, its `stamps` and the JSON object of its channel's `fields`."""
    return (f'{prefix}{seq},"ts_event":{ts_event},{stamped},"continuity":"{continuity}","fields":{fields}}}}}').encode()


def increment(
    prefix: str,
    seq: int,
    times: tuple[int, int, int],
    continuity: Continuity,
    fields: str,
) -> bytes:
    """One increment; `times` are (ts_event, ts_ingest, ts_publish), `fields` the JSON object of its channel."""
    ts_event, ts_ingest, ts_publish = times
    return stamped_increment(prefix, seq, ts_event, stamps(ts_ingest, ts_publish), continuity, fields)


def fields_of(message: bytes) -> bytes:
    """The JSON text of `fields` of an increment made by `increment`, without parsing it."""
    return message[message.index(_FIELDS) + len(_FIELDS) : -2]


def state_of(message: bytes) -> bytes:
    """The JSON text of `state` of a message made by `snapshot`, without parsing it."""
    return message[message.index(_STATE) + len(_STATE) : -2]


def level(value: tuple[str, str | None] | None) -> str:
    """A best bid or ask of the ticker: `{"px":…,"qty":…}` or null; an unknown size is null."""
    if value is None:
        return "null"
    px, qty = value
    return f'{{"px":{px},"qty":{"null" if qty is None else qty}}}'


def trade_fields(trade: Trade) -> str:
    """`px, qty, side, trade_id` of a trade."""
    return f'{{"px":{trade.px},"qty":{trade.qty},"side":"{trade.side}","trade_id":{trade.trade_id}}}'


def ticker_fields(last_trade: str, best_bid: str, best_ask: str) -> str:
    """Fields of a tick, each part JSON already (`trade_fields`, `level` or null)."""
    return f'{{"last_trade":{last_trade},"best_bid":{best_bid},"best_ask":{best_ask}}}'


def levels(side: Iterable[Level]) -> str:
    """`[[px,qty],…]`."""
    return "[" + ",".join([f"[{px},{qty}]" for px, qty in side]) + "]"


def book_fields(bids: Iterable[Level], asks: Iterable[Level]) -> str:
    """`bids` and `asks` of a book increment or state."""
    return f'{{"bids":{levels(bids)},"asks":{levels(asks)}}}'


def trades_state(trades: Iterable[str], last_trade_id: int | None = None) -> str:
    """State of the trades channel from `trade_fields` texts, oldest first.

    `last_trade_id` is the id up to which nothing more will come, which can be ahead of the list; None: not known.
    """
    known = "" if last_trade_id is None else f',"last_trade_id":{last_trade_id}'
    return f'{{"trades":[{",".join(trades)}]{known}}}'


def book_changes(changes: Sequence[tuple[Side, str, str]]) -> str:
    """Fields of a book increment from the venue's changes (side, px, qty), in their order on each side."""
    if len(changes) == 1:
        side, px, qty = changes[0]
        return f'{{"bids":[[{px},{qty}]],"asks":[]}}' if side == "buy" else f'{{"bids":[],"asks":[[{px},{qty}]]}}'
    bids = ",".join([f"[{px},{qty}]" for side, px, qty in changes if side == "buy"])
    asks = ",".join([f"[{px},{qty}]" for side, px, qty in changes if side != "buy"])
    return f'{{"bids":[{bids}],"asks":[{asks}]}}'


def book_state_parts(bids: Sequence[Level], asks: Sequence[Level], part_bytes: int = PART_BYTES) -> list[str]:
    """State of a book, best first, as one JSON object a part; concatenating the lists of all parts gives the book."""
    per_level = 40
    size = max(1, part_bytes // per_level)
    if len(bids) + len(asks) <= size:
        return [book_fields(bids, asks)]
    half = max(1, size // 2)
    return [
        book_fields(bids[start : start + half], asks[start : start + half])
        for start in range(0, max(len(bids), len(asks)), half)
    ]


def snapshot(
    product: str,
    channel: Channel,
    position: Position,
    ts_snapshot: int,
    reason: SnapshotReason,
    states: Sequence[bytes | str],
    missing: tuple[int, int] | None = None,
) -> list[bytes]:
    """The messages of one snapshot, one a part, from the JSON texts of its state's parts.

    `missing` declares the first and last trade id that can't be had any more (channel trades only).
    """
    messages = []
    declared = ""
    if missing is not None:
        declared = f'"missing":{{"from_trade_id":{missing[0]},"to_trade_id":{missing[1]}}},'
    total = len(states)
    for number, state in enumerate(states, 1):
        part = f'"part":{number},"parts":{total},' if total > 1 else ""
        head = (
            f'{{"op":"snapshot","data":{{"v":1,"type":"snapshot","product":"{product}","channel":"{channel}",'
            f'"epoch":{position.epoch},"seq":{position.seq},"ts_snapshot":{ts_snapshot},"reason":"{reason}",'
            f'{declared}{part}"state":'
        )
        body = state.encode("ascii") if isinstance(state, str) else state
        messages.append(head.encode("ascii") + body + b"}}")
    return messages


def snapshot_data(
    product: str, channel: Channel, position: Position, ts_snapshot: int, reason: SnapshotReason, state: bytes
) -> bytes:
    """The JSON of a snapshot's `data`, in one piece."""
    (message,) = snapshot(product, channel, position, ts_snapshot, reason, [state])
    return message[message.index(_DATA) + len(_DATA) : -1]


def whole_state(parts: Sequence[bytes]) -> bytes:
    """The parts of a state as one JSON object: only books have more than one, made by `book_fields`."""
    if len(parts) == 1:
        return parts[0]
    bids, asks = [], []
    for part in parts:
        cut = part.index(_ASKS)
        bids.append(part[len(_BIDS) : cut - 2])
        asks.append(part[cut + len(_ASKS) : -2])
    return b'{"bids":[%b],"asks":[%b]}' % (b",".join(filter(None, bids)), b",".join(filter(None, asks)))


def status(product: str, channel: Channel, state: StreamState, since: int, reason: str) -> bytes:
    """A `status` message."""
    return (
        f'{{"op":"status","product":"{product}","channel":"{channel}","state":"{state}","since":{since},'
        f'"reason":"{reason}"}}'
    ).encode("ascii")
