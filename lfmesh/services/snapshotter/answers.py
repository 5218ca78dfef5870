"""What the snapshotter answers, pure: a request's bytes in, header and frames out."""

from collections.abc import Collection
from typing import NamedTuple

from lfmesh import messages
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, ReplyHeader, SnapshotRequest, StatesReply, StatesRequest, Unavailable
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.types import StreamKey

PAGE_BYTES = 1024 * 1024
"""A StatesRequest is answered with the products whose books are about so much; for the others it is asked again."""


class Answer(NamedTuple):
    """Header and payload frames of a reply."""

    header: bytes
    frames: list[bytes]


class Answers:
    """Answers of one shard's snapshotter. `products` are those of the shard, with or without data."""

    def __init__(self, intake: Intake, shard: int, products: Collection[str], page_bytes: int = PAGE_BYTES) -> None:
        self._intake = intake
        self._shard = shard
        self._products = frozenset(products)
        self._page_bytes = page_bytes

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
                return self._summaries(request.after)
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

    def _summaries(self, after: str) -> Answer:
        intake = self._intake
        summaries, more = intake.page(after, self._page_bytes)
        header = StatesReply(intake.feed.term, intake.inputs, more)
        return self._say("summaries", header, [messages.encode(summary) for summary in summaries])

    def _say(self, outcome: str, header: ReplyHeader, frames: list[bytes] | None = None) -> Answer:
        self._intake.counters.requests_total[outcome] += 1
        return Answer(messages.encode(header), frames or [])
