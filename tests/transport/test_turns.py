"""What one turn of the loop takes from a socket is bounded in bytes."""

from lfmesh.transport import Puller, Pusher, Transport
from tests.aio import eventually, run

BOUNDS = {"hwm": 1000, "turn_bytes": 250}


def test_a_puller_hands_over_about_as_much_as_it_was_told_to() -> None:
    async def scenario() -> None:
        taken: list[list[int]] = []
        with Transport() as transport:
            puller = Puller(transport, "tcp://127.0.0.1:0", lambda frames: taken.append([*map(len, frames)]), **BOUNDS)
            pusher = Pusher(transport, puller.endpoint, hwm=1000)
            await eventually(lambda: pusher.push(b"first"))
            for _ in range(100):
                pusher.push(b"x" * 100)
            pusher.push(b"x" * 5000)
            await eventually(lambda: sum(map(len, taken)) == 102)
            assert max(map(sum, taken)) >= 5000, "one that is larger comes whole"
            assert all(sum(sizes[:-1]) < 250 for sizes in taken)
            assert puller.counters.bytes == 5 + 100 * 100 + 5000

    run(scenario())
