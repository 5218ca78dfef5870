"""Requests to a gateway: what they say, and which of them are under way. Pure.

None is larger than the gateway takes, nor are they sent faster than it allows; one that is turned away all the same
(`rate_limit`) is sent again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from lfmesh.core.limits import TokenBucket
from lfmesh.types import Channel, Position, StreamKey

_MAX_REQUEST_BYTES = 60_000
_REQUESTS_PER_S = 80.0
_BURST = 100
_MAX_RETRY_MS = 60_000
_MIN_RETRY_MS = 10
_ANSWER_NS = 10_000_000_000


@dataclass(slots=True)
class Request:
    """One request under way. `call`: who is to be told of the answer. `fences`: a ping behind that other request."""

    op: Literal["subscribe", "unsubscribe", "ping", "fence", "replay"]
    text: str
    keys: Sequence[StreamKey] = ()
    call: int | None = None
    fences: int | None = None
    unknown: list[str] = field(default_factory=list)
    sent_at: int | None = None
    retry_at: int | None = None


class Requests:
    """Those under way, by number. `random` returns a number in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._under_way: dict[int, Request] = {}
        self._newest: dict[StreamKey, int] = {}
        self._unsent: list[int] = []
        self._bucket = TokenBucket(_REQUESTS_PER_S, _BURST, 0)
        self._number = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def next_number(self) -> int:
        """A number that no request has had."""
        self._number += 1
        return self._number

    def post(self, request: Request, number: int | None = None) -> int:
        """Send it when that may be; its number."""
        number = self.next_number() if number is None else number
        self._under_way[number] = request
        self._unsent.append(number)
        return number

    def subscribe(self, asked: Sequence["Asked"]) -> None:
        """Ask for streams."""
        for number, text, streams in subscribe_requests(asked, self._number + 1):
            self._number = number
            keys = [StreamKey(one.product, one.channel) for one in streams]
            self._newest.update(dict.fromkeys(keys, number))
            self.post(Request("subscribe", text, keys), number)

    def newest(self, key: StreamKey) -> int | None:
        """The number of the newest request for a stream on this connection."""
        return self._newest.get(key)

    def get(self, number: object) -> Request | None:
        """The request of this number, if it is under way."""
        return self._under_way.get(number) if isinstance(number, int) else None

    def drop(self, number: object) -> None:
        """It has been answered, or nobody waits for it."""
        if isinstance(number, int) and self._under_way.pop(number, None) is not None and number in self._unsent:
            self._unsent.remove(number)

    @property
    def unsent(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._unsent)

    def take(self, now: int) -> list[str]:
        """What may be sent now."""
        texts: list[str] = []
        while self._unsent and not self._bucket.take(now):
            request = self._under_way[self._unsent.pop(0)]
            request.sent_at = now
            texts.append(request.text)
        return texts

    def connected(self, now: int) -> None:
        """A new connection: nothing is under way on it, but pings that were not answered are sent again."""
        self._bucket = TokenBucket(_REQUESTS_PER_S, _BURST, now)
        self._newest = {}
        self._under_way = {number: one for number, one in self._under_way.items() if one.op == "ping"}
        for request in self._under_way.values():
            request.sent_at = request.retry_at = None
        self._unsent = list(self._under_way)

    def disconnected(self) -> list[Request]:
        """The connection is over; those that will not be answered."""
        over = [one for one in self._under_way.values() if one.op != "ping"]
        self._under_way = {number: one for number, one in self._under_way.items() if one.op == "ping"}
        self._unsent = []
        return over

    def turned_away(self, number: object, retry_ms: int, now: int) -> None:
        """The gateway's limit: send again later. Where it does not say which request it was, the oldest one."""
        request = self.get(number) if number is not None else next(self._waiting(), None)
        if request is not None:
            pause = min(max(retry_ms, _MIN_RETRY_MS), _MAX_RETRY_MS)
            request.sent_at = None
            request.retry_at = now + round(pause * 1_000_000 * (1 + 0.5 * self._random()))

    def tick(self, now: int) -> Request | None:
        """Send again what is due; a request that has waited too long for its answer."""
        for number, request in self._under_way.items():
            if request.retry_at is not None and now >= request.retry_at:
                request.retry_at = None
                self._unsent.append(number)
        return next((one for one in self._waiting() if now - (one.sent_at or now) > _ANSWER_NS), None)

    def _waiting(self) -> Iterator[Request]:
        return (one for one in self._under_way.values() if one.sent_at is not None)


