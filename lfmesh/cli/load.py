"""`lfmesh load`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfmesh.cli.options import DEFAULT_HOME, option, parse_channels, product_ids
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lfmesh.client.meshfile import MeshFile
    from loadgen.load.config import Behaviour, LoadConfig
    from loadgen.load.expect import Condition
    from loadgen.load.report import LoadReport
    from loadgen.load.roles import RoleAddress

DEFAULT_URL = "ws://127.0.0.1:8000/ws"
_LOOKUP_S = 1.0
_NOT_RUN = 2

_SHARE = click.FloatRange(0, 1)
_POSITIVE = click.FloatRange(min=0, min_open=True)


def parse_offences(text: str) -> "tuple[Behaviour, ...]":
    """Option type: a comma list of what misbehaving clients do."""
    from loadgen.load.config import OFFENCES

    named = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in named if name not in OFFENCES]
    if unknown or not named:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: any of {', '.join(OFFENCES)}")
    return tuple(offence for offence in OFFENCES if offence in named)


@click.command(short_help="Put a gateway under load, and measure what its clients get.")
@click.argument("products", nargs=-1, metavar="[PRODUCTS]...")
@option("--url", metavar="URL", help=f"The gateway.  [default: the running `lfmesh up`'s, else {DEFAULT_URL}]")
@option("--clients", metavar="N", type=click.IntRange(1, 20_000), default=100, help="So many connections.")
@option("--processes", metavar="N", type=click.IntRange(1, 64), default=1, help="Spread over so many processes.")
@option(
    "--shape",
    type=click.Choice(["same", "random", "all"]),
    default="same",
    help="All follow the same products (the first --each), each --each products drawn by Zipf, or everything.",
)
@option("--each", "products_each", metavar="K", type=click.IntRange(min=1), help="Products a client.  [default: all]")
@option("--zipf", metavar="S", type=click.FloatRange(0, 10), default=1.0, help="Exponent; 0: all are as popular.")
@option(
    "--channels", metavar="LIST", type=parse_channels, default="ticker", help="Comma list of ticker, trades and book."
)
@option("--conflate-ms", metavar="MS", type=click.IntRange(0, 60_000), default=0, help="Conflation to ask for.")
@option("--join-rate", metavar="R", type=click.FloatRange(min=0), default=0.0, help="Joins a second; 0: all at once.")
@option(
    "--join-timeout", "join_timeout_s", metavar="S", type=_POSITIVE, default=10.0, help="For the last ones to join."
)
@option("--duration", "duration_s", metavar="S", type=_POSITIVE, default=10.0, help="Measured, once all have joined.")
@option("--slow", metavar="SHARE", type=_SHARE, default=0.0, help="Clients that read at a limited rate.")
@option("--slow-ratio", metavar="SHARE", type=_SHARE, default=0.1, help="That rate, as a share of a good client's.")
@option(
    "--slow-bytes", "slow_bytes_per_s", metavar="B", type=click.FloatRange(min=0), default=0.0,
    help="That rate in bytes a second, instead.",
)  # fmt: skip
@option("--stalled", metavar="SHARE", type=_SHARE, default=0.0, help="Clients that stop reading, until the end.")
@option("--flapping", metavar="SHARE", type=_SHARE, default=0.0, help="Clients that cut and come back again and again.")
@option("--flap-every", "flap_every_s", metavar="S", type=_POSITIVE, default=2.0, help="On average.")
@option(
    "--flap", type=click.Choice(["resume", "fresh", "both"]), default="both", help="How they come back: by position?"
)
@option("--misbehaving", metavar="SHARE", type=_SHARE, default=0.0, help="Clients that do what they must not.")
@option(
    "--offences",
    metavar="LIST",
    type=parse_offences,
    help="What they do, in turn.  [default: bad_json,unknown_op,flood,oversized,invalid_frame,unfinished,idle]",
)
@option(
    "--drop-all-after", "drop_all_after_s", metavar="S", type=click.FloatRange(min=0), default=0.0,
    help="All cut at once, so long after the start, and come back; who is checked resumes. 0: never.",
)  # fmt: skip
@option(
    "--settle", "settle_s", metavar="S", type=click.FloatRange(min=0), default=5.0,
    help="For slow and stalled clients to read, at the end, what waits for them.",
)  # fmt: skip
@option(
    "--check", metavar="SHARE", type=_SHARE, default=0.05,
    help="Clients whose positions, trade ids and bytes are checked, at least 2 if any; flapping ones always are.",
)  # fmt: skip
@option(
    "--full-check", metavar="SHARE", type=_SHARE, default=0.0,
    help="Clients whose books, tickers and trades are kept and checked, too; slow and stalled ones always are.",
)  # fmt: skip
@option("--seed", metavar="N", type=int, default=1, help="The same seed makes the same choices.")
@option(
    "--source", "sources", metavar="ADDRESS", multiple=True,
    help="Local address to connect from; several are used in turn (127.0.0.1, 127.0.0.2, … for over 25,000 ports).",
)  # fmt: skip
@option("--heartbeat", "heartbeat_s", metavar="S", type=_POSITIVE, default=1.0, help="The gateway's interval.")
@option("--expect", metavar="CONDITION", multiple=True, help="Exit with 1 unless met; repeatable.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    help="Where the running `lfmesh up` keeps its data.",
)
def load(products: tuple[str, ...], **options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Put a gateway under load with up to 20,000 clients, and measure what they get.

    Clients of all products of the gateway unless some are named. Most only count; latencies are of a sample of all
    messages, from ts_ingest (the venue's bytes reached the mesh) and ts_publish to the receipt here. What is measured
    begins when all have joined; Ctrl-C ends it, with what there is by then.

    A condition is NAME, one of <= >= == != < >, and a number; names are those of --json, with dots between. Such are

    \b
      latency_p50_ms _p95_ms _p99_ms _p999_ms _max_ms   from ts_ingest
      publish_latency_p50_ms …                          from ts_publish
      deliveries_per_s  mb_per_s  joined  not_joined    over all clients
      join.max_ms  first.p50_ms  rejoin.max_ms          joins: all streams begun,
                                        first data, back after a lost connection
      gaps  violations_total  differing  conflations    of checked clients
      merged  trades_missing                            of checked clients
      closes.4001  closes_total  refused_total  errors.BAD_REQUEST
      outcomes.behind  groups.slow.latency.p99_ms
      roles.gateway-0.cpu_percent  roles.gateway-0.rss_mb
      gateway.slow_closed_total         or one of its labels, with a dot:
                                        slow_outbox, slow_stalled, slow_silent

    What was not measured meets no condition: gaps where no message was checked, differing where no two clients got the
    same stream. With any condition, all must have joined (not_joined==0), unless one asks about joined or not_joined.

    Outcomes of slow and stalled clients, each checked in full to its last message: kept_up; conflated (told so, and
    live again by the end); closed (by the gateway); behind (not live by the end of --settle); violated (they were sent
    what the protocol forbids); never_joined. A slow consumer is closed with 4001, but the gateway waits only 2 s for it
    to read that: who reads nothing mostly finds its connection ended, which counts as closes.1006.

    Exit codes: 0; 1: a condition is not met; 2: asked wrongly, or the load did not run (no gateway, unknown products).

    \b
      lfmesh load --clients 1000 --expect 'latency_p99_ms<=10' --expect gaps==0
      lfmesh load --slow 0.05 --stalled 0.05 --expect outcomes.behind==0
      lfmesh load --clients 200 --shape random --each 20 --check 1 --json
    """
    from loadgen.load.config import OFFENCES, LoadConfig

    as_json, data_dir = options.pop("as_json"), options.pop("data_dir")
    conditions = _conditions(options.pop("expect"))
    mesh = _mesh(data_dir, options["url"])
    address = options.pop("url") or (mesh.gateway_url if mesh else DEFAULT_URL)
    options["offences"] = options["offences"] or OFFENCES
    options["products_each"] = options["products_each"] or 0
    options["channels"] = tuple(str(channel) for channel in options["channels"])
    config = LoadConfig(url=address, products=product_ids(products), **options)
    try:
        report = _run(config, mesh)
    except LfmeshError as error:
        click.echo(f"lfmesh load: {error}", err=True)
        return _NOT_RUN
    return _tell(report, conditions, as_json=as_json)


