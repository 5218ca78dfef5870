"""Whether each stream lives, as clients are told (PROTOCOL, 7): the mesh's word, and what the gateway sees itself.

What counts is the first of these that holds:

    no beacon from the shard's publisher      recovering, and after `stale_after_ns` stale
    messages of the stream are missing        recovering
    the publisher says that it does not live  that message, as it came
    nothing was ever heard of the stream      recovering
    else                                      live

That an ingestor is silent its normalizer says after three missed beacons, since it may have another line to change to.
Clients hear of it when it has lasted for SILENCE_TOLD_NS more, a second in all, as with the normalizer's own beacons: a
busy machine can be late, and then nothing was lost.

`changes` gives the messages to be sent; `now_not_live` what somebody who subscribes is to be told.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from lfmesh.core import encode
from lfmesh.core.liveness import SILENT_INGESTOR
from lfmesh.errors import BadMeshFrame
from lfmesh.types import StreamKey, StreamState

NO_BEACON = "no beacon from the normalizer of shard {shard}"
MISSING = "messages are missing and have been asked for"
NO_DATA = "no data yet"
FLOWING = "data flows"
SILENCE_TOLD_NS = 600_000_000


class _Said(msgspec.Struct, frozen=True):
    state: StreamState
    since: int
    reason: str


class Effective(NamedTuple):
    """What clients are told of one stream; `message` as they receive it."""

    state: StreamState
    reason: str
    message: bytes


_decode = msgspec.json.Decoder(_Said).decode


class _Shard:
    __slots__ = ("down_since", "keys", "stale")

    def __init__(self, keys: Iterable[StreamKey], now: int) -> None:
        self.keys = tuple(keys)
        self.down_since: int | None = now
        self.stale = False


class StatusBoard:
    """See the module's docstring. `streams` are all that can be subscribed, by shard; all shards are down at first."""

    def __init__(self, streams: dict[int, list[StreamKey]], stale_after_ns: int, now: int) -> None:
        self._stale_after_ns = stale_after_ns
        self._shards = {shard: _Shard(keys, now) for shard, keys in streams.items()}
        self._shard_of = {key: shard for shard, keys in streams.items() for key in keys}
        self._words: dict[StreamKey, Effective] = {}
        self._early: dict[StreamKey, tuple[int, Effective]] = {}
        self._gaps: dict[StreamKey, int] = {}
        self._with_data: set[StreamKey] = set()
        self._dirty: dict[StreamKey, None] = {}
        self._started = now
        self._effective: dict[StreamKey, Effective] = {}
        for key in self._shard_of:
            self._effective[key] = self._judge(key, now)

    def told(self, key: StreamKey, message: bytes, now: int) -> None:
        """The stream's publisher has said how it is; BadMeshFrame if that can't be read."""
        try:
            said = _decode(message)
        except msgspec.DecodeError as error:
            raise BadMeshFrame(f"not a status: {error}") from error
        word, known = Effective(said.state, said.reason, message), self._words.get(key)
        if word.reason == SILENT_INGESTOR and (known is None or known.reason != SILENT_INGESTOR):
            since, _ = self._early.get(key, (now, word))
            self._early[key] = (since, word)
        else:
            self._early.pop(key, None)
            self._words[key] = word
            self._touch(key)

    def has_data(self, key: StreamKey) -> None:
        """The stream has a position."""
        if key not in self._with_data:
            self._with_data.add(key)
            self._touch(key)

    def no_data(self, key: StreamKey) -> None:
        """The stream has no position any more, until `has_data`."""
        self._with_data.discard(key)
        self._touch(key)

    def gap(self, key: StreamKey, since: int | None) -> None:
        """Messages of the stream have been missing since then; None: no more."""
        if since is None:
            self._gaps.pop(key, None)
        else:
            self._gaps.setdefault(key, since)
        self._touch(key)

    def new_publisher(self, shard: int) -> None:
        """What the shard's former publisher said of its streams does not count any more."""
        for key in self._shards[shard].keys:
            self._early.pop(key, None)
            if self._words.pop(key, None) is not None:
                self._touch(key)

    def heard(self, shard: int, last: int | None, now: int, *, silent: bool) -> None:
        """Whether the shard's publisher is heard; `last` is when that was."""
        known = self._shards[shard]
        if not silent:
            down, stale = None, False
        else:
            down = known.down_since if known.down_since is not None else (last or now)
            stale = now - down > self._stale_after_ns
        if (down, stale) != (known.down_since, known.stale):
            known.down_since, known.stale = down, stale
            for key in known.keys:
                self._touch(key)

    def shard_down(self, shard: int) -> bool:
        """True while the shard's publisher is not heard."""
        return self._shards[shard].down_since is not None

    def none_live(self, shard: int) -> str:
        """Why the shard's first stream does not live, if none of them does; else empty. As of the last `changes`."""
        known = [self._effective[key] for key in self._shards[shard].keys]
        return known[0].reason if known and all(one.state != "live" for one in known) else ""

    def changes(self, now: int) -> list[tuple[StreamKey, bytes]]:
        """Streams whose state or reason has changed since the last call, with the message that says so."""
        if self._early:
            self._let_out(now)
        if not self._dirty:
            return []
        dirty, self._dirty = self._dirty, {}
        changed = []
        for key in dirty:
            before, after = self._effective[key], self._judge(key, now)
            if (before.state, before.reason) != (after.state, after.reason):
                self._effective[key] = after
                changed.append((key, after.message))
        return changed

    def now_not_live(self, key: StreamKey) -> bytes | None:
        """The stream's status if it is not live."""
        known = self._effective[key]
        return None if known.state == "live" else known.message

    def counts(self) -> dict[str, int]:
        """How many streams are in each state."""
        counted = {"live": 0, "recovering": 0, "stale": 0}
        for known in self._effective.values():
            counted[known.state] += 1
        return counted

    def _let_out(self, now: int) -> None:
        due = [key for key, (since, _) in self._early.items() if now - since >= SILENCE_TOLD_NS]
        for key in due:
            _, self._words[key] = self._early.pop(key)
            self._touch(key)

    def _touch(self, key: StreamKey) -> None:
        if key in self._shard_of:
            self._dirty[key] = None

    def _judge(self, key: StreamKey, now: int) -> Effective:
        number = self._shard_of[key]
        shard = self._shards[number]
        if shard.down_since is not None:
            state: StreamState = "stale" if shard.stale else "recovering"
            return _made(key, state, shard.down_since, NO_BEACON.format(shard=number))
        if key in self._gaps:
            return _made(key, "recovering", self._gaps[key], MISSING)
        word = self._words.get(key)
        if word is not None and word.state != "live":
            return word
        if key not in self._with_data:
            return _made(key, "recovering", self._started, NO_DATA)
        return word if word is not None else _made(key, "live", now, FLOWING)


def _made(key: StreamKey, state: StreamState, since: int, reason: str) -> Effective:
    return Effective(state, reason, encode.status(key.product, key.channel, state, since, reason))
