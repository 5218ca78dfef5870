"""What services say to each other beside market data: beacons, requests and replies, announcements, telemetry.

All are msgspec Structs, carried as MessagePack (`encode`, `decode_*`). Requests travel over DEALER → ROUTER with
a correlation id that the transport adds; a reply is one header message and any number of payload frames.
"""

from typing import Any, NamedTuple

import msgspec

from lfmesh.errors import BadMeshFrame
from lfmesh.types import Channel, InputPosition, Level, Line, Role, Side, StreamState

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""MessagePack bytes of any message of this module."""


class StreamPosition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a publisher stands in one stream."""

    product: str
    channel: Channel
    epoch: int
    seq: int


class Beacon(msgspec.Struct, frozen=True, gc=False):
    """A publisher's proof of life, every 100 ms, on the same socket as its market data and in order with it.

    `positions` are the streams that changed since the last beacon; all of them when `full` (each second). `inputs` says
    how far each ingestor's records have been dealt with: what came of them was published before this beacon. `sent` is
    how many market-data frames this publisher has sent before it, statuses included. Before a `full` beacon every
    status that is not live was published again. `leaving`: it is the last one, the publisher ends in order.
    """

    shard: int
    term: int
    instance: int
    input: InputPosition
    ts: int
    full: bool
    positions: list[StreamPosition]
    inputs: list[InputPosition] = []
    sent: int = 0
    leaving: bool = False


class LinkChange(msgspec.Struct, frozen=True):
    """A venue connection was lost or is subscribed again, for these products; JSON inside the raw stream."""

    connection: int
    products: list[str]
    reason: str


class BackfilledTrade(msgspec.Struct, frozen=True, array_like=True):
    """One trade as REST gave it; `side` is the taker's."""

    trade_id: int
    px: str
    qty: str
    side: Side
    ts_event: int


class BackfillPage(msgspec.Struct, frozen=True):
    """Trades fetched over REST, oldest first; `complete` when nothing more will come for the request.

    The venue was asked for from_trade_id … to_trade_id: an id in between that is not among `trades` it does not give,
    now. `newest_trade_id` is the newest that it has shown us, 0 where it has shown none. `problem` says why a request
    ends without all of it (empty: it does not).
    """

    product: str
    from_trade_id: int
    to_trade_id: int
    trades: list[BackfilledTrade]
    complete: bool
    newest_trade_id: int = 0
    problem: str = ""


# Requests -------------------------------------------------------------------------------------------------------


class RetransmitRequest(msgspec.Struct, frozen=True, tag="retransmit"):
    """To a normalizer, or (what is archived) a snapshotter: market-data frames of a stream after (epoch, seq).

    The reply's frames are market-data frames as they were published, in order; the first one may begin at or
    before the position asked for. `max_bytes` bounds the answer beside the publisher's own bound (0: only that).
    `or_oldest`: where some of it is no longer retained, everything from the oldest frame on that is after the position.
    """

    product: str
    channel: Channel
    epoch: int
    seq: int
    max_bytes: int = 0
    or_oldest: bool = False


class ReplayRequest(msgspec.Struct, frozen=True, tag="replay"):
    """To an ingestor: raw frames of a shard from `first_number` on (`last_number` 0: to the newest)."""

    shard: int
    incarnation: int
    first_number: int
    last_number: int


class ResyncRequest(msgspec.Struct, frozen=True, tag="resync"):
    """To an ingestor: get these products' books anew by resubscribing; the answer enters the raw stream."""

    products: list[str]


class RelinkRequest(msgspec.Struct, frozen=True, tag="relink"):
    """To an ingestor: nothing that it pushes arrives at this normalizer; push over a new connection."""

    instance: str


class BackfillRequest(msgspec.Struct, frozen=True, tag="backfill"):
    """To an ingestor: fetch these trades over REST; the answer enters the raw stream as `BackfillPage`."""

    product: str
    from_trade_id: int
    to_trade_id: int


