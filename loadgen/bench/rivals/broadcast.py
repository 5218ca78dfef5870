"""`websockets.broadcast`: what the same language and library offer for the purpose, on the same loop (uvloop).

The message is encoded ahead (bytes, sent as text), compression and pings are off. `broadcast` frames and writes once a
client and message; it buffers without a bound, so it is paced by the clients.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.asyncio.server import broadcast as send_to_all

from loadgen.bench.audience import Audience, Party, upgrade
from loadgen.bench.counters import Counters, Pace
from loadgen.bench.process import Worker
from loadgen.bench.rivals.rival import PAUSE_S, Rival, Seats

NAME = "websockets.broadcast"
WINDOW = 256
"""Messages ahead of the slowest client: some 20 turns."""
FRAME_HEADER_BYTES = 4
_A_TURN = 8


@contextmanager
def broadcast(audience: Audience, seats: Seats) -> Iterator[Rival]:
    """Start it, with its clients connected."""
    with Worker(_run, seats) as worker:
        port = worker.ask("port")
        audience.join(Party(port, seats.slots.start, upgrade("/", port), (b"",) * seats.clients))
        yield Rival(NAME, seats, FRAME_HEADER_BYTES + len(seats.message), worker, worker.pid)


def _run(control: Connection, seats: Seats) -> None:
    uvloop.run(_serve(control, seats))


async def _serve(control: Connection, seats: Seats) -> None:
    connections: set[ServerConnection] = set()
    each = FRAME_HEADER_BYTES + len(seats.message)
    pace: Pace | None = None
    over = asyncio.Event()
    going = asyncio.Event()

    async def keep(connection: ServerConnection) -> None:
        connections.add(connection)
        await connection.wait_closed()

    def obey() -> None:
        nonlocal pace
        try:
            (request,) = control.recv()
        except (EOFError, ConnectionResetError):
            over.set()
            going.set()
            return
        if request == "publish":
            pace = Pace(received, each, WINDOW)
            going.set()
        elif request == "rest":
            going.clear()
        control.send(port)

    with Counters(seats.counters) as counters, counters.values[seats.slots] as received:
        async with serve(keep, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            asyncio.get_running_loop().add_reader(control.fileno(), obey)
            while not over.is_set():
                await going.wait()
                room = 0 if pace is None else min(pace.room(), _A_TURN)
                for _ in range(room):
                    send_to_all(connections, seats.message, text=True)
                if pace is not None and room > 0:
                    pace.sent += room
                await asyncio.sleep(0 if room > 0 else PAUSE_S)
            asyncio.get_running_loop().remove_reader(control.fileno())
            for connection in connections:
                connection.transport.abort()
