"""`lfmesh version`."""

import platform

import click

from lfmesh import __version__


@click.command(short_help="Print the version.")
def version() -> None:
    """Print the version of lfmesh and of the Python that runs it."""
    click.echo(f"lfmesh {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
