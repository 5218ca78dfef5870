"""A NATS server with its WebSocket listener: one subject, each client subscribed, one publisher over plain TCP.

As it comes, without TLS and compression. It puts many messages into one WebSocket frame under load, which is what makes
it fast, and uses as many cores as it finds. Its deliveries are counted as bytes by the size of a `MSG` line, subject,
payload and line ends: the frames' headers, of which there is one for many messages, are counted with them, in its
favour. The publisher writes up to 64 messages at once.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from loadgen.bench.audience import Audience, Party, masked, upgrade
from loadgen.bench.process import Program, Worker, free_port, listening
from loadgen.bench.rivals.rival import NotInstalled, Rival, Seats, publish

NAME = "NATS WebSocket"
SUBJECT = "P000-USD.ticker"
WINDOW = 4096
"""Messages ahead of the slowest client; more does not make it faster."""
_BURST = 64
_BINARY = 2
_CONNECT = {"verbose": False, "pedantic": False, "lang": "bench", "version": "1", "protocol": 1, "headers": False}


@contextmanager
def nats(audience: Audience, seats: Seats, folder: Path) -> Iterator[Rival]:
    """Start it, with its clients subscribed; NotInstalled."""
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")
    if program is None:
        raise NotInstalled("nats-server")
    port, web_port = free_port(), free_port()
    settings = folder / "nats.conf"
    settings.write_text(
        f'listen: "127.0.0.1:{port}"\nwebsocket {{ listen: "127.0.0.1:{web_port}", no_tls: true }}\n', encoding="ascii"
    )
    line = _line("MSG", f"{SUBJECT} 1", seats.message)
    subscribe = masked(f"CONNECT {json.dumps(_CONNECT)}\r\nSUB {SUBJECT} 1\r\nPING\r\n".encode(), _BINARY)
    with Program([program, "-c", str(settings)]) as server:
        server.until(lambda: listening(port) and listening(web_port), "nats-server to listen")
        hello = upgrade("/", web_port)
        audience.join(Party(web_port, seats.slots.start, hello, (subscribe,) * seats.clients))
        with Worker(_publish, seats, port, len(line)) as publisher:
            yield Rival(NAME, seats, len(line), publisher, server.pid)


def _line(verb: str, what: str, message: bytes) -> bytes:
    return f"{verb} {what} {len(message)}\r\n".encode() + message + b"\r\n"


def _publish(control: Connection, seats: Seats, port: int, each: int) -> None:
    line = _line("PUB", SUBJECT, seats.message)
    many = line * _BURST
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(f"CONNECT {json.dumps(_CONNECT)}\r\n".encode())
        publish(control, seats, each, WINDOW, _BURST, lambda count: server.sendall(many[: count * len(line)]))
