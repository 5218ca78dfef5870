"""One client of a load: it joins, behaves as planned, and comes back when it is sent away."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from random import Random

from loadgen.client.checker import Checker
from loadgen.client.latency import Histogram
from loadgen.client.wire import ResumePosition, Subscribe, encode
from loadgen.load.config import BACKLOGGED, Behaviour, LoadConfig
from loadgen.load.counts import Group
from loadgen.load.ledger import Ledger
from loadgen.load.offences import half_a_handshake, offend
from loadgen.load.plan import ClientPlan
from loadgen.load.readers import CheckingReader, CountingReader
from loadgen.load.sampler import Sampler
from loadgen.load.sequence import SequenceChecker
from loadgen.load.upgrade import NotConnected
from loadgen.load.wire import Options, Wire, connect, shared_buffer

_PRODUCTS_A_REQUEST = 200
_RESUMES_A_REQUEST = 100
_PAUSE_S = 1.0
_MAX_AWAY_S = 0.5
_SMALL_BUFFER_BYTES = 64 * 1024
_MAX_REFUSALS_TOLD = 5
_MAX_CONNECTING = 500


class Floor:
    """What the clients of a process share."""

    def __init__(self, config: LoadConfig, streams: int) -> None:
        self.config = config
        self.buffer = shared_buffer()
        self.sampler = Sampler(config.seed)
        self.ledger = Ledger(streams)
        self.groups: dict[Behaviour, Group] = {}
        self.measuring = asyncio.Event()
        self.connecting = asyncio.Semaphore(_MAX_CONNECTING)
        self.connect = Histogram()
        self.first = Histogram()
        self.join = Histogram()
        self.rejoin = Histogram()
        self.refusals: list[str] = []
        self.all_settled = asyncio.Event()
        """Set when every client has joined, or never will."""
        self._unsettled = 0

    def expect(self, clients: int) -> None:
        """So many will settle."""
        self._unsettled = clients
        if not clients:
            self.all_settled.set()

    def settled(self) -> None:
        """One has."""
        self._unsettled -= 1
        if not self._unsettled:
            self.all_settled.set()

    def group(self, behaviour: Behaviour) -> Group:
        """The clients of one behaviour."""
        return self.groups.setdefault(behaviour, Group())


class LoadClient:
    """See the module. `run` is its life; cancel it, then `close`."""

    def __init__(self, plan: ClientPlan, floor: Floor) -> None:
        self.plan = plan
        self.wire: Wire | None = None
        self.joined = False
        """True once everything that was asked for has begun."""
        self.settled = False
        """True once it has joined, or is not going to."""
        self.dropped_at = 0
        self.rejoined = False
        self.ends: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.finished: list[Checker] = []
        """Checkers of lives before, of one that comes back fresh."""
        self.checking: CheckingReader | None = None
        self._counting: CountingReader | None = None
        self._floor = floor
        self._group = floor.group(plan.behaviour)
        self._chance = Random(plan.seed)  # noqa: S311
        self._messages = 0
        self._bytes = 0
        self._lost_at = 0
        self._next_id = 0

    # What it has got -------------------------------------------------------------------------------------------

    @property
    def messages(self) -> int:
        """Increments received, over all its connections."""
        return self._messages + sum(reader.messages for reader in self._readers())

    @property
    def received_bytes(self) -> int:
        """Bytes received."""
        return self._bytes + sum(reader.received_bytes for reader in self._readers())

    @property
    def checkers(self) -> list[Checker]:
        """All its checkers."""
        return [*self.finished, self.checking.checker] if self.checking is not None else self.finished

    @property
    def errors_received(self) -> Counter[str]:
        """Error messages by code."""
        counting = self._counting.errors if self._counting is not None else Counter[str]()
        return self.errors + counting + sum((checker.error_codes for checker in self.checkers), Counter[str]())

    def measure(self) -> None:
        """From now on it counts."""
        for reader in self._readers():
            reader.measure(self._group.latencies)

    # Its life --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join, and behave, until cancelled or sent away for good."""
        behaviour = self.plan.behaviour
        if behaviour is Behaviour.UNFINISHED:
            self._settle()
            await self._never_finish()
        resuming = False
        while True:
            try:
                await self._open(resuming=resuming)
            except NotConnected as error:
                self._refused(error)
                if error.status and not self.joined:
                    return
                await asyncio.sleep(_PAUSE_S * (0.5 + self._chance.random()))
                continue
            resuming = await self._stay()
            if self.wire is None:
                return

    def drop(self) -> None:
        """Cut the connection; it comes back at once."""
        self.dropped_at = time.time_ns()
        self.rejoined = False
        if self.wire is not None:
            self.wire.cut()

    def give_up_joining(self) -> None:
        """It has waited long enough for what does not begin."""
        if self._counting is not None:
            self._counting.give_up()
        self._settle()

    async def close(self) -> None:
        """End in order."""
        if self.wire is not None:
            await self.wire.close()

    # Inside ----------------------------------------------------------------------------------------------------

    def _readers(self) -> "Sequence[CheckingReader | CountingReader]":
        return [reader for reader in (self.checking, self._counting) if reader is not None]

    def _settle(self) -> None:
        if not self.settled:
            self.settled = True
            self._floor.settled()

    def _refused(self, error: NotConnected) -> None:
        why = str(error.status) if error.status else "no connection"
        self._group.refused[why] += 1
        if len(self._floor.refusals) < _MAX_REFUSALS_TOLD and str(error) not in self._floor.refusals:
            self._floor.refusals.append(str(error))
        self._settle()

    async def _open(self, *, resuming: bool) -> None:
        """Connect and subscribe; NotConnected."""
        floor, behaviour = self._floor, self.plan.behaviour
        reader = self._reader(resuming=resuming)
        options = Options(
            source=self.plan.source,
            receive_buffer_bytes=_SMALL_BUFFER_BYTES if behaviour in BACKLOGGED else 0,
            buffer=floor.buffer,
        )
        async with floor.connecting:
            began = time.monotonic_ns()
            self.wire = wire = await connect(floor.config.url, reader, options)
        floor.connect.record(time.monotonic_ns() - began)
        self._group.connections += 1
        if behaviour is Behaviour.IDLE:
            self._settle()
            return
        if isinstance(reader, CheckingReader):
            reader.checker.connected(time.time_ns())
            reader.ask(resuming=resuming)
        else:
            reader.ask(self.plan.products, floor.config.channels)
        for request in self._requests(resuming=resuming):
            if isinstance(reader, CheckingReader):
                reader.checker.requested(request, time.time_ns())
            wire.send(encode(request))

    def _reader(self, *, resuming: bool) -> CheckingReader | CountingReader:
        floor, group = self._floor, self._group
        if resuming and self.checking is not None:
            return self.checking
        for reader in self._readers():
            self._messages += reader.messages
            self._bytes += reader.received_bytes
            self.errors += reader.errors
        latencies = group.latencies if floor.measuring.is_set() else group.joining
        if not self.plan.checked and not self.plan.full:
            self._counting = CountingReader(floor.sampler, latencies, self._on_joined)
            return self._counting
        if self.checking is not None:
            self.finished.append(self.checking.checker)
        heartbeat_ns = int(floor.config.heartbeat_s * 1e9)
        checker: Checker
        if self.plan.full:
            checker = Checker(keep_trades=1000, heartbeat_interval_ns=heartbeat_ns)
        else:
            checker = SequenceChecker(floor.ledger, heartbeat_interval_ns=heartbeat_ns)
        ledger = floor.ledger if self.plan.full else None
        self.checking = CheckingReader(checker, floor.sampler, latencies, self._on_joined, ledger=ledger)
        return self.checking

    def _requests(self, *, resuming: bool) -> list[Subscribe]:
        config, products = self._floor.config, self.plan.products
        held: dict[str, dict[str, ResumePosition]] = {}
        size = _PRODUCTS_A_REQUEST
        if resuming and self.checking is not None:
            held = self.checking.checker.resume_positions()
            size = max(1, _RESUMES_A_REQUEST // len(config.channels))
        requests = []
        for start in range(0, len(products), size):
            some = products[start : start + size]
            self._next_id += 1
            requests.append(
                Subscribe(
                    id=self._next_id,
                    products=list(some),
                    channels=list(config.channels),
                    from_seq={product: dict(held[product]) for product in some if product in held},
                    conflate_ms=config.conflate_ms,
                )
            )
        return requests

    def _on_joined(self) -> None:
        floor = self._floor
        asked = next(reader.asked for reader in self._readers() if reader.asked.joined_at)
        if self._lost_at:
            floor.rejoin.record(asked.joined_at - self._lost_at)
            self.rejoined = True
            self._lost_at = 0
        elif not self.joined and asked.first_at:
            floor.first.record(asked.first_at - asked.asked_at)
            floor.join.record(asked.joined_at - asked.asked_at)
        self.joined = True
        self._settle()

    async def _stay(self) -> bool:
        """Behave until the connection is over; whether the next one resumes. `wire` is None if there is none."""
        wire, behaviour = self.wire, self.plan.behaviour
        assert wire is not None
        flapping = behaviour is Behaviour.FLAPPING
        doing = asyncio.ensure_future(self._behave(wire))
        try:
            end = await wire.wait_ended()
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        if self.checking is not None:
            self.checking.checker.disconnected()
        if not end.ours:
            self.ends[end.code] += 1
            self._group.closes[str(end.code)] += 1
            if behaviour in BACKLOGGED:
                self._settle()
                self.wire = None
                return False
        if flapping and not self.dropped_at:
            await asyncio.sleep(_MAX_AWAY_S * self._chance.random())
        elif not end.ours:
            await asyncio.sleep(_PAUSE_S * (0.5 + self._chance.random()))
        self._lost_at = time.time_ns()
        fresh = flapping and (how := self._floor.config.flap) != "resume"
        return self.checking is not None and not (fresh and (how == "fresh" or self._chance.random() < 0.5))

    async def _behave(self, wire: Wire) -> None:
        behaviour, floor = self.plan.behaviour, self._floor
        if behaviour is Behaviour.IDLE:
            return
        await floor.measuring.wait()
        match behaviour:
            case Behaviour.STALLED:
                wire.pause()
            case Behaviour.FLAPPING:
                await asyncio.sleep(floor.config.flap_every_s * (0.5 + self._chance.random()))
                wire.cut()
            case Behaviour.GOOD | Behaviour.SLOW:
                pass
            case _:
                await offend(behaviour, wire, self._chance)

    async def _never_finish(self) -> None:
        while True:
            try:
                self._group.connections += 1
                await half_a_handshake(self._floor.config.url)
                self._group.closes["unfinished"] += 1
            except OSError:
                self._group.refused["no connection"] += 1
            await asyncio.sleep(_PAUSE_S * self._chance.random())
