"""The clients of one process: they join, are measured, settle, and end.

async with Swarm(config, process) as swarm:
    await swarm.join()
    swarm.measure()
    await ...                       the time of the run
    counts = await swarm.end()
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

from loadgen.load.client import Floor, LoadClient
from loadgen.load.config import BACKLOGGED, SILENT, Behaviour, LoadConfig, Outcome, Progress
from loadgen.load.counts import Counts, GroupCounts, Spread, add
from loadgen.load.plan import plan
from loadgen.load.proc import Usage, own

_TICK_S = 0.25
_PACE_S = 1.0
_FIRST_PACE_BYTES_PER_S = 20_000.0
_CLOSE_AT_ONCE = 500
_MAX_TOLD = 20


class Swarm:
    """See the module. `config.products` must be known."""

    def __init__(self, config: LoadConfig, process: int = 0) -> None:
        self.config = config
        plans = plan(config, process)
        streams = len({product for one in plans for product in one.products}) * len(config.channels)
        self._floor = Floor(config, streams)
        self._clients = [LoadClient(one, self._floor) for one in plans]
        self._floor.expect(len(plans))
        self._running: list[asyncio.Task[None]] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._before: list[tuple[int, int]] = []
        self._measured_at = 0.0
        self._usage = Usage(0.0, 0)
        self._dropped = 0
        self._failure: BaseException | None = None
        """What no client should have met: a fault of ours."""
        self._good_bytes = 0

    async def __aenter__(self) -> Self:
        self._tick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        limit = asyncio.Semaphore(_CLOSE_AT_ONCE)

        async def close(client: LoadClient) -> None:
            async with limit:
                await client.close()

        await asyncio.gather(*(close(client) for client in self._clients))
        if self._failure is not None and error is None:
            raise self._failure

    # The run ---------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Begin all clients at their rate, and wait until all have joined, or it takes too long."""
        config, loop = self.config, asyncio.get_running_loop()
        began = loop.time()
        for client in self._clients:
            if config.join_rate:
                await _until(began + client.plan.number / config.join_rate)
            task = asyncio.create_task(client.run())
            task.add_done_callback(self._ended)
            self._running.append(task)
        with suppress(TimeoutError):
            async with asyncio.timeout(config.join_timeout_s):
                await self._floor.all_settled.wait()
        for client in self._clients:
            client.give_up_joining()

    def measure(self) -> None:
        """All behave as planned from now on, and what comes is counted."""
        self._measured_at = time.monotonic()
        self._before = [(client.messages, client.received_bytes) for client in self._clients]
        self._usage = own()
        self._good_bytes = self._bytes_of_the_good()
        self._floor.measuring.set()
        for client in self._clients:
            client.measure()
        loop = asyncio.get_running_loop()
        for client in self._of(Behaviour.SLOW):
            if client.wire is not None:
                client.wire.pace(self.config.slow_bytes_per_s or _FIRST_PACE_BYTES_PER_S)
        if not self.config.slow_bytes_per_s:
            self._timers.append(loop.call_later(_PACE_S, self._pace))
        if self.config.drop_all_after_s:
            self._timers.append(loop.call_later(self.config.drop_all_after_s, self._drop_all))

    async def end(self) -> list[Counts]:
        """Stop counting, let slow and stalled clients read what waits for them, and sum up."""
        counts = self._counted()
        for timer in self._timers[1:]:
            timer.cancel()
        await self._settle()
        for client in self._of(*BACKLOGGED):
            name = str(_outcome(client))
            outcomes = counts.groups[str(client.plan.behaviour)].outcomes
            outcomes[name] = outcomes.get(name, 0) + 1
        self._add_checks(counts)
        return [counts]

    def progress(self) -> Progress:
        """How far it is."""
        clients = self._clients
        return Progress(
            clients=len(clients),
            settled=sum(client.settled for client in clients),
            joined=sum(client.joined for client in clients),
            connected=sum(client.wire is not None and client.wire.end is None for client in clients),
            messages=sum(client.messages for client in clients),
            bytes=sum(client.received_bytes for client in clients),
            violations=sum(checker.violations.total for client in clients for checker in client.checkers),
        )

    @property
    def refusals(self) -> list[str]:
        """The first reasons why connections could not be made."""
        return self._floor.refusals

    # Inside ----------------------------------------------------------------------------------------------------

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
            self._floor.all_settled.set()

    def _of(self, *behaviours: Behaviour) -> list[LoadClient]:
        return [client for client in self._clients if client.plan.behaviour in behaviours]

    def _tick(self) -> None:
        now = time.time_ns()
        for client in self._clients:
            if client.checking is not None and client.plan.behaviour not in BACKLOGGED:
                client.checking.checker.tick(now)
        self._timers[:1] = [asyncio.get_running_loop().call_later(_TICK_S, self._tick)]

    def _bytes_of_the_good(self) -> int:
        return sum(client.received_bytes for client in self._of(Behaviour.GOOD))

    def _pace(self) -> None:
        """Slow clients read a share of what good ones have got in the last second."""
        got, good = self._bytes_of_the_good(), max(1, len(self._of(Behaviour.GOOD)))
        each = (got - self._good_bytes) / good / _PACE_S * self.config.slow_ratio
        self._good_bytes = got
        for client in self._of(Behaviour.SLOW):
            if client.wire is not None and each >= 1:
                client.wire.pace(each)
        self._timers.append(asyncio.get_running_loop().call_later(_PACE_S, self._pace))

    def _drop_all(self) -> None:
        for client in self._clients:
            if client.plan.behaviour not in SILENT and client.wire is not None:
                self._dropped += 1
                client.drop()

    async def _settle(self) -> None:
        waiting = [client for client in self._of(*BACKLOGGED) if client.wire is not None]
        for client in waiting:
            if client.wire is not None and client.checking is not None:
                client.checking.watch()
                client.wire.pace(0)
                client.wire.resume()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.settle_s
        asked = False
        while waiting and loop.time() < deadline:
            waiting = [client for client in waiting if not _has_settled(client)]
            if not asked and loop.time() > deadline - self.config.settle_s / 2:
                asked = True
                for client in waiting:
                    # A connection that the system has given up on the other side ends when something is sent.
                    if client.wire is not None:
                        client.wire.ping()
            if waiting:
                await asyncio.sleep(_TICK_S / 5)

    def _counted(self) -> Counts:
        floor, usage = self._floor, own()
        counts = Counts(
            duration_s=time.monotonic() - self._measured_at,
            connect=Spread.of(floor.connect),
            first=Spread.of(floor.first),
            join=Spread.of(floor.join),
            rejoin=Spread.of(floor.rejoin),
            dropped=self._dropped,
            rejoined=sum(client.rejoined for client in self._clients if client.dropped_at),
            refused_by=list(floor.refusals),
            cpu_s=usage.cpu_s - self._usage.cpu_s,
            rss_bytes=usage.rss_bytes,
        )
        for client, (messages, received) in zip(self._clients, self._before, strict=True):
            group = counts.groups.setdefault(str(client.plan.behaviour), GroupCounts())
            group.clients += 1
            group.joined += client.joined
            group.deliveries += client.messages - messages
            group.bytes += client.received_bytes - received
        for behaviour, live in floor.groups.items():
            group = counts.groups[str(behaviour)]
            group.connections, group.refused = live.connections, dict(live.refused)
            group.closes = dict(live.closes)
            group.ingest, group.publish = Spread.of(live.latencies.ingest), Spread.of(live.latencies.publish)
        return counts

    def _add_checks(self, counts: Counts) -> None:
        """What the checkers found, and the errors that were sent."""
        ledger = self._floor.ledger
        counts.compared, counts.differing = ledger.compared, ledger.differing
        counts.differences, counts.told = ledger.examples, ledger.told
        for behaviour, live in self._floor.groups.items():
            counts.groups[str(behaviour)].closes = dict(live.closes)
        for client in self._clients:
            add(counts.errors, client.errors_received)
            if client.checking is not None and client.messages:
                counts.checked += 1
                counts.checked_messages += client.messages
            for checker in client.checkers:
                add(counts.violations, {str(kind): count for kind, count in checker.violations.counts.items()})
                room = _MAX_TOLD - len(counts.first_violations)
                counts.first_violations += [
                    f"client {client.plan.number} ({client.plan.behaviour}): {found}"
                    for found in checker.violations.first[:room]
                ]
                add(counts.statuses, Counter(status.state for status in checker.statuses))
                counts.trades_missing += sum(last - first + 1 for _, first, last in checker.declared_gaps())
                for _, stream in checker.streams():
                    add(counts.snapshots, stream.reasons)
                    counts.merged += stream.conflated


async def _until(moment: float) -> None:
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


def _has_settled(client: LoadClient) -> bool:
    return client.wire is None or client.checking is None or client.checking.caught_up


def _outcome(client: LoadClient) -> Outcome:
    """What became of a slow or stalled client."""
    if any(checker.violations for checker in client.checkers):
        return Outcome.VIOLATED
    if client.ends:
        return Outcome.CLOSED
    if not client.joined:
        return Outcome.NEVER_JOINED
    if client.checking is None or not client.checking.caught_up:
        return Outcome.BEHIND
    reasons = Counter[str]()
    for checker in client.checkers:
        for _, stream in checker.streams():
            reasons += stream.reasons
    return Outcome.CONFLATED if reasons["conflated"] else Outcome.KEPT_UP
