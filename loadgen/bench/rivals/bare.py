"""The limit: one process that does nothing but write 64 KB to each of its sockets, again and again.

A loop of blocking `send` calls: a slow client holds it up, which here nobody is. Nobody who writes to sockets one by
one from one process can be much faster, but by larger writes, which the gateway makes where it has them.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from loadgen.bench.audience import Audience, Party
from loadgen.bench.process import Worker
from loadgen.bench.rivals.rival import Rival, Seats

NAME = "bare 64 KB writes"
WRITE_BYTES = 64 * 1024
FRAME_HEADER_BYTES = 4


@contextmanager
def bare(audience: Audience, seats: Seats) -> Iterator[Rival]:
    """Start it, with its clients connected."""
    with Worker(_writes, seats.message) as worker:
        port = worker.ask("port")
        audience.join(Party(port, seats.slots.start, b"", (b"",) * seats.clients))
        worker.ask("accept", seats.clients)
        yield Rival(NAME, seats, FRAME_HEADER_BYTES + len(seats.message), worker, worker.pid)


def _writes(control: Connection, message: bytes) -> None:
    frame = bytes([0x81, 126]) + len(message).to_bytes(2) + message
    written = (frame * (WRITE_BYTES // len(frame) + 1))[:WRITE_BYTES]
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        going = False
        while True:
            if not going or control.poll():
                try:
                    request, *arguments = control.recv()
                except (EOFError, ConnectionResetError):
                    return
                if request == "accept":
                    clients = [server.accept()[0] for _ in range(*arguments)]
                going = request == "publish"
                control.send(server.getsockname()[1])
            if going:
                for client in clients:
                    client.sendall(written)
