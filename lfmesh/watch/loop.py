"""Follows a feed and shows what it brings: live on a terminal, else a line an event, or the raw messages."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lfmesh.client import BookSnapshot, Connected, Disconnected, Event, Feed, Refused, RequestRefused, connect
from lfmesh.errors import LfmeshError
from lfmesh.types import Channel
from lfmesh.watch.lines import line, said
from lfmesh.watch.render import render
from lfmesh.watch.state import StreamView, WatchState

_REFRESH_S = 0.25
_LIST_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """What to watch, and how. `products` empty: all that the gateway has."""

    url: str
    products: tuple[str, ...]
    channel: Channel
    json: bool
    duration_s: float | None
    conflate_ms: int = 0


async def watch(watched: Watched, *, live: bool, stop: asyncio.Event) -> None:
    """Watch until `stop` or the duration ends; LfmeshError if there was nothing to see and a retry cannot mend it."""
    ending = asyncio.create_task(_until(stop, watched.duration_s))
    state = WatchState(watched.url, watched.channel, {})
    for product in watched.products:
        state.view(product)
    watching = asyncio.create_task(_watch(watched, state, live=live))
    try:
        await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
    finally:
        for task in (ending, watching):
            task.cancel()
        await asyncio.gather(ending, watching, return_exceptions=True)
    if watched.duration_s is not None and not stop.is_set() and not state.connected_once:
        raise LfmeshError(f"no gateway at {watched.url} within {watched.duration_s:g} s: {state.trouble}")


async def _until(stop: asyncio.Event, duration_s: float | None) -> None:
    try:
        async with asyncio.timeout(duration_s):
            await stop.wait()
    except TimeoutError:
        return


async def _watch(watched: Watched, state: WatchState, *, live: bool) -> None:
    if live:
        async with _screen(state):
            await _follow(watched, state, _Silent())
    else:
        await _follow(watched, state, _Raw() if watched.json else _Lines())


class _Silent:
    """On a live screen the state says everything, and is gone when the screen is. The feed's tap, too."""

    refusals_last = False
    """Whether what the gateway refused can still be read afterwards."""

    def said(self, text: str) -> None:
        """News of the connection."""

    def came(self, event: Event, view: StreamView | None) -> None:
        """An event."""

    def opened(self, url: str, now: int) -> None:
        """A connection is open."""

    def sent(self, text: str, now: int) -> None:
        """A request is being sent."""

    def received(self, text: str, now: int) -> None:
        """A raw message."""

    def closed(self, reason: str, now: int) -> None:
        """The connection is over."""

    def ticked(self, now: int) -> None:
        """Time passes."""


class _Lines(_Silent):
    refusals_last = True

    def said(self, text: str) -> None:
        sys.stderr.write(f"lfmesh: {text}\n")
        sys.stderr.flush()

    def came(self, event: Event, view: StreamView | None) -> None:
        told, shown = said(event), line(event, view)
        if told is not None:
            self.said(told)
        if shown is not None:
            _write(shown)


class _Raw(_Lines):
    def came(self, event: Event, view: StreamView | None) -> None:  # noqa: ARG002 - raw messages are shown instead
        told = said(event)
        if told is not None:
            self.said(told)

    def received(self, text: str, now: int) -> None:  # noqa: ARG002 - as it came
        _write(text)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _follow(watched: Watched, state: WatchState, out: _Silent) -> None:
    async with connect(watched.url, open_timeout_s=0, tap=out) as feed:
        tasks = {
            asyncio.create_task(_read(feed, state, out)),
            asyncio.create_task(_subscribe(feed, watched, state, out)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _read(feed: Feed, state: WatchState, out: _Silent) -> None:
    async for event in feed:
        if isinstance(event, BookSnapshot):
            state.view(event.product).book = feed.book(event.product)
        _take(event, state, out)


def _take(event: Event, state: WatchState, out: _Silent) -> None:
    match event:
        case Connected(url=url, again=again):
            out.said(f"connected {'again ' if again else ''}to {url}")
        case Disconnected(url=url, reason=reason) if state.trouble != reason:
            out.said(f"no connection to {url}: {reason}; trying again")
        case _:
            pass
    state.apply(event)
    product = getattr(event, "product", None)
    out.came(event, state.views.get(product) if product else None)


async def _subscribe(feed: Feed, watched: Watched, state: WatchState, out: _Silent) -> None:
    """Ask for everything; what is refused is told, and that nothing is left is an error."""
    await feed.wait_connected()
    products = watched.products or await _all_products(feed, out)
    for product in products:
        state.view(product)
    try:
        await feed.subscribe(products, channels=[watched.channel], conflate_ms=watched.conflate_ms, timeout_s=None)
    except RequestRefused as error:
        told = f"refused: {error.code}: {error.msg}"
        if len(error.streams) == len(set(products)):
            out.said(told)
            raise LfmeshError("there is nothing to watch" if out.refusals_last else str(error)) from error
        _take(Refused(code=error.code, msg=error.msg, products=(), ts_received=time.time_ns()), state, out)


async def _all_products(feed: Feed, out: _Silent) -> Sequence[str]:
    """The gateway's own list, as soon as it can be had."""
    while True:
        try:
            return await feed.products()
        except LfmeshError as error:
            out.said(f"{error}; trying again")
            await asyncio.sleep(_LIST_AGAIN_S)


@asynccontextmanager
async def _screen(state: WatchState) -> AsyncIterator[None]:
    """Refreshes the terminal while the block runs."""
    from rich.console import Console
    from rich.live import Live

    console = Console()

    async def refresh(live: Live) -> None:
        while True:
            live.update(render(state, time.time_ns(), console.height, width=console.width), refresh=True)
            await asyncio.sleep(_REFRESH_S)

    with Live(console=console, auto_refresh=False, screen=True) as live:
        refreshing = asyncio.create_task(refresh(live))
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
