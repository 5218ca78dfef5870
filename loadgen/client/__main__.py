"""`python -m loadgen.client`: check a gateway against the client protocol, count, and measure."""

import asyncio
import signal
import sys

import click
import msgspec
import uvloop
from rich.console import Console

from lfmesh.errors import LfmeshError
from lfmesh.models.requests import MAX_CONFLATE_MS
from lfmesh.types import CHANNELS
from loadgen.client.report import rendered, report
from loadgen.client.run import Outcome, RunConfig, run

_FOREVER_S = 1e9


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _channels(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = _names(context, parameter, value)
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or not names:
        raise click.BadParameter(f"any of {', '.join(CHANNELS)}, separated by commas")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--gateway-url",
    "urls",
    default="ws://localhost:8000/ws",
    show_default=True,
    callback=_names,
    help="The gateway's WebSocket; several, separated by commas, are alternatives.",
)
@click.option("--products", default="", callback=_names, help="Separated by commas; default: all of the gateway's.")
@click.option("--channels", default="ticker,trades,book", callback=_channels, show_default=True)
@click.option("--duration", default=60.0, type=click.FloatRange(min=0), show_default=True, help="Seconds; 0: no end.")
@click.option("--clients", default=1, type=click.IntRange(1, 10_000), show_default=True, help="Clients at once.")
@click.option("--until-quiet", default=0.0, type=click.FloatRange(min=0), help="End after so many quiet seconds.")
@click.option(
    "--drop-every", default=0.0, type=click.FloatRange(min=0), help="Cut each connection every so many seconds."
)
@click.option("--conflate-ms", default=0, type=click.IntRange(0, MAX_CONFLATE_MS), help="Ask for this much conflation.")
@click.option("--validate", is_flag=True, help="Check every message against the published models, too (slow).")
@click.option("--state-hash", "with_hash", is_flag=True, help="Print the hash of the state that the clients hold.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def main(  # noqa: PLR0913 - one argument an option
    urls: tuple[str, ...],
    products: tuple[str, ...],
    channels: tuple[str, ...],
    duration: float,
    clients: int,
    until_quiet: float,
    drop_every: float,
    conflate_ms: int,
    validate: bool,
    with_hash: bool,
    as_json: bool,
) -> None:
    """Follow a gateway with clients that check every promise of its protocol.

    The clients reconnect and resume by position. Prints counts, rates, latencies, declared gaps and violations. Exit
    code 0 if all was right, 1 if something was not, or nothing came. Ctrl-C ends it early and prints what there is.
    """
    config = RunConfig(
        urls=urls,
        products=products,
        channels=channels,
        clients=clients,
        duration_s=duration or _FOREVER_S,
        until_quiet_s=until_quiet,
        drop_every_s=drop_every,
        conflate_ms=conflate_ms,
        validate=validate,
    )
    try:
        outcome = asyncio.run(_run(config), loop_factory=uvloop.new_event_loop)
    except LfmeshError as error:
        raise click.ClickException(str(error)) from error
    found = report(outcome.taps, outcome.duration_s, outcome.closed, with_hash=with_hash)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        Console(highlight=False, soft_wrap=True).print(rendered(found), markup=False)
    sys.exit(1 if found.failure else 0)


async def _run(config: RunConfig) -> Outcome:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await run(config, stop)


if __name__ == "__main__":
    main()
