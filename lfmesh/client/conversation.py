"""One client's side of the protocol, over any number of connections. Pure: texts, wishes and times in; events, requests
and answers out. No await, no clock, no socket.

    opened(url, now)                    a connection is open: everything that is wanted is asked for, by position
    receive(text, now)                  a message has come
    closed(…)                           it is over
    subscribe, unsubscribe, ping        wishes; each answered under its number, see `take_answers`
    tick(now)                           time passes
    take_events, take_requests(now)     what comes of it
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from lfmesh.client.contents import Outcome
from lfmesh.client.errors import ClientError, refusal
from lfmesh.client.events import Connected, Disconnected, Event, Goaway, Refused, ReplayStatus
from lfmesh.client.requests import Request, Requests, ping_request, replay_request, unsubscribe_request
from lfmesh.client.stream import Stream
from lfmesh.client.wire import (
    Error,
    GoawayMessage,
    Heartbeat,
    IncrementMessage,
    Other,
    Pong,
    RateLimit,
    ReplayMessage,
    SnapshotMessage,
    Status,
    Subscribed,
    Unsubscribed,
    parse,
)
from lfmesh.errors import BadFrame
from lfmesh.types import Channel, Position, StreamKey

_MAX_GOAWAY_MS = 60_000
_ANEW_FIRST_NS = 500_000_000
_ANEW_MAX_NS = 30_000_000_000
_REFUSALS = ("BAD_REQUEST", "INVALID_OPERATION", "INVALID_JSON", "TOO_MANY_SUBSCRIPTIONS")
"""Errors after which nothing else answers the request. The UNKNOWN_ ones come before `subscribed`, if that comes."""


class Answer(NamedTuple):
    """What has become of a wish: `error`, or, of a ping, how long it took (ns); `replay`: where a replay is."""

    number: int
    error: ClientError | None = None
    took_ns: int = 0
    replay: ReplayStatus | None = None


@dataclass(slots=True)
class _Wish:
    """A call of subscribe that waits for its streams; refused ones by code."""

    waiting: set[StreamKey]
    refused: dict[str, tuple[str, list[StreamKey]]] = field(default_factory=dict)

    def error(self) -> ClientError | None:
        """For the first code; it names all streams that were refused."""
        for code, (msg, _) in self.refused.items():
            return refusal(code, msg, tuple(key for _, keys in self.refused.values() for key in keys))
        return None


@dataclass(slots=True)
class _Anew:
    """When a stream may be asked for anew, if it has gone wrong before: pauses double while it keeps going wrong."""

    due: int
    pause: int = 0
    waits: bool = False


class Conversation:
    """See the module's docstring. `random` returns a number in [0, 1)."""

    def __init__(self, random: Callable[[], float], *, keep_trades: int = 1000) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.connected = False
        self.leave_at: int | None = None
        """When to change over, because the gateway is about to end."""
        self.broken: str | None = None
        """Why this connection must be given up."""
        self.useful = 0
        """Messages of this connection that a gateway would send."""
        self.dropped = 0
        """Messages of streams that are not, or no longer, followed."""
        self.conflated = 0
        """Snapshots that the gateway sent instead of changes, because this client took too little."""
        self.replay: ReplayStatus | None = None
        """Where the replay was when it told last; None where none is followed."""
        self._keep_trades = keep_trades
        self._out = Outcome()
        self._answers: list[Answer] = []
        self._requests = Requests(random)
        self._wishes: dict[int, _Wish] = {}
        self._leaving: set[StreamKey] = set()
        self._anew: dict[StreamKey, _Anew] = {}
        self._connections = 0

    # Out --------------------------------------------------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """What has happened, in order."""
        events, self._out.events = self._out.events, []
        return events

    def take_answers(self) -> list[Answer]:
        """Wishes that have been answered."""
        answers, self._answers = self._answers, []
        return answers

    def take_requests(self, now: int) -> list[str]:
        """Requests to send now, no more than the gateway allows."""
        return self._requests.take(now) if self.connected else []

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send."""
        return self.connected and self._requests.unsent

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        return len(self._requests)

    # Wishes -----------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        keys: Iterable[StreamKey],
        *,
        want_snapshot: bool = True,
        conflate_ms: int = 0,
        after: Mapping[tuple[str, str], tuple[int, int]] | None = None,
    ) -> int:
        """Follow streams; those that are followed already are begun anew. The number of its answer."""
        number = self._requests.next_number()
        after = after or {}
        keys = list(dict.fromkeys(keys))
        self._wishes[number] = _Wish(set(keys))
        for key in keys:
            known, given = self.streams.get(key), after.get(key)
            stream = Stream(
                key,
                want_snapshot=want_snapshot,
                conflate_ms=conflate_ms,
                after=None if given is None else Position(*given),
                keep_trades=self._keep_trades,
            )
            if known is not None:
                stream.take_over(known)
            self.streams[key] = stream
            self._anew.pop(key, None)
        if self.connected:
            self._ask([self.streams[key] for key in keys])
        if not keys:
            self._answer_wish(number)
        return number

    def unsubscribe(self, products: Sequence[str] | None, channels: Sequence[Channel] | None) -> int:
        """Follow no more; None: all. The number of its answer."""
        left = [
            key
            for key in self.streams
            if (products is None or key.product in products) and (channels is None or key.channel in channels)
        ]
        for key in left:
            del self.streams[key]
            self._anew.pop(key, None)
        for wish_number, wish in list(self._wishes.items()):
            wish.waiting.difference_update(left)
            if not wish.waiting:
                self._answer_wish(wish_number)
        number = self._requests.next_number()
        if self.connected and left:
            self._leaving.update(left)
            named = None if products is None else sorted({key.product for key in left})
            text = unsubscribe_request(number, named, channels)
            self._requests.post(Request("unsubscribe", text, left, number), number)
        else:
            self._answers.append(Answer(number))
        return number

    def ping(self) -> int:
        """Measure the way there and back. The number of its answer; over a lost connection it is sent again."""
        number = self._requests.next_number()
        return self._requests.post(Request("ping", ping_request(number), call=number), number)

    def control(self, action: str, at: int | str | None, speed: float | str | None) -> int:
        """Control a replay. The number of its answer, which has no `replay` if the connection is lost before."""
        number = self._requests.next_number()
        if self.connected:
            text = replay_request(number, action, at, speed)
            self._requests.post(Request("replay", text, call=number), number)
        else:
            self._answers.append(Answer(number))
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._wishes.pop(number, None)
        request = self._requests.get(number)
        if request is not None and request.op == "ping":
            self._requests.drop(number)

    # What happens -----------------------------------------------------------------------------------------------

    def opened(self, url: str, now: int) -> None:
        """A connection is open."""
        self._out.events.append(Connected(url=url, again=self._connections > 0, ts_received=now))
        self._connections += 1
        self.connected = True
        self.leave_at = self.broken = None
        self.useful = 0
        self._requests.connected(now)
        self._ask(list(self.streams.values()))

    def closed(self, url: str, reason: str, retry_in_s: float, code: int | None, failures: int, now: int) -> None:
        """The connection is over, or none could be made."""
        if self.connected:
            self.connected = False
            self._answers.extend(
                Answer(request.call) for request in self._requests.disconnected() if request.call is not None
            )
            self._leaving.clear()
            for anew in self._anew.values():
                anew.waits = False
            for stream in self.streams.values():
                stream.end(reason)
        self._out.events.append(
            Disconnected(url=url, reason=reason, retry_in_s=retry_in_s, code=code, failures=failures, ts_received=now)
        )

    def receive(self, text: str, now: int) -> None:
        """A message has come. `broken` is set when nothing of this connection can be believed any more."""
        try:
            message = parse(text)
        except BadFrame as error:
            self._out.complain(None, "malformed", str(error), now, text)
            self.broken = "a message that can't be read"
            return
        self.useful += 1
        out = self._out
        match message:
            case IncrementMessage(data=data):
                stream = self._stream(data.product, data.channel, now, text)
                if stream is not None:
                    stream.increment(data, text, now, out)
                    self._after(stream, now)
            case SnapshotMessage(data=snapshot):
                stream = self._stream(snapshot.product, snapshot.channel, now, text)
                if stream is not None:
                    self.conflated += snapshot.reason == "conflated" and snapshot.part == snapshot.parts
                    stream.snapshot(snapshot, text, now, out)
                    self._after(stream, now)
            case Status():
                stream = self._stream(message.product, message.channel, now, text)
                if stream is not None:
                    stream.status_came(message, now, out)
            case GoawayMessage(reason=reason, reconnect_ms=pause):
                pause = min(pause, _MAX_GOAWAY_MS)
                self.leave_at = now + pause * 1_000_000
                out.events.append(Goaway(reason=reason, reconnect_ms=pause, ts_received=now))
            case ReplayMessage():
                self._replay_told(message, now)
            case Heartbeat() | Other():
                pass
            case _:
                self._answered(message, now, text)

    def tick(self, now: int) -> None:
        """Time passes; everything that came before `now` has been given to `receive`."""
        if not self.connected:
            return
        late = self._requests.tick(now)
        if late is not None:
            self._out.complain(None, "reply", f"no answer to {late.text[:200]}", now)
            self.broken = "a request was not answered"
            return
        for key, stream in self.streams.items():
            stream.tick(now, self._out)
            self._after(stream, now)
            anew = self._anew.get(key)
            if anew is not None and anew.waits and now >= anew.due and not stream.asked:
                self._ask_anew(stream, anew, now)

    # Answers ----------------------------------------------------------------------------------------------------

    def _answered(self, message: Subscribed | Unsubscribed | Pong | RateLimit | Error, now: int, text: str) -> None:
        match message:
            case Subscribed():
                self._subscribed(message, now, text)
            case Unsubscribed(id=number):
                self._unsubscribed(number, now, text)
            case Pong(t=number):
                self._pong(number, now, text)
            case RateLimit(id=number, retry_ms=pause):
                self._requests.turned_away(number, pause, now)
            case Error():
                self._refused(message, now)
            case _:
                assert_never(message)

    def _replay_told(self, message: ReplayMessage, now: int) -> None:
        known = self.replay
        speed = None if message.speed == "max" else float(message.speed)
        self.replay = told = ReplayStatus(
            state=message.state, at=message.at, start=message.start, end=message.end, speed=speed, run=message.run,
            ts_received=now,
        )  # fmt: skip
        if known is not None and known.run != told.run:
            for stream in self.streams.values():
                stream.rewound()
        request = self._requests.get(message.id)
        if request is None:
            self._out.events.append(told)
        elif request.op == "replay" and request.call is not None:
            self._requests.drop(message.id)
            self._answers.append(Answer(request.call, replay=told))

    def _subscribed(self, message: Subscribed, now: int, text: str) -> None:
        request = self._requests.get(message.id)
        if request is None or request.op != "subscribe":
            self._out.complain(None, "reply", "`subscribed` answers nothing that was asked", now, text)
            return
        self._requests.drop(message.id)
        products, channels = frozenset(message.products), frozenset(message.channels)
        refused: dict[str, list[StreamKey]] = {}
        for key in request.keys:
            if key.product in products and key.channel in channels:
                self._begin(key, message.id, now)
            else:
                code = "UNKNOWN_CHANNEL" if key.product in products else "UNKNOWN_PRODUCT"
                refused.setdefault(code, []).append(key)
        for code, keys in refused.items():
            self._refuse(code, _reason(code, keys, request.unknown), keys, now)

    def _begin(self, key: StreamKey, number: object, now: int) -> None:
        stream = self.streams.get(key)
        if stream is None:
            return  # given up meanwhile
        self._leaving.discard(key)
        newest = self._requests.newest(key)
        if newest != number:
            stream.overtaken()
            if self._requests.get(newest) is None:  # the gateway was given them in another order
                self._ask([stream])
            return
        again = stream.begin(now)
        if again:
            self._take_anew(stream, now)
        self._settle(key, None, "")

    def _settle(self, key: StreamKey, code: str | None, msg: str) -> bool:
        """A stream has been answered for; True if a call was waiting for that."""
        waited = False
        for number, wish in list(self._wishes.items()):
            if key in wish.waiting:
                waited = True
                wish.waiting.discard(key)
                if code is not None:
                    wish.refused.setdefault(code, (msg, []))[1].append(key)
                if not wish.waiting:
                    self._answer_wish(number)
        return waited

    def _answer_wish(self, number: int) -> None:
        self._answers.append(Answer(number, self._wishes.pop(number).error()))

    def _refuse(self, code: str, msg: str, keys: Sequence[StreamKey], now: int) -> None:
        """Streams that the gateway will not carry: an error of who asked, else an event."""
        unasked: list[StreamKey] = []
        for key in keys:
            if self._settle(key, code, msg):
                self.streams.pop(key, None)
                self._anew.pop(key, None)
            elif key in self.streams:
                self.streams[key].refused(f"{code}: {msg}")
                unasked.append(key)
        if unasked:
            products = tuple(dict.fromkeys(key.product for key in unasked))
            self._out.events.append(Refused(code=code, msg=msg, products=products, ts_received=now))

    def _refused(self, message: Error, now: int) -> None:
        request = self._requests.get(message.id)
        if request is None:
            self._out.events.append(Refused(code=message.code, msg=message.msg, products=(), ts_received=now))
        elif request.op == "subscribe" and message.code not in _REFUSALS:
            # `subscribed` follows for what is known of it. If nothing is, a ping tells that nothing follows.
            request.unknown.append(f"{message.code}: {message.msg}")
            if len(request.unknown) == 1 and isinstance(message.id, int):
                number = self._requests.next_number()
                self._requests.post(Request("fence", ping_request(number), fences=message.id), number)
        else:
            self._requests.drop(message.id)
            if request.op == "subscribe":
                self._refuse(message.code, message.msg, request.keys, now)
            elif request.call is not None:
                self._answers.append(Answer(request.call, refusal(message.code, message.msg)))

    def _unsubscribed(self, number: object, now: int, text: str) -> None:
        request = self._requests.get(number)
        if request is None or request.op != "unsubscribe":
            self._out.complain(None, "reply", "`unsubscribed` answers nothing that was asked", now, text)
            return
        self._requests.drop(number)
        self._leaving.difference_update(request.keys)
        if request.call is not None:
            self._answers.append(Answer(request.call))

    def _pong(self, number: int, now: int, text: str) -> None:
        request = self._requests.get(number)
        if request is None or request.op not in ("ping", "fence"):
            self._out.complain(None, "reply", "a pong to no ping", now, text)
            return
        self._requests.drop(number)
        if request.call is not None:
            self._answers.append(Answer(request.call, None, now - (request.sent_at or now)))
        fenced = self._requests.get(request.fences)
        if fenced is not None:
            self._requests.drop(request.fences)
            code, _, msg = fenced.unknown[0].partition(": ")
            self._refuse(code, msg, fenced.keys, now)

    # Inside -----------------------------------------------------------------------------------------------------

    def _stream(self, product: str, channel: Channel, now: int, text: str) -> Stream | None:
        key = StreamKey(product, channel)
        stream = self.streams.get(key)
        if stream is not None and stream.active:
            return stream
        self.dropped += 1
        if key not in self._leaving:
            self._out.complain(key, "unsubscribed", "a message of a stream that is not followed", now, text)
        return None

    def _ask(self, streams: Sequence[Stream]) -> None:
        self._requests.subscribe([stream.ask() for stream in streams])

    def _after(self, stream: Stream, now: int) -> None:
        if self._out.anew:
            self._out.anew = False
            self._take_anew(stream, now)

    def _take_anew(self, stream: Stream, now: int) -> None:
        """Ask for a stream again: at once, or after a pause if that has been done lately."""
        anew = self._anew.get(stream.key)
        if anew is None or now - anew.due > _ANEW_MAX_NS:
            anew = self._anew[stream.key] = _Anew(now)
        if stream.asked:
            return
        if now >= anew.due:
            self._ask_anew(stream, anew, now)
        else:
            anew.waits = True

    def _ask_anew(self, stream: Stream, anew: _Anew, now: int) -> None:
        anew.waits = False
        anew.pause = min(max(_ANEW_FIRST_NS, 2 * anew.pause), _ANEW_MAX_NS)
        anew.due = now + anew.pause
        self._ask([stream])


def _reason(code: str, keys: Sequence[StreamKey], told: Sequence[str]) -> str:
    for one in told:
        if one.startswith(code):
            return one.removeprefix(f"{code}: ")
    names = dict.fromkeys(key.channel if code == "UNKNOWN_CHANNEL" else key.product for key in keys)
    return f"not carried here: {', '.join(names)}"
