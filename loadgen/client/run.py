"""Drives N checking clients against one gateway until the time is up, the feed is quiet, or somebody stops it.

Each client is a feed of the client library with a checker beside it: it reconnects and resumes as any user's would.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lfmesh.client import Feed, NoAnswer, RequestRefused, connect
from lfmesh.client.http import fetch_products
from lfmesh.errors import LfmeshError
from lfmesh.models import parse_message
from loadgen.client.checker import Checker
from loadgen.client.session import http_base
from loadgen.client.tap import CheckerTap

_PING_S = 5.0
_WATCH_S = 0.1
_OPEN_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run. Empty `products`: all of the gateway's; `until_quiet_s` 0: never end before `duration_s`.

    `urls` are alternatives of which each client uses one at a time; `drop_every_s`: each client cuts its connection
    again and again, and resumes; 0: never. `conflate_ms` is asked for on every stream.
    """

    urls: tuple[str, ...]
    products: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("ticker", "trades", "book")
    clients: int = 1
    duration_s: float = 60.0
    until_quiet_s: float = 0.0
    drop_every_s: float = 0.0
    conflate_ms: int = 0
    validate: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: a tap with its checker for each client, how long it took, and why the gateway sent clients away,
    or they were without a connection at the end."""

    taps: Sequence[CheckerTap]
    duration_s: float
    closed: Sequence[str]

    @property
    def checkers(self) -> list[Checker]:
        """The clients' checkers."""
        return [tap.checker for tap in self.taps]


def model_fault(frame: bytes) -> str | None:
    """What the published models say against a message; None: nothing."""
    try:
        parse_message(frame)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


async def products_of(url: str) -> tuple[str, ...]:
    """Every product of the gateway behind a WebSocket address; LfmeshError."""
    return tuple(await fetch_products(http_base(url)))


async def run(config: RunConfig, stop: asyncio.Event) -> Outcome:
    """Run all clients to the end; LfmeshError if none could connect."""
    products = config.products or await products_of(config.urls[0])
    validate = model_fault if config.validate else None
    taps = [CheckerTap(Checker(validate=validate)) for _ in range(config.clients)]
    began = time.monotonic()
    closed: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_stop_in_time(config, taps, stop))
        await asyncio.gather(*(_client(config, products, tap, stop, closed) for tap in taps))
        stop.set()
    if closed and not any(tap.messages for tap in taps):
        raise LfmeshError(closed[0])
    return Outcome(taps, time.monotonic() - began, closed)


async def _client(
    config: RunConfig, products: Sequence[str], tap: CheckerTap, stop: asyncio.Event, closed: list[str]
) -> None:
    try:
        async with connect(config.urls, open_timeout_s=_OPEN_TIMEOUT_S, events=False, tap=tap) as feed:
            # A refusal is among the checker's errors.
            with suppress(RequestRefused, NoAnswer):
                wish = feed.subscribe(
                    products, channels=config.channels, conflate_ms=config.conflate_ms, timeout_s=None
                )
                await _unless(stop, wish)
            await asyncio.gather(_ping(feed, stop), _drop(feed, config.drop_every_s, stop))
            with suppress(NoAnswer):  # it may be under way just now
                await feed.wait_connected(timeout_s=_OPEN_TIMEOUT_S)
            closed.extend(dict.fromkeys(reason for _, reason in tap.disconnections if _is_verdict(reason)))
            if not feed.connected:
                closed.append(f"no connection at the end: {tap.disconnections[-1][1]}")
    except LfmeshError as error:
        closed.append(str(error))


def _is_verdict(reason: str) -> bool:
    """Whether the gateway has sent a client away for its own doing (too slow, too many), and not because it ends."""
    return reason.startswith("closed with") and not reason.startswith("closed with 1001")


async def _ping(feed: Feed, stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(NoAnswer):
            await _unless(stop, feed.ping(timeout_s=_PING_S))
        await _stopped(stop, _PING_S)


async def _drop(feed: Feed, every_s: float, stop: asyncio.Event) -> None:
    while every_s and not stop.is_set():
        if not await _stopped(stop, every_s):
            feed.drop("the client's own doing")


async def _unless(stop: asyncio.Event, doing: Coroutine[object, object, object]) -> None:
    """Do something, but no longer than until `stop`."""
    task, stopped = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await stop.wait()
    return stop.is_set()


async def _stop_in_time(config: RunConfig, taps: Sequence[CheckerTap], stop: asyncio.Event) -> None:
    """Set `stop` when the time is up, or nothing but heartbeats has come for `until_quiet_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.duration_s
    while not stop.is_set() and loop.time() < deadline:
        if config.until_quiet_s and all(_quiet(tap.checker, config.until_quiet_s) for tap in taps):
            break
        await _stopped(stop, _WATCH_S)
    stop.set()


def _quiet(checker: Checker, quiet_s: float) -> bool:
    return checker.last_data_at > 0 and time.time_ns() - checker.last_data_at > quiet_s * 1e9