class SnapshotRequest(msgspec.Struct, frozen=True, tag="snapshot"):
    """To a snapshotter or normalizer: the current state of one stream.

    The reply's frames are the parts of the `state` object, each a complete JSON object of its own. With `at` (ns, the
    venue's time) a snapshotter answers with the state as of that moment, from its archive.
    """

    product: str
    channel: Channel
    at: int = 0


class StatesRequest(msgspec.Struct, frozen=True, tag="states"):
    """To a snapshotter: what a starting normalizer needs of its streams: `StatesReply`, one `StreamSummary` a frame.

    Products come in the order of their names, all streams of one together; those after `after` (empty: from the start).
    """

    shard: int
    after: str = ""


class LookupRequest(msgspec.Struct, frozen=True, tag="lookup"):
    """To a registry: every service with a valid lease."""


class AnnounceRequest(msgspec.Struct, frozen=True, tag="announce"):
    """To a registry: this service lives, for one lease from now. `leaving` ends the lease at once."""

    record: "ServiceRecord"
    leaving: bool = False


Request = (
    RetransmitRequest
    | ReplayRequest
    | ResyncRequest
    | RelinkRequest
    | BackfillRequest
    | SnapshotRequest
    | StatesRequest
    | LookupRequest
    | AnnounceRequest
)

# Replies --------------------------------------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True, tag="ok"):
    """The request was carried out; payload frames, if any, follow. `more`: ask again from after the last one."""

    more: bool = False


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """What was asked for is not there (any more): go to the next rung.

    `later`: whether it is there is not known. Who was asked has no time, or its store can't be read now; ask again, or
    somebody else.
    """

    reason: str
    later: bool = False


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """The request makes no sense to this service."""

    reason: str


class SnapshotReply(msgspec.Struct, frozen=True, tag="snapshot"):
    """State of one stream at (epoch, seq); the parts of the state follow, one a frame."""

    product: str
    channel: Channel
    term: int
    epoch: int
    seq: int
    ts_snapshot: int
    input: InputPosition


class View(msgspec.Struct, frozen=True, tag="view"):
    """A registry replica's picture. `warming`: it started less than a lease ago and may not know everybody yet.

    `version` counts the changes of this incarnation's picture; `RegistryChange` goes on from it.
    """

    replica: str
    warming: bool
    lease_ttl_s: float
    services: list["ServiceRecord"]
    incarnation: int = 0
    version: int = 0


class StatesReply(msgspec.Struct, frozen=True, tag="states"):
    """What a snapshotter knows of a shard; one `StreamSummary` a frame follows.

    `inputs`: how far the records of each ingestor are in these states, for all streams but those that say otherwise.
    `more`: ask again from after the last product.
    """

    term: int
    inputs: list[InputPosition]
    more: bool = False


ReplyHeader = Reply | Unavailable | Rejected | SnapshotReply | StatesReply | View


class StreamSummary(msgspec.Struct, frozen=True):
    """What a snapshotter knows of one stream: where it stands and its state, for a normalizer that starts.

    `trades` (oldest first) and `last_trade_id` (0: unknown; can be ahead of them) for trades, `bids` and `asks` (best
    first) for book, `fields` (JSON) for ticker. `input` is how far an ingestor's records are in it, NO_INPUT where the
    state is not a function of one ingestor's records. `whole` is False where the publisher waits for something before
    it can go on (status not live): later records have been dealt with, and are not in it.
    """

    product: str
    channel: Channel
    term: int
    epoch: int
    seq: int
    input: InputPosition
    trades: list[BackfilledTrade] = []
    bids: list[Level] = []
    asks: list[Level] = []
    fields: bytes = b""
    last_trade_id: int = 0
    whole: bool = True


# Registry and telemetry -----------------------------------------------------------------------------------------


