"""Slow clients beside good ones: 1,000 clients, of which 50 take nothing and 50 a tenth of what they should.

    python -m loadgen.bench.slow_clients [--turns 3]

The 900 others follow four of 40 products each, the 100 all of them, at 500 whole ticks a second. The sockets of the
100 have segments as on an Ethernet and small receive buffers: over loopback the kernel alone would else hold 2.6 MB of
each. In turns: a spell without the 100 (they follow nothing), one in which they read as well as everybody, and one in
which they are slow, from when as many of them as are stalled have been conflated. Compared is the latency of the
others' messages from the publisher to their read: with slow ones, to the spell without them of the same turn. After it
they read on; by the end of all turns each of the 100 was told that it had been conflated, or closed; some check that
every stream goes on with a snapshot and has no hole after it.
"""

import select
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import click

from loadgen.bench.audience import Audience, Party, masked, response, subscriptions, upgrade
from loadgen.bench.connections import raise_file_limit
from loadgen.bench.counters import Counters
from loadgen.bench.driver import Neighbours, Plan
from loadgen.bench.gateway import Gateway, gateway
from loadgen.bench.process import BenchmarkFailed, Worker, median, until
from loadgen.bench.table import Goal, Row, show
from loadgen.bench.ticks import WHOLE, products, tick
from loadgen.bench.watches import Conflations, Frames, Latencies
from loadgen.client.latency import Histogram

OTHERS = 900
STALLED = 50
TENTH = 50
PRODUCTS = 40
RATE = 500.0
OF_EACH = 4
GOAL = 1.1
SPELL_S = 2.0
_SETTLE_S = 0.5
_SLOW_EVERY_S = 0.05
_SLICES = 10
"""They take turns within it: fifty that read at once would hold up a core, and so the others, by themselves."""
_BUFFER_BYTES = 1 << 18
_SEGMENT_BYTES = 1448
_RECEIVE_BYTES = 64 * 1024
_UNSUBSCRIBE = masked(b'{"op":"unsubscribe"}')


class Found(NamedTuple):
    """The others' latencies in each turn's spells, the gateway's memory (bytes), how many slow clients were told."""

    without: list[Histogram]
    calm: list[Histogram]
    troubled: list[Histogram]
    rss_without: int
    rss_troubled: int
    told: int
    closed: int


