"""`lfmesh registry`, `ingestor`, `normalizer`, `snapshotter`, `gateway`: one role, from a configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lfmesh.cli.options import config_option, effective_config, log_changes, log_options, option
from lfmesh.types import Role


def _shard_option[F: Callable[..., Any]](command: F) -> F:
    return option(
        "--shard",
        metavar="K",
        type=click.IntRange(min=0),
        required=True,
        help="The shard, 0 to mesh.shards - 1.",
    )(command)


def _instance_option[F: Callable[..., Any]](command: F) -> F:
    return option(
        "--instance",
        metavar="NAME",
        help="Its stable name; each process needs its own.  [default: the configuration's]",
    )(command)


def _keys(role: Role, **given: object) -> dict[str, dict[str, Any]]:
    """The keys of a role's section that options replace."""
    keys = {key: value for key, value in given.items() if value is not None}
    return {str(role): keys} if keys else {}


def _run(
    role: Role,
    config_path: Path | None,
    changes: dict[str, dict[str, Any]],
    shard: int | None = None,
) -> int:
    config = effective_config(config_path, changes)
    if shard is not None and shard >= config.mesh.shards:
        known = "0" if config.mesh.shards == 1 else f"0 to {config.mesh.shards - 1}"
        raise click.BadParameter(
            f"there is no shard {shard}: mesh.shards is {config.mesh.shards}, so the shard is {known}",
            param_hint="--shard",
        )
    from lfmesh.cli.makers import maker
    from lfmesh.services.runtime import run_service

    return run_service(maker(role, shard), config, role, shard)


@click.command(short_help="Run one registry replica.")
@_instance_option
@config_option
@log_options
def registry(instance: str | None, config_path: Path | None, log_format: str | None, log_level: str | None) -> int:
    """Run one registry replica, through which services find each other.

    It listens at registry.bind_requests and registry.bind_changes. Replicas don't know each other: run as many as you
    like, each with --instance and these addresses of its own (LFMESH_REGISTRY__BIND_REQUESTS, …__BIND_CHANGES), and
    name them all in registry.endpoints. SIGTERM or Ctrl-C ends it in order.
    """
    changes = _keys(Role.REGISTRY, instance=instance)
    return _run(Role.REGISTRY, config_path, changes | log_changes(log_format, log_level))


@click.command(short_help="Run one ingestor: the venue's feed into the mesh.")
@_instance_option
@option(
    "--line",
    type=click.Choice(["A", "B"]),
    help="Which of two lines it is.  [default: ingestor.line, A]",
)
@config_option
@log_options
def ingestor(
    instance: str | None,
    line: str | None,
    config_path: Path | None,
    log_format: str | None,
    log_level: str | None,
) -> int:
    """Run one ingestor: it connects to the venue (section [venue]) and feeds every normalizer.

    Two may carry the same products, one with --line B --instance ingestor-B; if both reach the venue from one address,
    venue.ingestors_per_address is 2 for both. SIGTERM or Ctrl-C ends it in order.
    """
    changes = _keys(Role.INGESTOR, instance=instance, line=line)
    return _run(Role.INGESTOR, config_path, changes | log_changes(log_format, log_level))


@click.command(short_help="Run the normalizer of one shard.")
@_shard_option
@_instance_option
@config_option
@log_options
def normalizer(
    shard: int, instance: str | None, config_path: Path | None, log_format: str | None, log_level: str | None
) -> int:
    """Run the normalizer of one shard: it validates the venue's frames, keeps the books and publishes the streams.

    A second one of the shard (--instance normalizer-0-b) stands by and takes over when the first one fails.
    SIGTERM or Ctrl-C ends it in order.
    """
    changes = _keys(Role.NORMALIZER, instance=instance)
    return _run(Role.NORMALIZER, config_path, changes | log_changes(log_format, log_level), shard)


@click.command(short_help="Run the snapshotter of one shard.")
@_shard_option
@_instance_option
@config_option
@log_options
def snapshotter(
    shard: int, instance: str | None, config_path: Path | None, log_format: str | None, log_level: str | None
) -> int:
    """Run the snapshotter of one shard: it holds the state of every stream and writes it to mesh.data_dir.

    A shard may have a second one (--instance snapshotter-0-b), with a store file of its own; each answers.
    SIGTERM or Ctrl-C ends it in order, with everything written.
    """
    changes = _keys(Role.SNAPSHOTTER, instance=instance)
    return _run(Role.SNAPSHOTTER, config_path, changes | log_changes(log_format, log_level), shard)


@click.command(short_help="Run one gateway: WebSocket and HTTP for clients.")
@_instance_option
@option("--host", metavar="ADDRESS", help="Address to listen on.  [default: gateway.host, 127.0.0.1]")
@option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="0: any free.  [default: gateway.port, 8000]")
@option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 64),
    help="Processes that serve clients on this port, one a core at most (Linux).  [default: gateway.workers, 1]",
)
@config_option
@log_options
def gateway(**options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Run one gateway: it serves WebSocket clients, and HTTP on the same port.

    With --workers N it is N processes, named gateway-0.1 to gateway-0.N, among which the kernel shares out connections.
    Bounds on connections hold for all together, /ready and /metrics of any worker answer for all, and one that dies is
    started again by the process that you start. Tell that one to end, not its workers.

    Run as many gateways as you like, each with --instance and --port of its own. SIGTERM or Ctrl-C ends it in order:
    clients are told to go, and get gateway.drain_s for it.
    """
    changes = _keys(Role.GATEWAY, **{key: options[key] for key in ("instance", "host", "port", "workers")})
    config = effective_config(
        options["config_path"], changes | log_changes(options["log_format"], options["log_level"])
    )
    from lfmesh.cli.crew import run_gateway

    return run_gateway(config)
