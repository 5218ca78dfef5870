"""Clients that count: one process with any number of sockets, which takes everything and hardly looks at it.

Each socket's bytes are added up in a counter that others read (`counters.py`); where all messages have one size, bytes
are messages. Some sockets of a party are watched more closely (`watches.py`): that a watched client got every number,
and all clients equally many bytes, shows that what was counted was delivered. The same readers are used for every
server that is compared.
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from loadgen.bench.counters import Counters
from loadgen.bench.process import Worker
from loadgen.bench.watches import Frames, Latencies, Snapshots, Watch
from loadgen.client.latency import Histogram

_BUFFER_BYTES = 1 << 20
_RESPONSE_BYTES = 4096
_CONNECT_S = 20.0


class Party(NamedTuple):
    """Clients of one server. Each sends `hello`, reads an HTTP response (none without a hello), sends its request.

    `slot`: the first one's place in the counters; the others follow. `watch`: how some of them are watched, the first
    and then each `each_nth` (0: the first alone). Requests wait for `ask` where they are not to be sent at once.
    """

    port: int
    slot: int
    hello: bytes
    requests: tuple[bytes, ...]
    watch: type[Watch] | None = None
    each_nth: int = 0
    at_once: bool = True


class Audience:
    """The process; see the module's docstring."""

    def __init__(self, counters: Path) -> None:
        self._worker = Worker(_listen, counters)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._worker.pid

    def join(self, party: Party) -> None:
        """Connect them all, and send their requests."""
        self._worker.ask("join", party)

    def leave(self) -> None:
        """Cut all connections."""
        self._worker.ask("leave")

    def ask(self) -> None:
        """Send the requests that wait, all at once."""
        self._worker.ask("ask")

    def faults(self) -> list[str]:
        """What was wrong with the messages of clients watched by `Frames` since the last call, and lost connections."""
        found: list[str] = self._worker.ask("faults")
        return found

    def latencies(self) -> Histogram:
        """Those of clients watched by `Latencies` since the last call."""
        found: Histogram = self._worker.ask("latencies")
        return found

    def snapshots(self, each: int) -> tuple[list[float], list[float]]:
        """When clients watched by `Snapshots` had their first one, and when `each`: seconds since `ask`, sorted."""
        first, last = self._worker.ask("snapshots", each)
        return first, last

    def end(self) -> None:
        """End the process."""
        self._worker.end()

    def __enter__(self) -> "Audience":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def upgrade(path: str, port: int) -> bytes:
    """A WebSocket opening handshake (RFC 6455, section 4.1)."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked(message: bytes, opcode: int = 1) -> bytes:
    """A client's frame; a mask of zeros is one (RFC 6455, section 5.3)."""
    size = len(message)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([0x80 | opcode]) + length + bytes(4) + message


