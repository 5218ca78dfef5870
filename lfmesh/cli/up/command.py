"""`lfmesh up`: the options, their faults, and one run."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from lfmesh import __version__
from lfmesh.cli.interrupts import ending_signals
from lfmesh.cli.options import (
    config_option,
    effective_config,
    is_given,
    log_changes,
    log_options,
    option,
    parse_products,
    parse_speed,
)

if TYPE_CHECKING:
    from lfmesh.cli.up.plan import Plan, Topology
    from lfmesh.cli.up.zygote import Zygote
    from lfmesh.config import Config
    from loadgen.sim import SimConfig

COINBASE_PRODUCTS = (
    "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "LINK-USD", "AVAX-USD", "BTC-EUR",
)  # fmt: skip
SIMULATED_PRODUCTS = 10

Source = tuple[Literal["sim", "coinbase", "tape"], Path | None]


def parse_source(text: str) -> Source:
    """Option type: where the data comes from."""
    match text.partition(":"):
        case ("sim", "", ""):
            return "sim", None
        case ("coinbase", "", ""):
            return "coinbase", None
        case ("tape", ":", path) if path:
            return "tape", Path(path).expanduser()
    raise click.BadParameter(f"{text!r} is no source: it is sim, coinbase, or tape:FILE")


@click.command(short_help="Run the whole mesh on this machine.")
@option(
    "--source",
    metavar="sim|coinbase|tape:FILE",
    type=parse_source,
    default="sim",
    help="Where the data comes from: a simulated exchange, Coinbase Exchange itself, or a recorded tape.",
)
@option(
    "--speed", metavar="S", type=parse_speed, default="1", help="Speed of the tape: 1, any positive number, or max."
)
@option(
    "--tape-start",
    type=click.Choice(["client", "now"]),
    default="client",
    help="The tape begins when the first client has subscribed, or as soon as the mesh listens.",
)
@option(
    "--rate",
    metavar="R",
    type=click.IntRange(1, 20_000),
    default=200,
    help="Messages a second of the simulated exchange, over all products.",
)
@option(
    "--products",
    metavar="LIST|N",
    help="Comma list of product ids, or the number of simulated ones.  [default: the configuration's if it names "
    "any; else 10 well-known ones, or all of the tape]",
)
@option("--shards", metavar="N", type=click.IntRange(1, 64), help="[default: mesh.shards, 2]")
@option(
    "--lines",
    type=click.Choice(["A", "AB"]),
    default="A",
    help="AB: two ingestors carry every product; what one misses comes by the other.",
)
@option(
    "--standby/--no-standby",
    default=False,
    help="Two normalizers and two snapshotters a shard: one publishes, the other follows and takes over.",
)
@option("--gateways", metavar="N", type=click.IntRange(1, 16), default=1, help="So many, each on a port of its own.")
@option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Processes that each gateway has to serve clients on its port (Linux).  [default: gateway.workers, 1]",
)
@option(
    "--registries",
    metavar="N",
    type=click.IntRange(1, 5),
    help="So many replicas.  [default: 1, with --standby 2]",
)
@option(
    "--gateway-port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Of the first gateway; the others have those that follow, or any. 0: any free.  [default: gateway.port, 8000]",
)
@option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where states are kept (those of a simulation or tape for one run only); one mesh at a time.  "
    "[default: mesh.data_dir, .lfmesh]",
)
@config_option
@log_options
def up(**options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Run the whole mesh on this machine: every role a process of its own, under a supervisor.

    It says where clients connect, shows a line for each role (state, process, rates), starts again what dies, and
    ends everything in order within 3 s on Ctrl-C. `lfmesh watch` and `lfmesh top` find it by themselves.

    \b
      lfmesh up
      lfmesh up --rate 5000 --products 50 --shards 4
      lfmesh up --lines AB --standby --gateways 2
      lfmesh up --source coinbase --products BTC-USD,ETH-EUR
      lfmesh up --source tape:day.tape --speed 10 --gateway-port 0

    Warnings and errors of the roles are shown; --log-level info shows more. Keys of the configuration hold for all
    roles, but for their addresses: these are private to this mesh.
    """
    _refuse_idle_options(click.get_current_context(), options["source"][0])
    plan = make_plan(options)
    # From here on there are things to clean up: signals wait until the loop can take them.
    signal.pthread_sigmask(signal.SIG_BLOCK, ending_signals())
    from lfmesh.cli.up.dirs import lock_data_dir

    lock = lock_data_dir(plan.home)
    try:
        _run_in_private(plan)
    finally:
        os.close(lock)
    return 0


def _refuse_idle_options(ctx: click.Context, source: str) -> None:
    """An option that would do nothing with this source is a mistake."""
    belongs = {"speed": "tape", "tape_start": "tape", "rate": "sim"}
    for name, to in belongs.items():
        if source != to and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            shown = "tape:FILE" if to == "tape" else to
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --source {shown} only")


