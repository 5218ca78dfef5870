"""What the snapshotter answers, pure: a request's bytes in, header and frames out."""

from collections.abc import Collection
from typing import NamedTuple

from lfmesh import messages
from lfmesh.core.contents import BookContent
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, Reply, ReplyHeader, SnapshotRequest, StatesRequest, Unavailable
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.types import StreamKey

SUMMARY_LEVELS_BYTES = 4 * 1024 * 1024
"""A StatesRequest is answered with the levels of so much of books in all; further books come without theirs."""


class Answer(NamedTuple):
    """Header and payload frames of a reply."""

    header: bytes
    frames: list[bytes]


class Answers:
    """Answers of one shard's snapshotter. `products` are those of the shard, with or without data."""

    def __init__(
        self, intake: Intake, shard: int, products: Collection[str], levels_bytes: int = SUMMARY_LEVELS_BYTES
    ) -> None:
        self._intake = intake
        self._shard = shard
        self._products = frozenset(products)
        self._levels_bytes = levels_bytes

    def answer(self, payload: bytes, now: int) -> Answer:
        """The answer to any request; never raises for what somebody sent."""
        intake = self._intake
        try:
            request = messages.decode_request(payload)
        except BadMeshFrame as error:
            intake.bad("request", str(error))
            return self._say("rejected", Rejected(str(error)))
        match request:
            case SnapshotRequest():
                return self._snapshot(StreamKey(request.product, request.channel), now)
            case StatesRequest() if request.shard == self._shard:
                return self._summaries()
            case StatesRequest():
                return self._say("rejected", Rejected(f"shard {self._shard} is served here, not {request.shard}"))
            case _:
                return self._say("rejected", Rejected(f"a snapshotter does not answer {type(request).__name__}"))

    def _snapshot(self, key: StreamKey, now: int) -> Answer:
        intake = self._intake
        state = intake.state.get(key)
        if state is None:
            if key.product in self._products:
                return self._say("unavailable", Unavailable("no data yet"))
            return self._say("rejected", Rejected(f"shard {self._shard} does not carry {key.product}"))
        try:
            reply, parts, fresh = state.answer(now)
        except BadMeshFrame as error:
            intake.discard(key, str(error))
            return self._say("unavailable", Unavailable("the state was unreadable and is being taken anew"))
        intake.counters.snapshots_created_total += fresh
        return self._say("state", reply, parts)

    def _summaries(self) -> Answer:
        frames = []
        room = self._levels_bytes
        for state in list(self._intake.state):
            size = state.content.size if isinstance(state.content, BookContent) else 0
            try:
                frames.append(messages.encode(state.summary(levels=size <= room)))
            except BadMeshFrame as error:
                self._intake.discard(state.key, str(error))
                continue
            if size <= room:
                room -= size
        return self._say("summaries", Reply(), frames)

    def _say(self, outcome: str, header: ReplyHeader, frames: list[bytes] | None = None) -> Answer:
        self._intake.counters.requests_total[outcome] += 1
        return Answer(messages.encode(header), frames or [])
