"""Connects, applies what comes, and shows it: live on a terminal, else a line a message, or the raw messages."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from lfmesh.client.http import fetch_json
from lfmesh.client.messages import Goaway, Message, Other, Refused, Status, Subscribed, Update, parse
from lfmesh.client.session import Connected, Lost, Received, Session, backoff_s
from lfmesh.errors import LfmeshError
from lfmesh.types import Channel
from lfmesh.watch.lines import line
from lfmesh.watch.render import render
from lfmesh.watch.state import StreamView, WatchState

_REFRESH_S = 0.25


@dataclass(frozen=True, slots=True)
class Watched:
    """What to watch, and how. `products` empty: all that the gateway has."""

    url: str
    products: tuple[str, ...]
    channel: Channel
    json: bool
    duration_s: float | None


Say = Callable[[str], None]


async def watch(watched: Watched, *, live: bool, stop: asyncio.Event) -> None:
    """Watch until `stop` or the duration ends; LfmeshError if there was nothing to see and a retry cannot mend it."""
    ending = asyncio.create_task(_until(stop, watched.duration_s))
    state = WatchState(watched.url, watched.channel, {product: StreamView(product) for product in watched.products})
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
    """On a live screen the state says everything, and is gone when the screen is."""

    refusals_last = False
    """Whether what the gateway refused can still be read afterwards."""

    def said(self, text: str) -> None:
        """News of the connection."""

    def came(self, text: str, message: Message, view: StreamView | None) -> None:
        """A message."""


class _Lines(_Silent):
    refusals_last = True

    def said(self, text: str) -> None:
        sys.stderr.write(f"lfmesh: {text}\n")
        sys.stderr.flush()

    def came(self, text: str, message: Message, view: StreamView | None) -> None:  # noqa: ARG002 - what `_Raw` writes
        shown = line(message, view)
        if shown is None:
            return
        if isinstance(message, Refused | Goaway):
            self.said(shown)
        else:
            _write(shown)


class _Raw(_Lines):
    def came(self, text: str, message: Message, view: StreamView | None) -> None:
        if isinstance(message, Refused):
            super().came(text, message, view)
        _write(text)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _follow(watched: Watched, state: WatchState, out: _Silent) -> None:
    products = watched.products or await _all_products(watched.url, state, out)
    for product in products:
        state.views.setdefault(product, StreamView(product))
    async with aclosing(Session(watched.url, products, [watched.channel]).events()) as events:
        async for event in events:
            match event:
                case Connected(again):
                    state.is_connected()
                    out.said(f"connected {'again ' if again else ''}to {watched.url}")
                case Lost(reason):
                    if state.is_lost(reason):
                        out.said(f"no connection to {watched.url}: {reason}; trying again")
                case Received(text):
                    message = parse(text)
                    state.apply(message, time.time_ns())
                    out.came(text, message, _view(state, message))
                    _end_if_refused(state, message, out)


def _view(state: WatchState, message: Message) -> StreamView | None:
    return state.views.get(message.product) if isinstance(message, Update | Status) else None


def _end_if_refused(state: WatchState, message: Message, out: _Silent) -> None:
    """Nothing at all was subscribed: the gateway said why, and waiting will not change it."""
    if isinstance(message, Subscribed):
        state.subscribed = state.subscribed or bool(message.products)
    elif isinstance(message, Other) and not state.subscribed and state.refusal is not None:
        what = "there is nothing to watch" if out.refusals_last else f"the gateway refuses: {state.refusal}"
        raise LfmeshError(what)


async def _all_products(url: str, state: WatchState, out: _Silent) -> Sequence[str]:
    """The gateway's own list, as soon as there is a gateway."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise LfmeshError(f"{url} is no WebSocket address, such as ws://127.0.0.1:8000/ws")
    address = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}/products"
    failures = 0
    while True:
        try:
            listed = await fetch_json(address)
            return [str(entry["id"]) for entry in listed["products"]]
        except LfmeshError as error:
            failures += 1
            if state.is_lost(str(error)):
                out.said(f"{error}; trying again")
            await asyncio.sleep(max(0.1, backoff_s(failures)))
        except (KeyError, TypeError) as error:
            raise LfmeshError(f"{address} is no gateway's list of products") from error


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
