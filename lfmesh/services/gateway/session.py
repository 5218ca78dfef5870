"""One client's requests, carried out (client protocol, client → gateway): text in, hub calls out. No await."""

from collections.abc import Iterable, Mapping
from typing import assert_never

from lfmesh.core.hub import Hub
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_joins import After, AfterSeq, Fresh, Next, Start
from lfmesh.core.hub_status import StatusBoard
from lfmesh.core.limits import TokenBucket
from lfmesh.models import (
    ErrorCode,
    PingRequest,
    Refusal,
    ReplayRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    parse_request,
    request_id,
)
from lfmesh.services.gateway import answers
from lfmesh.services.gateway.replay import NO_REPLAY, ReplayDesk
from lfmesh.services.gateway.statistics import ClientCounters
from lfmesh.types import CHANNELS, Channel, Position, StreamKey

STREAMS_PER_REQUEST = 50
"""A `subscribe` counts as one more request for each so many streams that it names."""
_CHANNELS: Mapping[str, Channel] = {str(channel): channel for channel in CHANNELS}


class Session:
    """The requests of one client. `products` are those that can be subscribed, in the order of the configuration.

    `replay` is None but where a replay is served.
    """

    def __init__(
        self,
        hub: Hub,
        board: StatusBoard,
        client: Client,
        products: Mapping[str, int],
        max_subscriptions: int,
        bucket: TokenBucket,
        counters: ClientCounters,
        replay: ReplayDesk | None = None,
    ) -> None:
        self._hub = hub
        self._board = board
        self._client = client
        self._products = products
        self._max_subscriptions = max_subscriptions
        self._bucket = bucket
        self._counters = counters
        self._replay = replay

    def handle(self, text: str | bytes, now: int) -> None:
        """Carry out one request, or say why not."""
        wait = self._bucket.take(now)
        if wait:
            self._counters.rate_limited_total += 1
            self._say(answers.rate_limit(-(-wait // 1_000_000), request_id(text)))
            return
        request = parse_request(text)
        if isinstance(request, Refusal):
            self._refuse(*request)
            return
        self._counters.requests_total[request.op] += 1
        match request:
            case SubscribeRequest():
                self._subscribe(request, now)
            case UnsubscribeRequest():
                self._unsubscribe(request)
            case PingRequest():
                self._say(answers.pong(request.t, request.id))
            case ReplayRequest():
                self._control(request)
            case _:
                assert_never(request)

    def _subscribe(self, request: SubscribeRequest, now: int) -> None:
        products, strangers = _sorted_out(request.products, self._products)
        names, unknown = _sorted_out(request.channels, _CHANNELS)
        channels = [_CHANNELS[name] for name in names]
        keys = [StreamKey(product, channel) for product in products for channel in channels]
        following = len(self._hub.subscriptions(self._client).union(keys))
        if following > self._max_subscriptions:
            told = f"that would be {following} streams; {self._max_subscriptions} are allowed for one client"
            self._refuse("TOO_MANY_SUBSCRIPTIONS", told, request.id)
            return
        self._refuse_unknown(strangers, unknown, request.id)
        if not keys:
            return
        self._bucket.charge(len(keys) // STREAMS_PER_REQUEST)
        self._say(answers.subscribed(request.id, products, channels))
        for key in keys:
            status = self._board.now_not_live(key)
            if status is not None:
                self._say(status)
            self._hub.subscribe(self._client, key, _start(request, key), now, request.conflate_ms)
        if self._replay is not None:
            self._replay.subscribed()

    def _control(self, request: ReplayRequest) -> None:
        if self._replay is None:
            self._refuse("INVALID_OPERATION", NO_REPLAY, request.id)
        elif why := self._replay.carry_out(self._client, request):
            self._refuse("BAD_REQUEST", why, request.id)

    def _unsubscribe(self, request: UnsubscribeRequest) -> None:
        products, strangers = _sorted_out(request.products or (), self._products)
        names, unknown = _sorted_out(request.channels or (), _CHANNELS)
        self._refuse_unknown(strangers, unknown, request.id)
        if (strangers and not products) or (unknown and not names):
            return  # nothing that was named is known: that is not the same as naming nothing
        left = [
            key
            for key in self._hub.subscriptions(self._client)
            if (not products or key.product in products) and (not names or key.channel in names)
        ]
        for key in left:
            self._hub.unsubscribe(self._client, key)
        gone_products = products or sorted({key.product for key in left})
        gone_channels = [_CHANNELS[name] for name in names] or [
            channel for channel in CHANNELS if any(key.channel is channel for key in left)
        ]
        self._say(answers.unsubscribed(request.id, gone_products, gone_channels))

    def _refuse_unknown(self, products: list[str], channels: list[str], request_id: answers.RequestId) -> None:
        if products:
            self._refuse("UNKNOWN_PRODUCT", f"not carried here: {answers.names(products)}; see /products", request_id)
        if channels:
            known = ", ".join(CHANNELS)
            self._refuse("UNKNOWN_CHANNEL", f"no such channel: {answers.names(channels)}; known: {known}", request_id)

    def _refuse(self, code: ErrorCode, msg: str, request_id: answers.RequestId) -> None:
        self._counters.errors_total[code] += 1
        self._say(answers.error(code, msg, request_id))

    def _say(self, message: bytes) -> None:
        self._hub.send(self._client, message)


def _sorted_out(named: Iterable[str], known: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """What is known of these and what is not, each once, in their order."""
    distinct = dict.fromkeys(named)
    return [name for name in distinct if name in known], [name for name in distinct if name not in known]


def _start(request: SubscribeRequest, key: StreamKey) -> Start:
    position = (request.from_seq or {}).get(key.product)
    if isinstance(position, int):
        return AfterSeq(position)
    at = position.get(key.channel) if position is not None else None
    if at is not None:
        return After(Position(at.epoch, at.seq))
    return Fresh() if request.want_snapshot else Next()
