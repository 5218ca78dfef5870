"""What normalizers ask of an ingestor: replay of records, new books, lost trades."""

from collections.abc import Callable, Mapping, Sequence

from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    BackfillRequest,
    Rejected,
    RelinkRequest,
    ReplayRequest,
    Reply,
    ReplyHeader,
    ResyncRequest,
    Unavailable,
    decode_request,
    encode,
)
from lfmesh.services.ingestor.backfills import Backfills
from lfmesh.services.ingestor.shard_stream import ShardStream
from lfmesh.transport import Responder
from lfmesh.venues.coinbase.connection import FeedConnection


class Answers:
    """`connections` are those of the products carried; `relink` makes the link to a normalizer anew; `books` says
    whether any book channel is subscribed."""

    def __init__(
        self,
        streams: Sequence[ShardStream],
        connections: Mapping[str, FeedConnection],
        backfills: Backfills,
        relink: Callable[[str], bool],
        *,
        books: bool,
    ) -> None:
        self.replay_requests = 0
        self.replay_frames = 0
        self.replay_unavailable = 0
        self._streams = streams
        self._connections = connections
        self._backfills = backfills
        self._relink = relink
        self._books = books

    def on_request(self, payload: bytes, responder: Responder) -> None:
        """Answer at once, whatever was asked."""
        header, frames = self._answer(payload)
        responder.reply(encode(header), frames)

    def _answer(self, payload: bytes) -> tuple[ReplyHeader, list[bytes]]:
        try:
            request = decode_request(payload)
        except BadMeshFrame as error:
            return Rejected(str(error)), []
        match request:
            case ReplayRequest():
                return self._replay(request)
            case ResyncRequest(products):
                return self._resync(products), []
            case RelinkRequest(instance):
                return (Reply() if self._relink(instance) else Rejected(f"{instance} is not known here")), []
            case BackfillRequest():
                return self._backfill(request), []
            case _:
                return Rejected(f"an ingestor does not answer {type(request).__name__}"), []

    def _replay(self, request: ReplayRequest) -> tuple[ReplyHeader, list[bytes]]:
        self.replay_requests += 1
        if not 0 <= request.shard < len(self._streams):
            return Rejected(f"shard {request.shard} of {len(self._streams)}"), []
        header, frames = self._streams[request.shard].replay(request)
        self.replay_frames += len(frames)
        if isinstance(header, Unavailable):
            self.replay_unavailable += 1
        return header, frames

    def _backfill(self, request: BackfillRequest) -> ReplyHeader:
        if request.product not in self._connections:
            return Rejected(f"{request.product} is not carried by this ingestor")
        return self._backfills.ask(request)

    def _resync(self, products: Sequence[str]) -> ReplyHeader:
        if not self._books:
            return Rejected("no book channel is subscribed at the venue")
        wanted: dict[FeedConnection, list[str]] = {}
        for product in dict.fromkeys(products):
            connection = self._connections.get(product)
            if connection is not None:
                wanted.setdefault(connection, []).append(product)
        if not wanted:
            return Rejected("none of the products is carried by this ingestor")
        for connection, affected in wanted.items():
            connection.resync(affected)
        return Reply()