class ServiceRecord(msgspec.Struct, frozen=True):
    """One service as the registry knows it.

    `instance` is its stable name (`normalizer-0`), `incarnation` its start time in µs: the higher one is the newer
    process. `endpoints` are ZeroMQ addresses by socket name, see `lfmesh.config.ENDPOINT_NAMES`; `http` is its ops
    URL. `products` are those that an ingestor carries. `active`: whether a normalizer publishes or stands by, as it was
    a moment ago. That is for people; the publishers' terms decide.
    """

    role: Role
    instance: str
    incarnation: int
    endpoints: dict[str, str]
    version: str
    pid: int
    host: str
    shard: int | None = None
    line: Line | None = None
    http: str = ""
    products: list[str] = []
    active: bool | None = None


class ServiceName(NamedTuple):
    """What tells services apart; one process at a time may have it."""

    role: Role
    instance: str


class RegistryChange(msgspec.Struct, frozen=True):
    """What a registry replica publishes with each change of its picture, and each second without any (a beacon).

    `version` is that of the picture after it. Who knows the picture of `version - 1` applies it (a beacon: of
    `version`); anybody else asks for a `View`. `left` are those whose lease has ended.
    """

    replica: str
    incarnation: int
    version: int
    warming: bool
    lease_ttl_s: float
    joined: list[ServiceRecord] = []
    left: list[ServiceName] = []


class Telemetry(msgspec.Struct, frozen=True):
    """One service's figures, published each second; what `lfmesh top` and the supervisor show.

    `reasons` say why it is not ready (empty: ready). Totals count since the process started.
    """

    role: Role
    instance: str
    incarnation: int
    pid: int
    ts: int
    reasons: list[str]
    shard: int | None
    messages_in_total: int
    messages_out_total: int
    gaps_total: int
    queue_messages: int
    lag_ms: float | None
    clients: int | None
    cpu_s: float
    rss_bytes: int
    statistics: dict[str, Any] = {}
    slowest: list["SlowClient"] = []


class SlowClient(msgspec.Struct, frozen=True):
    """One of the clients of a gateway for which most waits; `lag_ms` is how long the oldest of it has waited.

    `client` is its address and port, `waiting_bytes` what waits in the outbox and the socket's buffer, `conflated` how
    often it was conflated since it came, `conflating` whether it is now.
    """

    client: str
    lag_ms: float
    waiting_bytes: int
    conflated: int
    conflating: bool
    subscriptions: int


class StatusChange(msgspec.Struct, frozen=True):
    """State of one stream for clients; `since` in ns."""

    product: str
    channel: Channel
    state: StreamState
    since: int
    reason: str


def _decoder[T](kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    return msgspec.msgpack.Decoder(kind)


_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[ReplyHeader] = msgspec.msgpack.Decoder(ReplyHeader)
_beacons = _decoder(Beacon)
_telemetry = _decoder(Telemetry)
_summaries = _decoder(StreamSummary)
_views = _decoder(View)
_changes = _decoder(RegistryChange)


def _decode[T](decoder: msgspec.msgpack.Decoder[T], payload: bytes, what: str) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise BadMeshFrame(f"not a {what}: {error}") from error


def decode_request(payload: bytes) -> Request:
    """A request, or BadMeshFrame."""
    return _decode(_requests, payload, "request")


def decode_reply(payload: bytes) -> ReplyHeader:
    """A reply's header, or BadMeshFrame."""
    return _decode(_replies, payload, "reply")


def decode_beacon(payload: bytes) -> Beacon:
    """A beacon's body (what follows the topic and NUL), or BadMeshFrame."""
    return _decode(_beacons, payload, "beacon")


def decode_telemetry(payload: bytes) -> Telemetry:
    """A telemetry message, or BadMeshFrame."""
    return _decode(_telemetry, payload, "telemetry message")


def decode_summary(payload: bytes) -> StreamSummary:
    """A stream summary, or BadMeshFrame."""
    return _decode(_summaries, payload, "stream summary")


def decode_registry_change(payload: bytes) -> RegistryChange:
    """A change of a registry's view, or BadMeshFrame."""
    return _decode(_changes, payload, "registry change")


def decode_view(payload: bytes) -> View:
    """A registry's view, or BadMeshFrame."""
    return _decode(_views, payload, "registry view")
