"""Drives N checking clients against one gateway until the time is up, the feed is quiet, or somebody stops it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from lfmesh.client.http import fetch_json
from lfmesh.errors import LfmeshError
from lfmesh.models import parse_message
from loadgen.client.checker import Checker
from loadgen.client.session import Session, http_base

_PING_S = 5.0
_WATCH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What to run. Empty `products`: all of the gateway's; `until_quiet_s` 0: never end before `duration_s`."""

    url: str
    products: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("ticker", "trades", "book")
    clients: int = 1
    duration_s: float = 60.0
    until_quiet_s: float = 0.0
    validate: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: the checkers, how long it took, why connections ended before their time."""

    checkers: Sequence[Checker]
    duration_s: float
    closed: Sequence[str]


class _Products(msgspec.Struct):
    products: list["_Product"]


class _Product(msgspec.Struct):
    id: str


def model_fault(frame: bytes) -> str | None:
    """What the published models say against a message; None: nothing."""
    try:
        parse_message(frame)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


async def products_of(url: str) -> tuple[str, ...]:
    """Every product of the gateway behind a WebSocket address; LfmeshError."""
    answer = await fetch_json(f"{http_base(url)}/products")
    try:
        return tuple(product.id for product in msgspec.convert(answer, _Products).products)
    except msgspec.ValidationError as error:
        raise LfmeshError(f"{http_base(url)}/products does not list products: {error}") from error


async def run(config: RunConfig, stop: asyncio.Event) -> Outcome:
    """Run all clients to the end; LfmeshError if none could connect."""
    products = config.products or await products_of(config.url)
    validate = model_fault if config.validate else None
    checkers = [Checker(validate=validate) for _ in range(config.clients)]
    began = time.monotonic()
    closed: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_stop_in_time(config, checkers, stop))
        await asyncio.gather(*(_client(config, products, checker, stop, closed) for checker in checkers))
        stop.set()
    if closed and not any(checker.bytes_received for checker in checkers):
        raise LfmeshError(closed[0])
    return Outcome(checkers, time.monotonic() - began, closed)


async def _client(
    config: RunConfig, products: Sequence[str], checker: Checker, stop: asyncio.Event, closed: list[str]
) -> None:
    try:
        async with Session(config.url, checker) as session:
            await session.subscribe(products, config.channels)
            while not stop.is_set():
                await session.ping(time.time_ns() // 1_000_000)
                with suppress(TimeoutError):
                    await session.until(stop.is_set, _PING_S)
    except LfmeshError as error:
        closed.append(str(error))


async def _stop_in_time(config: RunConfig, checkers: Sequence[Checker], stop: asyncio.Event) -> None:
    """Set `stop` when the time is up, or nothing but heartbeats has come for `until_quiet_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.duration_s
    while not stop.is_set() and loop.time() < deadline:
        if config.until_quiet_s and all(_quiet(checker, config.until_quiet_s) for checker in checkers):
            break
        try:
            async with asyncio.timeout(_WATCH_S):
                await stop.wait()
        except TimeoutError:
            continue
    stop.set()


def _quiet(checker: Checker, quiet_s: float) -> bool:
    return checker.last_data_at > 0 and time.time_ns() - checker.last_data_at > quiet_s * 1e9
