"""Auditing clients: they follow a mesh through the client library, and keep everything that they were sent.

    async with Auditor(AuditConfig(urls=(url,), kind=AuditKind.RESUMING, products=products)) as auditor:
        await auditor.until_whole(30)
        ...                                    # faults
        await auditor.until_whole(30)          # TimeoutError names what is not whole
    history = auditor.history()
    history.problems()                         # [] if every promise was kept

Each client is an `lfmesh.client` feed with a strict `Checker` beside it, which sees every raw message in the order of
its arrival, over reconnections and resumes. What the client does when its connection is lost is the library's doing;
what it may rely on is the checker's judgement.

Times are ns since the Unix epoch, durations ns.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from lfmesh.client import Feed, connect
from lfmesh.types import CHANNELS, Channel, Level, Position, StreamKey
from loadgen.client.checker import Checker
from loadgen.client.run import products_of
from loadgen.client.state import Ticker, TradeLine
from loadgen.client.streams import Pause
from loadgen.client.tap import CheckerTap
from loadgen.client.violations import Kind, Violation

_POLL_S = 0.02
_GAPS = (Kind.TRADE_GAP, Kind.SEQ, Kind.EPOCH, Kind.START)
_REPEATS = (Kind.TRADE_ORDER, Kind.TRADE_ALTERED)


class AuditKind(StrEnum):
    """How a client behaves by itself."""

    STEADY = "steady"
    """Stays connected as long as it is let, and resumes by position when it is not."""
    RESUMING = "resuming"
    """Drops its connection again and again, without a goodbye, and resumes by position."""
    RESTARTING = "restarting"
    """Ends again and again, and begins from nothing: each time a new `Life`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """One client. `urls` are alternatives; no `products`: all that the first gateway lists.

    `every_s`: mean pause between two drops or restarts (from half to one and a half of it, by `seed`). `conflate_ms` is
    asked for on every stream.
    """

    urls: tuple[str, ...]
    kind: AuditKind = AuditKind.STEADY
    name: str = ""
    products: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = CHANNELS
    every_s: float = 2.0
    conflate_ms: int = 0
    seed: int = 0


class BookPicture(NamedTuple):
    """A book as a client holds it: (px, qty) texts, best first."""

    bids: list[Level]
    asks: list[Level]


class Counts(NamedTuple):
    """What has happened so far to all lives of a client together; they only grow.

    `snapshots` by reason; `resumes`: streams that were asked for with a position; `resumed`: those that went on without
    a snapshot that says `resume_failed`; `missing`: trades that the gateway declared missing; `undeclared`: gaps that
    nobody declared; `repeated`: trades that came twice, in the wrong order, or changed.
    """

    connections: int
    messages: int
    increments: int
    snapshots: Mapping[str, int]
    resumes: int
    resumed: int
    missing: int
    undeclared: int
    repeated: int
    violations: int


@dataclass(frozen=True, slots=True)
class Life:
    """What one client saw from its start, with nothing, to its end.

    `trades`: of each product in the order in which they came, each that was new. `declared`: (product, first, last id)
    of trades declared missing. `violations`: the first hundred broken promises; `counts` has all by kind.
    """

    began: int
    ended: int
    trades: Mapping[str, tuple[TradeLine, ...]]
    trade_hashes: Mapping[str, str]
    books: Mapping[str, BookPicture]
    tickers: Mapping[str, Ticker]
    positions: Mapping[StreamKey, Position]
    declared: tuple[tuple[str, int, int], ...]
    violations: tuple[Violation, ...]
    counts: Mapping[Kind, int]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """All that one client saw. Only a restarting client has several `lives`; the last one holds the final state.

    `pauses`: of each stream the longest time in which nothing of it came, the time until now included.
    `disconnections`: when a connection was lost, and why; those that the client itself made, too.
    """

    name: str
    kind: AuditKind
    lives: tuple[Life, ...]
    counts: Counts
    pauses: Mapping[StreamKey, Pause]
    disconnections: tuple[tuple[int, str], ...]

    @property
    def final(self) -> Life:
        """The last life: its books and tickers are the final ones."""
        return self.lives[-1]

    def problems(self) -> list[str]:
        """Every broken promise, in words; declared gaps are none."""
        found = [str(violation) for life in self.lives for violation in life.violations]
        return found + [f"the gateway refused: {error}" for life in self.lives for error in life.errors]


