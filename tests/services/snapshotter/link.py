"""An intake, the publisher it follows, and what goes to and fro between them."""

from itertools import count

from lfmesh.core.recovery import Wanted
from lfmesh.core.replica import Asked
from lfmesh.messages import Reply, ReplyHeader, Unavailable, encode
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.types import Channel, StreamKey
from tests.core.model_publisher import ModelPublisher, ModelStream

SECOND = 1_000_000_000
BOOK = StreamKey("P0-USD", Channel.BOOK)
TICKER = StreamKey("P0-USD", Channel.TICKER)


class Link:
    """An intake, the publisher it follows, and the answers to what it wants."""

    def __init__(self, term: int = 3, known: dict[StreamKey, ModelStream] | None = None) -> None:
        self.ticks = count(1000)
        self.source = ModelPublisher(0, term, lambda: next(self.ticks), known, ring_bytes=3000)
        self.intake = Intake(0, 10 * SECOND)
        self.now = SECOND

    def take(self, *frames: bytes) -> None:
        self.intake.frames(frames, self.now)

    def beacon(self) -> None:
        self.take(self.source.beacon_frame())

    def take_over(self) -> None:
        source = self.source
        self.source = ModelPublisher(
            0, source.term + 1, source.clock, {**source.known, **source.streams}, ring_bytes=3000
        )

    def ask(self) -> list[tuple[StreamKey, Wanted, Asked]]:
        return [(key, wanted, Asked(wanted, self.intake.feed.term)) for key, wanted in self.intake.wants.take()]

    def answer(self, key: StreamKey, wanted: Wanted, asked: Asked) -> None:
        header: ReplyHeader
        frames: list[bytes] = []
        if wanted.rung == "retransmit" and wanted.after is not None:
            found = self.source.retransmit(key, wanted.after)
            header = Unavailable("gone") if found is None else Reply()
            frames = found or []
        else:
            state = self.source.snapshot(key)
            header, frames = (Unavailable("no data yet"), []) if state is None else state
        self.intake.answer(key, asked, [encode(header), *frames], self.now)

    def recover(self) -> None:
        for _ in range(10):
            self.beacon()
            while asked := self.ask():
                for one in asked:
                    self.answer(*one)
            self.now += SECOND
            self.intake.tick(self.now)

    def check(self) -> None:
        intake = self.intake
        for key, stream in self.source.streams.items():
            state = intake.state.get(key)
            assert state is not None
            assert state.position == stream.position == intake.feed.position(key)
            assert state.content.text().decode() == stream.state(key.channel)
            assert state.term == self.source.term
