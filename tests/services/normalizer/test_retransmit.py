"""What a normalizer gives again: in pieces of the size that is asked for, from the oldest on where that is enough."""

from collections.abc import Iterator
from contextlib import contextmanager

from lfmesh.core.codec import unpack
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.ring import ReplayRing
from lfmesh.messages import Reply, RetransmitRequest, Unavailable
from lfmesh.services.normalizer.outflow import Outflow, Ring
from lfmesh.transport import Publisher, Transport
from lfmesh.types import Channel, StreamKey
from tests.aio import run

TRADES = StreamKey("BTC-USD", Channel.TRADES)
START = 1_700_000_000_000_000_000


class Desk:
    """One stream, of which each turn brings one trade."""

    def __init__(self, transport: Transport, ring_bytes: int) -> None:
        ring: Ring = ReplayRing(ring_bytes)
        self.turn = Turn()
        self.outlet = Outlet(TRADES, self.turn)
        self.outflow = Outflow(0, 1, 7, Publisher(transport, "tcp://127.0.0.1:0", hwm=0), ring, self.turn)
        self.turn.begin(START)
        self.outlet.open("epoch", ['{"trades":[]}'], 0)
        self.outflow.flush()
        assert self.outlet.position is not None
        self.epoch = self.outlet.position.epoch

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.turn.begin(START)
            self.outlet.increment(1, "verified", '{"px":1,"qty":1,"side":"buy","trade_id":1}')
            self.outflow.flush()

    def ask(self, seq: int, max_bytes: int = 0, *, or_oldest: bool = False) -> tuple[Reply | Unavailable, list[int]]:
        """The answer, and the seqs of its frames."""
        request = RetransmitRequest(*TRADES, self.epoch, seq, max_bytes, or_oldest)
        reply, frames = self.outflow.retransmit(request, {TRADES: self.outlet})
        return reply, [unpack(frame).header.first_seq for frame in frames]


@contextmanager
def desk(ring_bytes: int = 1_000_000) -> Iterator[Desk]:
    with Transport() as transport:
        yield Desk(transport, ring_bytes)


def test_a_piece_ends_with_the_frame_that_fills_it_and_says_that_there_is_more() -> None:
    async def scenario() -> None:
        with desk() as here:
            here.publish(20)
            reply, seqs = here.ask(3, max_bytes=1)
            assert (reply, seqs) == (Reply(more=True), [4])
            reply, some = here.ask(3, max_bytes=4000)
            assert reply == Reply(more=True)
            assert some == list(range(4, 4 + len(some)))
            reply, rest = here.ask(some[-1])
            assert (reply, rest) == (Reply(), list(range(some[-1] + 1, 21)))
            assert here.ask(19, max_bytes=1) == (Reply(), [20])
            assert here.ask(20, max_bytes=1) == (Reply(), [])

    run(scenario())


def test_where_the_first_are_gone_the_oldest_that_are_left_come_to_who_wants_these() -> None:
    async def scenario() -> None:
        with desk(ring_bytes=10_000) as here:
            here.publish(60)
            reply, _ = here.ask(2)
            assert isinstance(reply, Unavailable)
            reply, seqs = here.ask(2, or_oldest=True)
            assert reply == Reply()
            assert 2 < seqs[0] < 60
            assert seqs == list(range(seqs[0], 61))
            assert here.ask(58, or_oldest=True) == (Reply(), [59, 60]), "all of it is there"
            reply, first = here.ask(2, max_bytes=1, or_oldest=True)
            assert (reply, first) == (Reply(more=True), seqs[:1])
            reply, _ = here.ask(99, or_oldest=True)
            assert isinstance(reply, Unavailable)

    run(scenario())
