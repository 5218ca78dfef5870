"""Answers from the archive, off the loop: so many at a time, and nobody waits for a place."""

from collections import Counter
from collections.abc import Awaitable, Callable

from lfmesh import messages
from lfmesh.messages import RetransmitRequest, SnapshotRequest, Unavailable
from lfmesh.ports import Context
from lfmesh.services.snapshotter.answers import Answer
from lfmesh.services.snapshotter.archived import Archived, Publisher
from lfmesh.services.snapshotter.workers import Workers
from lfmesh.transport import Responder

AT_ONCE = 4

BUSY = Unavailable("busy", later=True)
STOPPING = Unavailable("stopping", later=True)


class Lookups:
    """Gives requests to `archived`, and its answers to who asked. `outcomes` counts them.

    `flush` is awaited before each: what has been published is then in the journal, where it is found.
    """

    def __init__(
        self, archived: Archived, context: Context, outcomes: Counter[str], flush: Callable[[], Awaitable[None]]
    ) -> None:
        self._archived = archived
        self._context = context
        self._outcomes = outcomes
        self._flush = flush
        self._workers = Workers("archive-reader", AT_ONCE)
        self._under_way = 0
        self._closed = False

    def answer(self, request: RetransmitRequest | SnapshotRequest, publisher: Publisher, responder: Responder) -> None:
        """Answer now or later; at once if there is no place."""
        if self._closed or self._under_way >= AT_ONCE:
            self._outcomes["busy"] += 1
            responder.reply(messages.encode(STOPPING if self._closed else BUSY))
            return
        self._under_way += 1
        match request:
            case RetransmitRequest():
                self._context.spawn(self._reply(lambda: self._archived.retransmit(request, publisher), responder))
            case SnapshotRequest():
                self._context.spawn(self._reply(lambda: self._archived.state_at(request, publisher.term), responder))

    def close(self) -> None:
        """Begin nothing more; idempotent."""
        self._closed = True
        self._workers.close()

    async def _reply(self, call: Callable[[], Answer], responder: Responder) -> None:
        try:
            await self._flush()
            if self._closed:
                responder.reply(messages.encode(STOPPING))
                return
            answer = await self._workers.run(call)
        finally:
            self._under_way -= 1
        self._outcomes["archived"] += 1
        responder.reply(answer.header, answer.frames)
