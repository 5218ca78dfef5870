"""`lfmesh watch`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lfmesh.cli.options import DEFAULT_HOME, option, product_ids

if TYPE_CHECKING:
    from lfmesh.watch.loop import Watched

DEFAULT_URL = "ws://127.0.0.1:8000/ws"
MAX_CONFLATE_MS = 60_000
"""As a gateway takes it: `lfmesh.models.requests.MAX_CONFLATE_MS`."""
SCREEN_CONFLATE_MS = 100
"""A terminal is drawn four times a second."""


@click.command(short_help="Show what a gateway sends, live.")
@click.argument("products", nargs=-1, metavar="[PRODUCTS]...")
@option("--channel", type=click.Choice(["ticker", "trades", "book"]), default="ticker", help="What to show.")
@option("--url", metavar="URL", help=f"The gateway.  [default: the running `lfmesh up`'s, else {DEFAULT_URL}]")
@option("--json", "as_json", is_flag=True, help="The raw messages, one a line, as they came.")
@option(
    "--conflate-ms",
    metavar="MS",
    type=click.IntRange(0, MAX_CONFLATE_MS),
    help="At most one message of each ticker or book in this time; 0: every one.  "
    f"[default: {SCREEN_CONFLATE_MS} on a terminal, else 0]",
)
@option(
    "--duration",
    "duration_s",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so many seconds.",
)
@option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    help="Where the running `lfmesh up` keeps its data.",
)
def watch(
    products: tuple[str, ...],
    channel: str,
    url: str | None,
    as_json: bool,
    conflate_ms: int | None,
    duration_s: float | None,
    data_dir: Path,
) -> int:
    """Show what a gateway sends to its clients, live; all its products unless some are named.

    On a terminal: prices, sizes, spread, how fresh and how certain each stream is. Into a pipe or file: one line a
    message. Prices are shown with the venue's digits. A lost connection is made again, and said so, on standard error.

    \b
      lfmesh watch BTC-USD ETH-USD
      lfmesh watch BTC-USD --channel book
      lfmesh watch --channel trades --json --duration 10 > trades.jsonl
    """
    from lfmesh.client.meshfile import find
    from lfmesh.types import Channel
    from lfmesh.watch.loop import Watched

    mesh = None if url else find(data_dir)
    address = url or (mesh.gateway_url if mesh else DEFAULT_URL)
    live = sys.stdout.isatty() and not as_json
    if conflate_ms is None:
        conflate_ms = SCREEN_CONFLATE_MS if live else 0
    watched = Watched(address, product_ids(products), Channel(channel), as_json, duration_s, conflate_ms)
    asyncio.run(_run(watched, live=live))
    return 0


async def _run(watched: "Watched", *, live: bool) -> None:
    from lfmesh.cli.interrupts import stop_event
    from lfmesh.watch.loop import watch as follow

    with stop_event() as stop:
        await follow(watched, live=live, stop=stop)
