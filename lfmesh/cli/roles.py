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
@config_option
@log_options
def registry(config_path: Path | None, log_format: str | None, log_level: str | None) -> int:
    """Run one registry replica, through which services find each other.

    It listens at registry.bind_requests and registry.bind_changes. Replicas don't know each other: run as many as you
    like and name them all in registry.endpoints. SIGTERM or Ctrl-C ends it in order.
    """
    return _run(Role.REGISTRY, config_path, log_changes(log_format, log_level))


@click.command(short_help="Run one ingestor: the venue's feed into the mesh.")
@config_option
@log_options
def ingestor(config_path: Path | None, log_format: str | None, log_level: str | None) -> int:
    """Run one ingestor: it connects to the venue (section [venue]) and feeds every normalizer.

    SIGTERM or Ctrl-C ends it in order.
    """
    return _run(Role.INGESTOR, config_path, log_changes(log_format, log_level))


@click.command(short_help="Run the normalizer of one shard.")
@_shard_option
@config_option
@log_options
def normalizer(shard: int, config_path: Path | None, log_format: str | None, log_level: str | None) -> int:
    """Run the normalizer of one shard: it validates the venue's frames, keeps the books and publishes the streams.

    SIGTERM or Ctrl-C ends it in order.
    """
    return _run(Role.NORMALIZER, config_path, log_changes(log_format, log_level), shard)


@click.command(short_help="Run the snapshotter of one shard.")
@_shard_option
@config_option
@log_options
def snapshotter(shard: int, config_path: Path | None, log_format: str | None, log_level: str | None) -> int:
    """Run the snapshotter of one shard: it holds the state of every stream and writes it to mesh.data_dir.

    SIGTERM or Ctrl-C ends it in order, with everything written.
    """
    return _run(Role.SNAPSHOTTER, config_path, log_changes(log_format, log_level), shard)


@click.command(short_help="Run one gateway: WebSocket and HTTP for clients.")
@option("--host", metavar="ADDRESS", help="Address to listen on.  [default: gateway.host, 127.0.0.1]")
@option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="0: any free.  [default: gateway.port, 8000]")
@config_option
@log_options
def gateway(
    host: str | None, port: int | None, config_path: Path | None, log_format: str | None, log_level: str | None
) -> int:
    """Run one gateway: it serves WebSocket clients, and HTTP on the same port.

    SIGTERM or Ctrl-C ends it in order: clients are told to go, and get gateway.drain_s for it.
    """
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    changes: dict[str, dict[str, Any]] = {"gateway": given} if given else {}
    return _run(Role.GATEWAY, config_path, changes | log_changes(log_format, log_level))
