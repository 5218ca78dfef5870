"""`lfmesh sim`: the exchange simulator, by itself."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfmesh.cli.options import option, parse_products, parse_speed

if TYPE_CHECKING:
    from loadgen.sim import SimConfig


_SECONDS = click.FloatRange(0.01, 3600)


@click.command(short_help="Run the exchange simulator, or play a tape.")
@option("--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")
@option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=8900, help="Of WebSocket and REST; 0: any free."
)
@option(
    "--products", metavar="N|LIST", default="10", help="The first N well-known products (1 to 500), or a comma list."
)
@option(
    "--rate", metavar="R", type=click.IntRange(1, 20_000), default=1000, help="Messages a second, over all products."
)
@option("--count", metavar="N", type=click.IntRange(min=1), help="Fall quiet after so many messages.")
@option("--seed", metavar="N", type=int, default=1, help="The same seed gives the same frames.")
@option("--paused/--playing", default=False, help="Whether the market waits for /control/start.")
@option("--book-levels", metavar="N", type=click.IntRange(5, 5000), default=250, help="Usual number of levels a side.")
@option(
    "--batch-interval-ms", metavar="MS", type=click.IntRange(1, 60_000), default=50, help="Interval of level2_batch."
)
@option("--tape", metavar="FILE", type=click.Path(path_type=Path), help="Play this recorded tape instead of a market.")
@option(
    "--speed", metavar="S", type=parse_speed, default="1", help="Speed of the tape: 1, any positive number, or max."
)
@option(
    "--tape-start",
    type=click.Choice(["now", "control", "subscribe"]),
    default="now",
    help="When the tape begins: at once, at /control/start, or once everything on it is subscribed.",
)
@option(
    "--fault",
    metavar="KIND[:KEY=VALUE,…]",
    multiple=True,
    help="A fault from the beginning, such as lose:share=0.01,products=BTC-USD+ETH-USD; may be repeated "
    "(in the variable: separated by spaces).",
)
@option("--compress/--no-compress", default=False, help="Whether permessage-deflate is offered.")
@option(
    "--subscribe-deadline-s", metavar="S", type=_SECONDS, default=5.0, help="Who has not subscribed by then is cut off."
)
@option("--heartbeat-interval-s", metavar="S", type=_SECONDS, default=1.0, help="Interval of the heartbeat channel.")
@option("--status-interval-s", metavar="S", type=_SECONDS, default=5.0, help="Interval of the status channel.")
@option(
    "--rest-rate-per-s", metavar="R", type=click.FloatRange(0.01, 1e6), default=10.0, help="REST requests a second."
)
@option("--rest-burst", metavar="N", type=click.IntRange(1, 1_000_000), default=15, help="REST requests at once.")
@option(
    "--trade-history-rows",
    metavar="N",
    type=click.IntRange(1, 10_000_000),
    default=20_000,
    help="Trades of a product that REST can list.",
)
@option(
    "--buffer-limit-bytes",
    metavar="N",
    type=click.IntRange(1024, 1 << 40),
    default=64 * 1024 * 1024,
    help="Unsent bytes at which a reader is cut off.",
)
@option(
    "--slow-consumer-s",
    metavar="S",
    type=_SECONDS,
    default=2.0,
    help="At speed max: how long one reader may hold all others back.",
)
def sim(**options: Any) -> None:  # noqa: ANN401 - the options above, by name
    """Run an exchange on this machine: Coinbase's WebSocket feed and REST on one port.

    A market model makes limit orders, trades and cancels around a moving price, so that books, trades and tickers
    agree at every message; or a recorded tape plays, verbatim. GET / lists the control endpoints: pause, faults, truth.

    \b
      lfmesh sim --products 50 --rate 5000
      lfmesh sim --tape day.tape --speed 10
      lfmesh sim --fault lose:share=0.001 --fault reorder:share=0.01,products=BTC-USD
    """
    from loadgen.sim import run

    config = sim_config(options)

    def announce(ws_url: str, rest_url: str) -> None:
        click.echo(f"exchange simulator: {ws_url}  REST and control: {rest_url}/")

    asyncio.run(run(config, announce))


def sim_config(options: dict[str, Any]) -> "SimConfig":
    """The simulator's configuration from the command's options; ConfigError."""
    from loadgen.sim import Fault, SimConfig

    settings = dict(options)
    settings["rate_msgs_s"] = settings.pop("rate")
    settings["start_paused"] = settings.pop("paused")
    settings["tape_speed"] = settings.pop("speed")
    settings["faults"] = tuple(Fault.parse(text) for text in settings.pop("fault"))
    given = settings.pop("products")
    if given.isascii() and given.isdigit():
        settings["product_count"] = int(given)
    else:
        settings["products"] = parse_products(given)
    return SimConfig(**settings)
