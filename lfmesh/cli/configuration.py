"""`lfmesh config`: check and show what a process would run with."""

from pathlib import Path

import click

from lfmesh.cli.options import config_option


@click.group(short_help="Check and show the configuration.")
def config() -> None:
    """Check and show the configuration."""


@config.command(short_help="Validate the configuration and print it.")
@config_option
def check(config_path: Path | None) -> int:
    """Validate the configuration and print the effective one, as TOML.

    What counts is what a process started here would get: the file, the LFMESH_SECTION__KEY variables of this
    environment, and defaults. Every fault is named on a line of its own, and the exit code is then 1.

    \b
      lfmesh config check --config configs/local.toml
      LFMESH_MESH__SHARDS=4 lfmesh config check
    """
    from lfmesh.cli.toml import to_toml
    from lfmesh.config import load
    from lfmesh.core.sharding import products_of
    from lfmesh.errors import ConfigError

    try:
        loaded = load(config_path)
    except ConfigError as error:
        for fault in error.faults or (str(error),):
            click.echo(f"lfmesh: {fault}", err=True)
        return 1
    click.echo(to_toml(loaded), nl=False)
    mesh = loaded.mesh
    counts = [len(products_of(shard, mesh.products, mesh.shards)) for shard in range(mesh.shards)]
    source = config_path or "environment and defaults"
    click.echo(
        f"lfmesh: {source}: valid; {len(mesh.products)} products on {mesh.shards} shards "
        f"({', '.join(f'{shard}: {count}' for shard, count in enumerate(counts))})",
        err=True,
    )
    return 0