def _conditions(texts: "Sequence[str]") -> "list[Condition]":
    from loadgen.load.expect import BadCondition, parse

    try:
        return [parse(text) for text in texts]
    except BadCondition as error:
        raise click.BadParameter(str(error), param_hint="--expect") from error


def _mesh(data_dir: Path, url: str | None) -> "MeshFile | None":
    """The running mesh, unless another gateway is meant."""
    from lfmesh.client.meshfile import find

    mesh = find(data_dir)
    if mesh is None or url is None:
        return mesh
    return mesh if url in (mesh.gateway_url, *mesh.gateway_urls) else None


def _run(config: "LoadConfig", mesh: "MeshFile | None") -> "LoadReport":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_watched(config, mesh))


async def _watched(config: "LoadConfig", mesh: "MeshFile | None") -> "LoadReport":
    """Run with progress on a terminal, until it is over or Ctrl-C."""
    import time

    from rich.console import Console
    from rich.live import Live

    from lfmesh.cli.interrupts import stop_event
    from loadgen.load.render import Rates, progress
    from loadgen.load.run import Shown, run

    roles = await _roles(mesh) if mesh is not None else None
    with stop_event() as stop:
        if not sys.stderr.isatty():
            return await run(config, roles=roles, stop=stop)
        rates = Rates()
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

            def show(shown: Shown) -> None:
                rates.observe(shown, time.monotonic())
                live.update(progress(shown, rates), refresh=True)

            return await run(config, roles=roles, stop=stop, on_progress=show)