class Auditor:
    """One auditing client; an async context manager, or `start` and `stop`. LfmeshError from `start`: no gateway."""

    def __init__(self, config: AuditConfig) -> None:
        self.config = config
        self.name = config.name or config.kind
        self._random = random.Random(config.seed)  # noqa: S311 - repeatable, no secret
        self._products = config.products
        self._lives: list[Life] = []
        self._earlier = _no_counts()
        self._disconnections: list[tuple[int, str]] = []
        self._pauses: dict[StreamKey, Pause] = {}
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._calm = asyncio.Event()
        self._resting = False
        self._feed: Feed | None = None
        self._tap = CheckerTap(Checker())
        self._began = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect and subscribe; returns when the gateway has answered."""
        if not self._products:
            self._products = await products_of(self.config.urls[0])
        await self._begin()
        if self.config.kind is not AuditKind.STEADY:
            self._task = asyncio.create_task(self._unrest(), name=f"auditor {self.name}")

    async def stop(self) -> History:
        """End the client; its whole history. Idempotent. What broke the client itself is raised here."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._feed is not None:
            await self._end()
        if task is not None and not task.cancelled():
            task.result()
        return self.history()

    def forget_trades(self, keep: int) -> None:
        """Keep the latest trades of each product of the running life only, and none of earlier ones, for long runs."""
        self._lives = [replace(life, trades={}) for life in self._lives]
        for product in self._products:
            trades = self._tap.checker.trades(product)
            while trades is not None and len(trades.held) > keep:
                trades.held.popleft()

    def rest(self, resting: bool) -> None:
        """Drop and restart no more for now, or again."""
        self._resting = resting

    async def calm(self) -> None:
        """Drop and restart no more: what comes now is the end of the run. A restart under way is finished first."""
        self._calm.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    # While it runs ---------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """False between two lives, when the last one that there is has ended."""
        return self._feed is not None

    def unwhole(self) -> list[str]:
        """What is not as it should be now, a line each; [] when every stream is followed, live and answered."""
        feed = self._feed
        if feed is None:
            return [f"{self.name} is between two lives"]
        if not feed.connected:
            return [f"{self.name} has no connection"]
        found = [f"{self.name}: {count} requests without an answer" for count in [feed.unanswered] if count]
        for product in self._products:
            for channel in self.config.channels:
                status = feed.status(product, channel)
                if status.state != "live":
                    found.append(f"{self.name}: {product} {channel} is {status.state}: {status.reason}")
        return found

    async def until_whole(self, timeout_s: float) -> None:
        """Wait until nothing is unwhole; TimeoutError says what is."""
        deadline = time.monotonic() + timeout_s
        while found := self.unwhole():
            if time.monotonic() > deadline:
                more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
                raise TimeoutError(f"not whole within {timeout_s:g} s: {'; '.join(found[:3])}{more}")
            await asyncio.sleep(_POLL_S)

    def last_trade_id(self, product: str) -> int | None:
        """The newest trade known of a product, declared missing ones included."""
        trades = self._tap.checker.trades(product)
        return None if trades is None else trades.newest_id

    def book(self, product: str) -> BookPicture | None:
        """The book as it is held now; None before its snapshot."""
        book = self._tap.checker.book(product)
        return None if book is None else BookPicture(book.bids(), book.asks())

    def ticker(self, product: str) -> Ticker | None:
        """The ticker as it is held now; None before its first message."""
        return self._tap.checker.ticker(product)

    def counts(self) -> Counts:
        """What has happened so far; the difference of two of them is what happened between."""
        return self._earlier if self._feed is None else _sum(self._earlier, _counts(self._tap))

    def take_pauses(self) -> dict[StreamKey, Pause]:
        """The longest pause of each stream since the last call (the current one included); counting begins anew."""
        checker = self._tap.checker
        found = _longest(self._pauses, checker.pauses(time.time_ns()))
        checker.forget_pauses()
        self._pauses = {}
        return found

    def history(self) -> History:
        """Everything until now."""
        running = [] if self._feed is None else [self._life()]
        return History(
            self.name,
            self.config.kind,
            (*self._lives, *running),
            self.counts(),
            _longest(self._pauses, self._tap.checker.pauses(time.time_ns()) if self._feed is not None else {}),
            (*self._disconnections, *(self._tap.disconnections if self._feed is not None else ())),
        )

    # Inside ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._began = time.time_ns()
        self._tap = CheckerTap(Checker())
        connecting = connect(self.config.urls, open_timeout_s=None, events=False, tap=self._tap)
        async with AsyncExitStack() as stack:
            feed = await stack.enter_async_context(connecting)
            await feed.subscribe(
                self._products, channels=self.config.channels, conflate_ms=self.config.conflate_ms, timeout_s=None
            )
            self._stack = stack.pop_all()
        self._feed = feed

    async def _end(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            counts = self.counts()
            self._lives.append(self._life())
            self._pauses = _longest(self._pauses, self._tap.checker.pauses(time.time_ns()))
            self._disconnections.extend(self._tap.disconnections)
            self._earlier, self._feed = counts, None

    async def _unrest(self) -> None:
        while not self._calm.is_set():
            pause_s = self.config.every_s * self._random.uniform(0.5, 1.5)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._calm.wait()
                    return
            if self._resting:
                continue
            if self.config.kind is AuditKind.RESTARTING:
                await self._end()
                await self._begin()
            elif self._feed is not None:
                self._feed.drop("the client's own doing")

    def _life(self) -> Life:
        checker = self._tap.checker
        products = self._products
        trades = {product: held for product in products if (held := checker.trades(product)) is not None}
        return Life(
            began=self._began,
            ended=time.time_ns(),
            trades={product: tuple(held.held) for product, held in trades.items()},
            trade_hashes={product: held.hash.hexdigest() for product, held in trades.items()},
            books={product: book for product in products if (book := self.book(product)) is not None},
            tickers={product: ticker for product in products if (ticker := self.ticker(product)) is not None},
            positions={key: stream.position for key, stream in checker.streams() if stream.position is not None},
            declared=tuple(checker.declared_gaps()),
            violations=tuple(checker.violations.first),
            counts=dict(checker.violations.counts),
            errors=tuple(checker.errors),
        )


def _no_counts() -> Counts:
    return Counts(0, 0, 0, {}, 0, 0, 0, 0, 0, 0)


def _counts(tap: CheckerTap) -> Counts:
    checker = tap.checker
    found = checker.violations.counts
    snapshots: Counter[str] = Counter()
    for _, stream in checker.streams():
        snapshots.update(stream.reasons)
    return Counts(
        connections=tap.connections,
        messages=tap.messages,
        increments=checker.increments,
        snapshots=dict(snapshots),
        resumes=tap.resumes,
        resumed=tap.resumes - snapshots["resume_failed"],
        missing=sum(last - first + 1 for _, first, last in checker.declared_gaps()),
        undeclared=sum(found[kind] for kind in _GAPS),
        repeated=sum(found[kind] for kind in _REPEATS),
        violations=checker.violations.total,
    )


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        connections=one.connections + other.connections,
        messages=one.messages + other.messages,
        increments=one.increments + other.increments,
        snapshots=dict(Counter(one.snapshots) + Counter(other.snapshots)),
        resumes=one.resumes + other.resumes,
        resumed=one.resumed + other.resumed,
        missing=one.missing + other.missing,
        undeclared=one.undeclared + other.undeclared,
        repeated=one.repeated + other.repeated,
        violations=one.violations + other.violations,
    )


def _longest(one: Mapping[StreamKey, Pause], other: Mapping[StreamKey, Pause]) -> dict[StreamKey, Pause]:
    found = dict(one)
    for key, pause in other.items():
        if key not in found or pause.ns > found[key].ns:
            found[key] = pause
    return found