# What they say --------------------------------------------------------------------------------------------------


class Asked(msgspec.Struct, frozen=True):
    """One stream of a subscribe request: how it is to begin."""

    product: str
    channel: Channel
    after: Position | None = None
    want_snapshot: bool = True
    conflate_ms: int = 0


def subscribe_requests(
    asked: Sequence[Asked], first_id: int, max_bytes: int = _MAX_REQUEST_BYTES
) -> list[tuple[int, str, list[Asked]]]:
    """(id, text, streams) of as few requests as hold them all, none over `max_bytes` (but for one with one product).

    A request is a product of products and channels, so that products which want the same channels go together.
    """
    of_product: dict[str, list[Asked]] = {}
    for one in asked:
        of_product.setdefault(one.product, []).append(one)
    groups: dict[tuple[tuple[Channel, ...], bool, int], list[tuple[str, list[Asked]]]] = {}
    for product, streams in of_product.items():
        for options in dict.fromkeys((one.want_snapshot, one.conflate_ms) for one in streams):
            same = [one for one in streams if (one.want_snapshot, one.conflate_ms) == options]
            key = (tuple(sorted(one.channel for one in same)), *options)
            groups.setdefault(key, []).append((product, same))
    found: list[tuple[int, str, list[Asked]]] = []
    for (channels, want_snapshot, conflate_ms), members in groups.items():
        request = {"op": "subscribe", "id": 0, "products": [], "channels": channels}
        if not want_snapshot:
            request["want_snapshot"] = False
        if conflate_ms:
            request["conflate_ms"] = conflate_ms
        room = max_bytes - 200
        for chunk in _chunks(members, room):
            number = first_id + len(found)
            found.append((number, _subscribe(request, number, chunk), [one for _, some in chunk for one in some]))
    return found


def _chunks(members: list[tuple[str, list[Asked]]], room: int) -> list[list[tuple[str, list[Asked]]]]:
    chunks: list[list[tuple[str, list[Asked]]]] = []
    size = room + 1
    for product, streams in members:
        # The name twice, and an epoch and a seq of up to 16 digits each a stream.
        cost = 2 * len(msgspec.json.encode(product)) + 8 + sum(70 for one in streams if one.after is not None)
        if size + cost > room:
            chunks.append([])
            size = 0
        chunks[-1].append((product, streams))
        size += cost
    return chunks


def _subscribe(request: dict[str, Any], number: int, members: list[tuple[str, list[Asked]]]) -> str:
    after = {
        product: {str(one.channel): {"epoch": one.after[0], "seq": one.after[1]} for one in some if one.after}
        for product, some in members
        if any(one.after for one in some)
    }
    request = {**request, "id": number, "products": [product for product, _ in members]}
    if after:
        request["from_seq"] = after
    return msgspec.json.encode(request).decode()


def unsubscribe_request(number: int, products: Sequence[str] | None, channels: Sequence[str] | None) -> str:
    """The text of an unsubscribe request; None: all."""
    request: dict[str, Any] = {"op": "unsubscribe", "id": number}
    if products is not None:
        request["products"] = products
    if channels is not None:
        request["channels"] = channels
    return msgspec.json.encode(request).decode()


def replay_request(number: int, action: str, at: int | str | None, speed: float | str | None) -> str:
    """The text of a request that controls a replay."""
    given = {"at": at, "speed": speed}
    asked = {key: value for key, value in given.items() if value is not None}
    return msgspec.json.encode({"op": "replay", "action": action, **asked, "id": number}).decode()


def ping_request(number: int) -> str:
    """The text of a ping; its `t` is its id, too."""
    return msgspec.json.encode({"op": "ping", "t": number, "id": number}).decode()