class _Crowd:
    """What is in the process."""

    def __init__(self, counters: Path) -> None:
        self.poll = select.epoll()
        self.counters = Counters(counters)
        self.sockets: dict[int, socket.socket] = {}
        self.slots: dict[int, int] = {}
        self.watched: dict[int, Watch] = {}
        self._waiting: list[tuple[socket.socket, bytes]] = []
        self._asked_at = 0
        self._lost = 0

    def join(self, party: Party) -> None:
        joined = [socket.create_connection(("127.0.0.1", party.port), _CONNECT_S) for _ in party.requests]
        for one in joined:
            one.sendall(party.hello)
        for number, (one, request) in enumerate(zip(joined, party.requests, strict=True)):
            slot, descriptor = party.slot + number, one.fileno()
            rest = response(one) if party.hello else b""
            self.sockets[descriptor], self.slots[descriptor] = one, slot
            self.counters.values[slot] += len(rest)
            if party.watch is not None and not (number % party.each_nth if party.each_nth else number):
                self.watched[descriptor] = watch = party.watch()
                watch.take(rest, time.time_ns())
            if request and party.at_once:
                one.sendall(request)
            elif request:
                self._waiting.append((one, request))
            one.setblocking(False)
            self.poll.register(descriptor, select.EPOLLIN)

    def ask(self) -> None:
        self._asked_at = time.time_ns()
        for one, request in self._waiting:
            one.sendall(request)
        self._waiting.clear()

    def leave(self) -> None:
        for descriptor, one in self.sockets.items():
            if descriptor in self.slots:
                self.poll.unregister(descriptor)
            one.close()
        for known in (self.sockets, self.slots, self.watched, self._waiting):
            known.clear()

    def drop(self, descriptor: int) -> None:
        """The server has cut this connection."""
        self.poll.unregister(descriptor)
        del self.slots[descriptor]
        self._lost += 1

    def faults(self) -> list[str]:
        found = [fault for watch in self._of(Frames) for fault in watch.take_faults()]
        if self._lost:
            found.append(f"{self._lost} connections were lost")
        self._lost = 0
        return found

    def latencies(self) -> Histogram:
        found = Histogram()
        for watch in self._of(Latencies):
            found.add(watch.seen)
            watch.seen = Histogram()
        return found

    def snapshots(self, each: int) -> tuple[list[float], list[float]]:
        arrived = [watch.at for watch in self._of(Snapshots)]
        nth = [
            sorted((at[number] - self._asked_at) / 1e9 for at in arrived if len(at) > number)
            for number in (0, each - 1)
        ]
        return nth[0], nth[1]

    def _of[W: Watch](self, kind: type[W]) -> list[W]:
        return [watch for watch in self.watched.values() if isinstance(watch, kind)]


def response(one: socket.socket) -> bytes:
    """What comes after the header of the response."""
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        piece = one.recv(_RESPONSE_BYTES)
        if not piece:
            raise ConnectionError(f"refused: {got[:80]!r}")
        got += piece
    return got[end + 4 :]


def _listen(control: Connection, counters: Path) -> None:
    crowd = _Crowd(counters)
    crowd.poll.register(control.fileno(), select.EPOLLIN)
    buffer = bytearray(_BUFFER_BYTES)
    view, values, controlled = memoryview(buffer), crowd.counters.values, control.fileno()
    sockets, slots, watched, wait, now = crowd.sockets, crowd.slots, crowd.watched, crowd.poll.poll, time.time_ns
    while True:
        for descriptor, _ in wait():
            if descriptor == controlled:
                if not _obey(control, crowd):
                    return
                continue
            try:
                size = sockets[descriptor].recv_into(buffer)
            except (BlockingIOError, KeyError):
                continue  # it has left since
            except ConnectionError:
                size = 0
            if not size:
                crowd.drop(descriptor)
                continue
            values[slots[descriptor]] += size
            if descriptor in watched:
                watched[descriptor].take(bytes(view[:size]), now())


def _obey(control: Connection, crowd: _Crowd) -> bool:
    """Carry out what is asked; False: nobody is there any more."""
    try:
        request, *arguments = control.recv()
    except (EOFError, ConnectionResetError):
        return False
    answers: dict[str, Callable[..., object]] = {
        "join": crowd.join,
        "ask": crowd.ask,
        "leave": crowd.leave,
        "faults": crowd.faults,
        "latencies": crowd.latencies,
        "snapshots": crowd.snapshots,
    }
    try:
        control.send(answers[request](*arguments))
    except OSError as error:
        control.send(error)
    return True


def subscriptions(products: Sequence[Sequence[str]], *, want_snapshot: bool = False) -> tuple[bytes, ...]:
    """A gateway's requests, one client each: the tickers of these products."""
    wanted = "" if want_snapshot else ',"want_snapshot":false'
    texts = [",".join(f'"{product}"' for product in names) for names in products]
    return tuple(masked(f'{{"op":"subscribe","products":[{text}]{wanted}}}'.encode()) for text in texts)
