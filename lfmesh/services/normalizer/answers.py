"""What a normalizer answers: frames that got lost on the way, and the state of a stream as it stands here."""

from collections import Counter

from lfmesh import messages
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, RetransmitRequest, SnapshotReply, SnapshotRequest, Unavailable
from lfmesh.ports import Clock
from lfmesh.services.normalizer.outflow import Outflow
from lfmesh.services.normalizer.pipelines import Pipelines
from lfmesh.transport import Responder

NO_DATA = Unavailable("no data yet")
STANDBY = Unavailable("standby")
_KNOWN = "a normalizer answers retransmit and snapshot"


def refusal(payload: bytes) -> bytes:
    """What a normalizer answers that does not publish."""
    try:
        request = messages.decode_request(payload)
    except BadMeshFrame as error:
        return messages.encode(Rejected(str(error)))
    known = isinstance(request, RetransmitRequest | SnapshotRequest)
    return messages.encode(STANDBY if known else Rejected(_KNOWN))


class Answers:
    """Requests to one normalizer; `counts` by kind."""

    def __init__(self, pipelines: Pipelines, outflow: Outflow, clock: Clock) -> None:
        self._pipelines = pipelines
        self._outflow = outflow
        self._clock = clock
        self.counts: Counter[str] = Counter()

    def on_request(self, payload: bytes, responder: Responder) -> None:
        """Answer at once; what is published stands when this is called, so answers and frames agree."""
        try:
            request = messages.decode_request(payload)
        except BadMeshFrame as error:
            self.counts["bad"] += 1
            responder.reply(messages.encode(Rejected(str(error))))
            return
        match request:
            case RetransmitRequest():
                self.counts["retransmit"] += 1
                reply, frames = self._outflow.retransmit(request, self._pipelines.outlets)
                responder.reply(messages.encode(reply), frames)
            case SnapshotRequest():
                self.counts["snapshot"] += 1
                header, parts = self.snapshot(request)
                responder.reply(messages.encode(header), parts)
            case _:
                self.counts["rejected"] += 1
                responder.reply(messages.encode(Rejected(_KNOWN)))

    def snapshot(self, request: SnapshotRequest) -> tuple[SnapshotReply | Unavailable, list[bytes]]:
        """A stream's state in parts, and where it holds."""
        product = self._pipelines.products.get(request.product)
        if product is None:
            return Unavailable("not a product of this shard, or starting"), []
        outlet = product.outlets[request.channel]
        position = outlet.position
        if position is None:
            return NO_DATA, []
        state = product.state(request.channel)
        if state is None:
            return Unavailable("the book waits for a snapshot"), []
        header = SnapshotReply(
            request.product, request.channel, self._outflow.term, *position, self._clock(), outlet.complete
        )
        return header, [part.encode("ascii") for part in state]
