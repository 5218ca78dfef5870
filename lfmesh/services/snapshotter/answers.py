"""What the snapshotter answers, pure: a request's bytes in; header and frames out, or what the archive is asked."""

from collections.abc import Collection
from typing import NamedTuple

from lfmesh import messages
from lfmesh.core.archive import AHEAD_NS
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    Rejected,
    Reply,
    ReplyHeader,
    Request,
    RetransmitRequest,
    SnapshotRequest,
    StatesReply,
    StatesRequest,
    Unavailable,
)
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.types import StreamKey

PAGE_BYTES = 1024 * 1024
"""A StatesRequest is answered with the products whose books are about so much; for the others it is asked again."""


class Answer(NamedTuple):
    """Header and payload frames of a reply."""

    header: bytes
    frames: list[bytes]


class Answers:
    """Answers of one shard's snapshotter. `products` are those of the shard, with or without data.

    `archive`: whether one is kept, from which older messages and states can be answered.
    """

    def __init__(
        self, intake: Intake, shard: int, products: Collection[str], page_bytes: int = PAGE_BYTES,
        *, archive: bool = False,
    ) -> None:  # fmt: skip
        self._intake = intake
        self._shard = shard
        self._products = frozenset(products)
        self._page_bytes = page_bytes
        self._archive = archive

    def answer(self, payload: bytes, now: int) -> Answer | RetransmitRequest | SnapshotRequest:
        """The answer to any request, or, where the archive has to answer it, the request; never raises for what
        somebody sent."""
        try:
            request = messages.decode_request(payload)
        except BadMeshFrame as error:
            self._intake.bad("request", str(error))
            return self._say("rejected", Rejected(str(error)))
        if isinstance(request, RetransmitRequest) and self._archive:
            key = StreamKey(request.product, request.channel)
            return self._foreign(key) or self._nothing_after(key, request) or request
        if isinstance(request, SnapshotRequest) and request.at:
            key = StreamKey(request.product, request.channel)
            return self._bad_moment(request.at, now) or self._foreign(key) or request
        return self._from_state(request, now)

    def _from_state(self, request: Request, now: int) -> Answer:
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

    def _foreign(self, key: StreamKey) -> Answer | None:
        if key.product in self._products or self._intake.state.get(key) is not None:
            return None
        return self._say("rejected", Rejected(f"shard {self._shard} does not carry {key.product}"))

    def _nothing_after(self, key: StreamKey, request: RetransmitRequest) -> Answer | None:
        """Who stands where the stream stands has everything."""
        state = self._intake.state.get(key)
        if state is None or state.position != (request.epoch, request.seq):
            return None
        return self._say("archived", Reply())

    def _bad_moment(self, at: int, now: int) -> Answer | None:
        if not self._archive:
            return self._say("unavailable", Unavailable("no archive is kept here (archive.enabled)"))
        if at < 0:
            return self._say("rejected", Rejected(f"{at} is no time in nanoseconds since 1970"))
        if at > now + AHEAD_NS:
            return self._say("rejected", Rejected(f"{at} is in the future"))
        return None

    def _summaries(self, after: str) -> Answer:
        intake = self._intake
        summaries, more = intake.page(after, self._page_bytes)
        header = StatesReply(intake.feed.term, intake.inputs, more)
        return self._say("summaries", header, [messages.encode(summary) for summary in summaries])

    def _say(self, outcome: str, header: ReplyHeader, frames: list[bytes] | None = None) -> Answer:
        self._intake.counters.requests_total[outcome] += 1
        return Answer(messages.encode(header), frames or [])
