"""One message that stands for many of a stream: what a client that asked for `conflate_ms` gets.

A conflated increment carries `prev_seq`, the position that it follows, right after its `seq`; applied to the state at
`prev_seq` it gives the state at `seq`. Everything else is taken from the messages that it stands for:

    ticker   the newest message as it was published: a tick is the whole state, and `continuity` speaks of that tick
    book     the levels of all of them, the last text of each price, in the order in which the prices first changed;
             `epoch`, `seq` and the times of the newest; the weakest `continuity` of all

`continuity` of many is `verified` only if all of them are: one that is `unverified` makes it so, whatever the others
are, and one that was `backfilled` makes it so among verified ones (all of it is proven, some of it came late). A size
of zero stays in, also of a level that appeared in between: who gets the message may hold that level.

What is merged may be conflated itself, and merging in steps gives the same text as merging at once. Trades are never
conflated.

Measured (CPython 3.13, best of five): adding to a ticker 0.07 µs a message, adding and merging book increments of one
level 0.66 µs each, `follows` 0.37 µs.
"""

from collections.abc import Iterable, Sequence

from lfmesh.errors import BadMeshFrame
from lfmesh.types import Channel, StreamKey

QUEUED_INCREMENTS = 256
"""Book increments that may wait to be merged. What is kept beyond them is one level for each price that changed."""

_SEQ = b',"seq":'
_TIMES = b',"ts_event":'
_CONTINUITY = b',"continuity":"'
_BIDS = b'","fields":{"bids":['
_ASKS = b'],"asks":['
_END = b"]}}}"
_CONTINUITIES = (b"verified", b"backfilled", b"unverified")
"""The strongest first."""
_WEAKEST = 2
_LEVEL_BYTES = 24


class Conflater:
    """Collects increments of one stream, of one epoch, until one message is made of them.

    Adding keeps references; messages are looked at when many wait, or when the message is made: BadMeshFrame then for
    what is no increment of the channel. Memory is bounded by how many prices changed, not by how often. ValueError for
    a channel that is never conflated.
    """

    __slots__ = ("_asks", "_bids", "_book", "_newest", "_queued", "_strength", "count")

    def __init__(self, key: StreamKey) -> None:
        if key.channel is Channel.TRADES:
            raise ValueError(f"{key.product} {key.channel}: trades are never conflated")
        self.count = 0
        """Messages since the last `take` or `clear`."""
        self._book = key.channel is Channel.BOOK
        self._newest = b""
        self._queued: list[bytes] = []
        self._bids: dict[bytes, bytes] = {}
        self._asks: dict[bytes, bytes] = {}
        self._strength = 0

    @property
    def size(self) -> int:
        """About how many bytes the message would have; too many where prices that wait to be merged changed again."""
        if not self._book:
            return len(self._newest)
        return sum(map(len, self._queued)) + _LEVEL_BYTES * (len(self._bids) + len(self._asks))

    def add(self, messages: Sequence[bytes]) -> None:
        """The next increments of the epoch, in order, as `lfmesh.core.encode` or a conflater made them."""
        if not messages:
            return
        self.count += len(messages)
        self._newest = messages[-1]
        if self._book:
            self._queued += messages
            if len(self._queued) >= QUEUED_INCREMENTS:
                self._merge()

    def clear(self) -> None:
        """Forget everything: a snapshot stands for it, or another epoch has begun."""
        self.count = 0
        self._newest = b""
        self._queued = []
        self._bids = {}
        self._asks = {}
        self._strength = 0

    def take(self, prev_seq: int) -> bytes:
        """One message that stands for all since `prev_seq`, which are then forgotten; ValueError if there are none."""
        if not self.count:
            raise ValueError("nothing to conflate")
        message = follows(self._newest, prev_seq)
        if self._book and self.count > 1:
            self._merge()
            head = message[: message.index(_CONTINUITY)]
            message = b"".join((
                head, _CONTINUITY, _CONTINUITIES[self._strength],
                _BIDS, _levels(self._bids), _ASKS, _levels(self._asks), _END,
            ))  # fmt: skip
        self.clear()
        return message

    def _merge(self) -> None:
        queued, self._queued = self._queued, []
        bids, asks = [], []
        strength = self._strength
        for message in queued:
            start = message.find(_BIDS)
            cut = message.find(_ASKS, start)
            if start < 0 or cut < 0:
                raise BadMeshFrame(f"no increment of a book: {message[:80]!r}")
            side = message[start + len(_BIDS) : cut]
            if side:
                bids.append(side)
            side = message[cut + len(_ASKS) : -len(_END)]
            if side:
                asks.append(side)
            if strength < _WEAKEST:
                strength = max(strength, _strength_of(message, start))
        self._strength = strength
        _change(self._bids, bids)
        _change(self._asks, asks)


def conflated(key: StreamKey, messages: Sequence[bytes], prev_seq: int) -> bytes:
    """One message that stands for these increments, all since `prev_seq`; errors as of `Conflater`."""
    conflater = Conflater(key)
    conflater.add(messages)
    return conflater.take(prev_seq)


def follows(message: bytes, prev_seq: int) -> bytes:
    """The increment with `prev_seq`: it stands for all after that number. BadMeshFrame if it is none."""
    try:
        cut = message.index(b",", message.index(_SEQ) + len(_SEQ))
        return b'%b,"prev_seq":%d%b' % (message[:cut], prev_seq, message[message.index(_TIMES, cut) :])
    except ValueError as error:
        raise BadMeshFrame(f"no increment: {message[:80]!r}") from error


def _strength_of(message: bytes, end: int) -> int:
    continuity = message[message.rfind(b'"', 0, end) + 1 : end]
    try:
        return _CONTINUITIES.index(continuity)
    except ValueError as error:
        raise BadMeshFrame(f"no continuity: {continuity[:80]!r}") from error


def _change(side: dict[bytes, bytes], changes: Iterable[bytes]) -> None:
    """Note the last text of each price. A price is known by its digits without the zeros that say nothing, so that
    `1.1` and `1.10` are one level (JSON allows no zeros in front)."""
    text = b",".join(changes)
    if not text:
        return
    for level in text[1:-1].split(b"],["):
        px, comma, _ = level.partition(b",")
        if not comma:
            raise BadMeshFrame(f"not a level: {level[:80]!r}")
        if px.endswith(b"0") and b"." in px:
            px = px.rstrip(b"0").rstrip(b".")
        side[px] = level


def _levels(side: dict[bytes, bytes]) -> bytes:
    return b"[%b]" % b"],[".join(side.values()) if side else b""
