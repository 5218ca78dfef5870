"""Messages in the form that clients receive, each encoded once for the whole mesh.

Texts of exact decimals go into the JSON as they came from the venue. Field order is fixed, and
`fields` (of an increment) and `state` (of a snapshot) come last, so that a consumer can cut them out without parsing.
Product ids and reasons are validated at the edge to need no JSON escaping.
"""

from collections.abc import Iterable, Sequence

from lfmesh.types import Channel, Continuity, Level, Position, SnapshotReason, StreamState, Trade

PART_BYTES = 256 * 1024
"""A snapshot's state above this is split into parts."""

_FIELDS = b'"fields":'


def increment_prefix(kind: str, product: str, channel: Channel, epoch: int) -> str:
    """The part of an increment that stays the same for a whole epoch; `kind` is tick, trade or book."""
    return (
        f'{{"op":"incr","data":{{"v":1,"type":"{kind}","product":"{product}","channel":"{channel}",'
        f'"epoch":{epoch},"seq":'
    )


def increment(
    prefix: str,
    seq: int,
    times: tuple[int, int, int],
    continuity: Continuity,
    fields: str,
) -> bytes:
    """One increment; `times` are (ts_event, ts_ingest, ts_publish), `fields` the JSON object of its channel."""
    ts_event, ts_ingest, ts_publish = times
    return (
        f'{prefix}{seq},"ts_event":{ts_event},"ts_ingest":{ts_ingest},"ts_publish":{ts_publish},'
        f'"continuity":"{continuity}","fields":{fields}}}}}'
    ).encode("ascii")


def fields_of(message: bytes) -> bytes:
    """The JSON text of `fields` of an increment made by `increment`, without parsing it."""
    return message[message.index(_FIELDS) + len(_FIELDS) : -2]


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


def trades_state(trades: Iterable[str]) -> str:
    """State of the trades channel from `trade_fields` texts, oldest first."""
    return f'{{"trades":[{",".join(trades)}]}}'


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


def status(product: str, channel: Channel, state: StreamState, since: int, reason: str) -> bytes:
    """A `status` message."""
    return (
        f'{{"op":"status","product":"{product}","channel":"{channel}","state":"{state}","since":{since},'
        f'"reason":"{reason}"}}'
    ).encode("ascii")
