"""`lfmesh top`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lfmesh.cli.options import config_option, effective_config, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from lfmesh.config import RegistrySection


@click.command(short_help="Show every role of a running mesh, live.")
@option("--once", is_flag=True, help="Print one table, after about a second (for the rates), and end.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object and end; its keys are listed above.")
@option(
    "--registry",
    metavar="ENDPOINT",
    multiple=True,
    help="A registry replica's request address, such as tcp://127.0.0.1:7400; may be repeated.  "
    "[default: the running `lfmesh up`'s, else registry.endpoints of the configuration]",
)
@option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the running `lfmesh up` keeps its data.  [default: mesh.data_dir, .lfmesh]",
)
@config_option
def top(once: bool, as_json: bool, registry: tuple[str, ...], data_dir: Path | None, config_path: Path | None) -> int:
    """Show every process of a running mesh, live: how it is, what goes in and out, what waits.

    lag is how far a process's newest output is behind its input or the venue, queue what has arrived and is not yet
    dealt with; gaps count what was found missing since its start. Rates are per second, cpu is of one core. A
    process that stopped telling is shown as silent.

    Of recovery: duty is active or standby, or an ingestor's line and how many books are published from it
    (line A 5/6), or that a gateway drains; open are streams that miss something now, fetches are backfills from the
    venue under way; mended by counts what has mended gaps since the start. What nobody has to say is not shown.

    Of a gateway that runs as several workers each is a row, and `gateway-0 ×2` what they do together. Below are the
    slowest clients of all gateways, while anything waits for any: for how long the oldest of it has waited, how much
    it is, how often the client was conflated and whether it is now, how many streams it follows.

    \b
    --json prints {"ts": ns, "registries": {"answering": N, "known": N}, "roles": [...], "slowest": [...]},
    each role with
      role, instance, shard, state (ready, not ready, silent, gone, announced), reasons, pid, host, http, age_s,
      restarts (seen while this command ran), messages_in_per_s, messages_out_per_s, messages_in_total,
      messages_out_total, lag_ms, queue_messages, gaps, clients, cpu_percent, rss_bytes, line (A or B), active,
      open_gaps, backfills, links_lost, takeovers, published (books by the ingestor that brings them), rungs (gaps
      mended, by what mended them), draining;
      what is not known is null;
    and each of at most ten clients, the slowest first, with
      gateway, client (address and port), lag_ms, waiting_bytes, conflated (how often), conflating, subscriptions.
    """
    section = _registry(registry, data_dir, config_path)
    if once or as_json or not sys.stdout.isatty():
        asyncio.run(_once(section, as_json=as_json))
    else:
        told = bool(registry) or config_path is not None
        asyncio.run(_live(section, lambda: section if told else _moved(section, data_dir)))
    return 0


def _registry(given: tuple[str, ...], data_dir: Path | None, config_path: Path | None) -> "RegistrySection":
    """Where to ask: what the user says, else a mesh that runs here, else what the configuration says."""
    from lfmesh.client.meshfile import find

    config = effective_config(config_path)
    if not given and config_path is None:
        mesh = find(data_dir or config.mesh.data_dir)
        given = tuple(mesh.registry_endpoints) if mesh else ()
    if given:
        config = config.override({"registry": {"endpoints": given, "static_peers": ()}})
    return config.registry


def _moved(section: "RegistrySection", data_dir: Path | None) -> "RegistrySection":
    """Where to ask once nobody answers: a mesh that runs here now, which may be another than before."""
    from lfmesh.client.meshfile import find

    config = effective_config(None)
    mesh = find(data_dir or config.mesh.data_dir)
    if mesh is None:
        return section
    return config.override({"registry": {"endpoints": tuple(mesh.registry_endpoints), "static_peers": ()}}).registry


async def _once(section: "RegistrySection", *, as_json: bool) -> None:
    import time

    import msgspec
    from rich.console import Console

    from lfmesh.cli.interrupts import stop_event
    from lfmesh.top.loop import once
    from lfmesh.top.render import render

    with stop_event() as stop:
        looking = asyncio.create_task(once(section))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({looking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                return
            rows, slowest, registries = looking.result()
        finally:
            for task in (looking, stopped):
                task.cancel()
            await asyncio.gather(looking, stopped, return_exceptions=True)
    if as_json:
        found = {"ts": time.time_ns(), "registries": dict(zip(("answering", "known"), registries, strict=True))}
        click.echo(msgspec.json.encode({**found, "roles": rows, "slowest": slowest}).decode())
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(render(rows, registries, slowest, live=False, width=console.width))


async def _live(section: "RegistrySection", again: "Callable[[], RegistrySection]") -> None:
    from lfmesh.cli.interrupts import stop_event
    from lfmesh.top.loop import live

    with stop_event() as stop:
        await live(section, stop, again)
