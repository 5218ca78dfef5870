"""How far the player is ahead of its gateway, and the requests that wait until it is not.

An answer that overtook what was played before it would take its place: the gateway would begin a stream there, and miss
what comes late. So requests are answered when the gateway has taken everything, and nothing more is played meanwhile.
"""

from collections import deque
from collections.abc import Callable

from lfmesh import messages
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, Request, RetransmitRequest, SnapshotRequest
from lfmesh.ports import Audience
from lfmesh.services.player.stage import Stage
from lfmesh.transport import Responder

LEAD_TURNS = 3
"""So many turns the gateway may have before it."""


class Lead:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.audience: Audience | None = None
        self._marks: deque[int] = deque()

    def mark(self, sent: int) -> None:
        """A turn has ended with a beacon; so many frames have been sent before it."""
        self._marks.append(sent)

    def begin_anew(self) -> None:
        """What was sent before does not count any more."""
        self._marks.clear()

    @property
    def unheard(self) -> int | None:
        """How many turns the gateway has not taken; None while it hears nothing at all."""
        marks = self._marks
        heard = None if self.audience is None else self.audience.heard()
        if heard is None:
            return None
        while marks and marks[0] <= heard:
            marks.popleft()
        return len(marks)

    def is_over(self, turns: int) -> bool:
        """True while the gateway has more than so many turns before it, or one of its clients much."""
        unheard = self.unheard
        return unheard is None or unheard > turns or self.audience is None or self.audience.is_behind()


class Questions:
    """The gateway's requests. `may_answer`: it has taken everything. `moments` answers what asks for another moment
    than that of the replay, whenever it can."""

    def __init__(
        self, stage: Stage, may_answer: Callable[[], bool], moments: Callable[[SnapshotRequest, Responder], None]
    ) -> None:
        self.asked = 0
        self._stage = stage
        self._may_answer = may_answer
        self._moments = moments
        self._waiting: list[tuple[Request, Responder]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, payload: bytes, responder: Responder) -> None:
        """A request has come."""
        self.asked += 1
        try:
            request = messages.decode_request(payload)
        except BadMeshFrame as error:
            responder.reply(messages.encode(Rejected(str(error))))
            return
        if isinstance(request, SnapshotRequest) and request.at:
            self._moments(request, responder)
            return
        self._waiting.append((request, responder))
        self.answer()

    def answer(self) -> None:
        """Answer them, if that may be now."""
        if not self._waiting or not self._may_answer():
            return
        waiting, self._waiting = self._waiting, []
        for request, responder in waiting:
            match request:
                case RetransmitRequest():
                    reply, frames = self._stage.retransmit(request)
                    responder.reply(messages.encode(reply), frames)
                case SnapshotRequest():
                    header, parts = self._stage.snapshot(request)
                    responder.reply(messages.encode(header), parts)
                case _:
                    responder.reply(messages.encode(Rejected("a player answers retransmit and snapshot")))