def make_plan(options: dict[str, Any]) -> "Plan":
    """What is to be run, with everything checked that can be before a process is started."""
    from lfmesh.archive.places import SIMULATED
    from lfmesh.cli.up.plan import Plan
    from lfmesh.errors import ConfigError

    path: Path | None = options["config_path"]
    config = effective_config(path)
    mesh = {"shards": options["shards"], "data_dir": options["data_dir"]}
    gateway = {"port": options["gateway_port"], "workers": options["workers"]}
    changes: dict[str, dict[str, Any]] = {
        "mesh": {key: value for key, value in mesh.items() if value is not None},
        "gateway": {key: value for key, value in gateway.items() if value is not None},
        "log": {} if is_given(path, "log", "level") else {"level": "warning"},
    }
    if options["lines"] == "AB":
        changes["venue"] = {"ingestors_per_address": 2}
    changes["log"].update(log_changes(options["log_format"], options["log_level"]).get("log", {}))
    config = config.override(changes)
    named = _named_products(options["products"])
    if named is None and is_given(path, "mesh", "products"):
        named = config.mesh.products
    simulator, products, words = _source(options, named)
    home = config.mesh.data_dir
    states = home / SIMULATED if simulator else home
    config = config.override({"mesh": {"products": products, "data_dir": states}})
    if simulator and _shares_stores(config):
        config = config.override({"venue": {"name": _run_name(options["source"][0])}})
    tape_start = options["tape_start"] if options["source"][0] == "tape" else None
    plan = Plan(home, config, words, simulator, tape_start, _topology(options))
    names = [unit.name for unit in plan.units()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two processes would be named {twice[0]}: instance names must differ (use {{shard}} in them)"
        )
    return plan


def _shares_stores(config: "Config") -> bool:
    return config.store.state != "embedded" or config.store.objects != "folder"


def _run_name(kind: str) -> str:
    """A venue's name of its own for a simulated or recorded session on stores that outlive it: its trade ids begin
    anew, so nothing of an earlier session may be taken for its past, nor of it for a real venue's."""
    kind = "recorded" if kind == "tape" else "simulated"
    return f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"


def _topology(options: dict[str, Any]) -> "Topology":
    from lfmesh.cli.up.plan import Topology

    standby: bool = options["standby"]
    return Topology(
        lines=("A", "B") if options["lines"] == "AB" else (),
        standby=standby,
        gateways=options["gateways"],
        registries=options["registries"] or (2 if standby else 1),
    )


def _named_products(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        from loadgen.sim import products

        return products(int(text))
    try:
        return parse_products(text)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="'--products'") from error


def _source(options: dict[str, Any], named: tuple[str, ...] | None) -> "tuple[SimConfig | None, tuple[str, ...], str]":
    """The simulator if there is one, the products, and the source in words."""
    kind, path = options["source"]
    if kind == "coinbase":
        products = named or COINBASE_PRODUCTS
        return None, products, f"Coinbase Exchange, {_count(products)}"
    from loadgen import tape
    from loadgen.sim import SimConfig
    from loadgen.sim import products as simulated

    if kind == "sim":
        products = named or simulated(SIMULATED_PRODUCTS)
        simulator = SimConfig(products=products, rate_msgs_s=options["rate"])
        return simulator, products, f"simulated exchange, {_count(products)} at {options['rate']} messages/s"
    recorded = tape.products(path)
    unknown = sorted(set(named or ()) - set(recorded))
    if unknown:
        raise click.UsageError(f"{path} has no {', '.join(unknown)}; it has {', '.join(recorded)}")
    products = named or recorded
    speed = options["speed"]
    simulator = SimConfig(tape=path, tape_speed=speed, tape_start="control")
    return simulator, products, f"tape {path} at speed {speed if speed == 'max' else f'{speed:g}'}, {_count(products)}"


def _count(products: tuple[str, ...]) -> str:
    return _plural(len(products), "product")


def _run_in_private(plan: "Plan") -> None:
    """Run with a private folder for sockets, which is gone afterwards, however this process ends."""
    from lfmesh.cli.archive import note_venue_name
    from lfmesh.cli.up import child, zygote
    from lfmesh.cli.up.dirs import forget_states, make_runtime_dir, remove_runtime_dir
    from lfmesh.cli.up.plan import with_private_addresses
    from lfmesh.client import meshfile

    runtime_dir = make_runtime_dir(plan.home)

    def clean() -> None:
        remove_runtime_dir(runtime_dir)
        meshfile.remove(plan.home)

    if plan.simulator is not None:
        forget_states(plan.config.mesh.data_dir)
        if _shares_stores(plan.config):
            note_venue_name(plan.config)

    try:
        private = with_private_addresses(plan, runtime_dir)
        born = zygote.start(child.preload, child.runner(private), clean)
        asyncio.run(_run(private, born, runtime_dir))
    finally:
        clean()


async def _run(plan: "Plan", born: "Zygote", runtime_dir: Path) -> None:
    from lfmesh.cli.up.mesh import Mesh
    from lfmesh.cli.up.screen import LiveScreen, PlainScreen, Screen
    from lfmesh.transport import Transport

    config = plan.config
    title = _title(plan)
    as_json = config.log.format == "json"
    screen: Screen = LiveScreen(title) if sys.stdout.isatty() and not as_json else PlainScreen(title, json=as_json)
    with Transport() as transport:
        await Mesh(plan, born, screen, runtime_dir, transport).run()


def _title(plan: "Plan") -> str:
    topology, workers = plan.topology, plan.config.gateway.workers
    parts = [
        plan.source,
        _plural(plan.config.mesh.shards, "shard") + (" in pairs" if topology.standby else ""),
        *(["lines A and B"] if topology.lines else []),
        *([_gateways(topology.gateways, workers)] if topology.gateways > 1 or workers > 1 else []),
        f"data in {plan.config.mesh.data_dir}",
        *([f"stored as venue.name {plan.config.venue.name}"] if plan.simulator and _shares_stores(plan.config) else []),
    ]
    return f"LedgerFlux Mesh {__version__}: {'; '.join(parts)}"


def _gateways(count: int, workers: int) -> str:
    return _plural(count, "gateway") + (f" of {workers} workers" if workers > 1 else "")


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