def measure(turns: int) -> Found:
    """Calm and troubled spells in turns."""
    raise_file_limit()
    names = products(PRODUCTS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lfmesh-bench-")))
        counters = stack.enter_context(Counters(folder / "counters", OTHERS))
        others = stack.enter_context(Audience(counters.path))
        mesh = stack.enter_context(Neighbours(folder, counters.path, names))
        process = stack.enter_context(gateway(mesh.peers(), names))
        hello = upgrade("/ws", process.port)
        asked = subscriptions([_four(names, number) for number in range(OTHERS)])
        others.join(Party(process.port, 0, hello, asked, Latencies, 3))
        slow = stack.enter_context(
            Worker(_slow_clients, process.port, subscriptions([names] * (STALLED + TENTH), want_snapshot=True))
        )
        until(lambda: process.figures()["clients"] == OTHERS + STALLED + TENTH, "all clients")
        mesh.start(Plan(kind=WHOLE, rate=RATE))
        without: list[Histogram] = []
        calm: list[Histogram] = []
        troubled: list[Histogram] = []
        rss_without = rss_troubled = 0
        followed, wanted = OTHERS * OF_EACH, OTHERS * OF_EACH + (STALLED + TENTH) * PRODUCTS
        for _ in range(turns):
            slow.ask("away")
            until(lambda: process.figures()["subscriptions"] == followed, "the slow ones to be away")
            without.append(_spell(others))
            rss_without = max(rss_without, process.rss())
            slow.ask("calm")
            until(lambda: process.figures()["subscriptions"] == wanted, "the slow ones to be back")
            calm.append(_spell(others))
            before = process.figures()
            slow.ask("trouble")
            until(lambda before=before: _dealt_with(process, before) >= STALLED, "stalled clients to be conflated")  # type: ignore[misc]
            troubled.append(_spell(others))
            rss_troubled = max(rss_troubled, process.rss())
            slow.ask("calm")
            until(lambda: process.figures()["conflating"] == 0, "slow clients to be live again")
        mesh.rest()
        told, closed, faults = slow.ask("findings")
        mesh.check()
        faults += others.faults()
        if faults:
            raise BenchmarkFailed(faults[0])
    return Found(without, calm, troubled, rss_without, rss_troubled, told, closed)


def _four(names: Sequence[str], number: int) -> list[str]:
    return [names[(number + step) % PRODUCTS] for step in range(0, PRODUCTS, PRODUCTS // OF_EACH)]


def _dealt_with(process: Gateway, before: dict[str, float]) -> float:
    """Clients that are conflated now, or were closed since."""
    now = process.figures()
    return now["conflating"] + now["slow_closed_total"] - before["slow_closed_total"]


def _spell(others: Audience) -> Histogram:
    time.sleep(_SETTLE_S)
    others.latencies()
    time.sleep(SPELL_S)
    return others.latencies()


def _ms(spell: Histogram, share: float) -> float:
    found = spell.percentile(share)
    if not found:
        raise BenchmarkFailed("the others got nothing")
    return found / 1e6


def run(turns: int = 5) -> list[Row]:
    """Rows for the table of all benchmarks."""
    found = measure(turns)
    slow = STALLED + TENTH
    rows = []
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        without, calm, troubled = (
            [_ms(spell, share) for spell in spells] for spells in (found.without, found.calm, found.troubled)
        )
        ratio = median(one / two for one, two in zip(troubled, without, strict=True))
        rows.append(
            Row(
                f"slow.{name}", f"{OTHERS} clients beside {STALLED} stalled and {TENTH} at a tenth: latency {name}",
                median(troubled), "ms", ratio, f"without these, {median(without):.2f} ms",
                Goal(GOAL, "ratio", "less") if name == "p99" else None, "less",
                f"with these reading well, {median(calm):.2f} ms",
            )
        )  # fmt: skip
    return [
        *rows,
        Row(
            "slow.rss", "… the gateway's memory", found.rss_troubled / 1e6, "MB",
            found.rss_troubled / found.rss_without, f"without these, {found.rss_without / 1e6:.0f} MB",
            Goal(512.0, better="less"), "less",
        ),
        Row(
            "slow.told", f"… of {slow} slow ones told that they were conflated, or closed with 4001",
            float(found.told + found.closed), "clients", goal=Goal(float(slow)), note=f"{found.closed} closed",
        ),
    ]  # fmt: skip


# The slow ones --------------------------------------------------------------------------------------------------------


class _Slow:
    """A client; when there is trouble, `allowance` bytes at a time are all it reads."""

    def __init__(self, port: int, request: bytes, allowance: int, *, watched: bool) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(upgrade("/ws", port))
        self.allowance = allowance
        self.request = request
        self.told = Conflations()
        self.frames = Frames() if watched else None
        self.closed = False
        self._take(response(self.socket))
        self.socket.sendall(request)
        self.socket.setblocking(False)

    def ask(self, request: bytes) -> None:
        """Send a request; it is small, and what is sent is read by the other side, so it does not wait."""
        if not self.closed:
            self.socket.sendall(request)

    def read(self, size: int) -> None:
        """Read at most so much."""
        if self.closed:
            return
        try:
            got = self.socket.recv(size)
        except BlockingIOError:
            return
        if got:
            self._take(got)
        else:
            self.closed = True

    def _take(self, got: bytes) -> None:
        self.told.take(got, 0)
        if self.frames is not None:
            self.frames.take(got, 0)


class _SlowOnes:
    """All of them, and how they are to behave: "calm", "away" or "trouble"."""

    def __init__(self, port: int, wanted: Sequence[bytes]) -> None:
        tenth = round(RATE * len(tick("P000-USD", kind=WHOLE)) / 10 * _SLOW_EVERY_S)
        self._clients = [
            _Slow(port, request, 0 if number < STALLED else tenth, watched=number % 10 == 0)
            for number, request in enumerate(wanted)
        ]
        self._by_descriptor = {client.socket.fileno(): client for client in self._clients}
        self._poll = select.epoll()
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.EPOLLIN)
        self.mood = "calm"
        self._slice = 0

    def behave(self, mood: str) -> None:
        """From now on."""
        if mood == "away" or self.mood == "away":
            for client in self._clients:
                client.ask(_UNSUBSCRIBE if mood == "away" else client.request)
        self.mood = mood

    def findings(self) -> tuple[int, int, list[str]]:
        """How many were told, how many were closed, and what was wrong since the last call."""
        told = sum(bool(client.told.at) for client in self._clients if not client.closed)
        closed = sum(client.closed for client in self._clients)
        return (
            told,
            closed,
            [fault for client in self._clients if client.frames is not None for fault in client.frames.take_faults()],
        )

    def read(self) -> None:
        """Read what there is, or in trouble what each one may."""
        if self.mood == "trouble":
            self._slice = (self._slice + 1) % _SLICES
            for client in self._clients[self._slice :: _SLICES]:
                if client.allowance:
                    client.read(client.allowance)
            return
        for descriptor, _ in self._poll.poll(_SLOW_EVERY_S):
            client = self._by_descriptor[descriptor]
            client.read(_BUFFER_BYTES)
            if client.closed:
                self._poll.unregister(descriptor)


def _slow_clients(control: Connection, port: int, wanted: Sequence[bytes]) -> None:
    ones = _SlowOnes(port, wanted)
    while True:
        while not control.poll(_SLOW_EVERY_S / _SLICES if ones.mood == "trouble" else 0):
            ones.read()
        try:
            (request,) = control.recv()
        except (EOFError, ConnectionResetError):
            return
        if request != "findings":
            ones.behave(request)
        control.send(ones.findings() if request == "findings" else request)


@click.command()
@click.option("--turns", default=5, show_default=True, help="Calm and troubled spells.")
def main(turns: int) -> None:
    """Measure what slow clients cost the others."""
    show(run(turns))


if __name__ == "__main__":
    main()