async def _roles(mesh: "MeshFile") -> "list[RoleAddress]":
    """Where each process of the mesh tells of itself: what a registry lists, else its process id."""
    from lfmesh.messages import LookupRequest, View, decode_reply, encode
    from lfmesh.transport import Requester, Transport
    from loadgen.load.roles import RoleAddress

    found = {instance: RoleAddress(instance, pid=pid) for instance, pid in mesh.pids.items()}
    with Transport() as transport:
        for endpoint in mesh.registry_endpoints:
            try:
                header, *_ = await Requester(transport, endpoint).request(encode(LookupRequest()), _LOOKUP_S)
            except LfmeshError:
                continue
            view = decode_reply(header)
            if isinstance(view, View):
                for record in view.services:
                    found[record.instance] = RoleAddress(record.instance, record.http, record.pid)
                break
    once: dict[str, RoleAddress] = {}
    for role in found.values():
        once.setdefault(role.http or role.instance, role)  # workers of one gateway share an address, which tells of all
    return [once[key] for key in sorted(once, key=lambda key: once[key].instance)]


def _tell(report: "LoadReport", conditions: "list[Condition]", *, as_json: bool) -> int:
    import msgspec

    from loadgen.load.expect import implied, judge
    from loadgen.load.render import rendered

    verdicts = [judge(condition, report) for condition in implied(conditions)]
    if as_json:
        judged = [{"condition": str(one.condition), "value": one.value, "met": one.met} for one in verdicts]
        found = {**msgspec.to_builtins(report), "expectations": judged}
        click.echo(msgspec.json.encode(found).decode())
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 160).print(rendered(report))
        for verdict in verdicts:
            click.echo(str(verdict))
    missed = [verdict for verdict in verdicts if not verdict.met]
    if missed and as_json:
        for verdict in missed:
            click.echo(f"lfmesh load: {verdict}", err=True)
    return 1 if missed else 0
