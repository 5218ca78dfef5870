"""The group of all commands, and how it ends: exit 0, 1 (it could not be done), 2 (asked wrongly), 130 (Ctrl-C).

A mistake of the user's is one line on standard error. An exception that nobody expected is a bug, and shows
its traceback.
"""

import errno
import importlib
import sys

import click

from lfmesh import __version__
from lfmesh.errors import LfmeshError

COMMANDS = {
    "up": ("lfmesh.cli.up.command", "Run the whole mesh on this machine."),
    "watch": ("lfmesh.cli.watch", "Show what a gateway sends, live."),
    "top": ("lfmesh.cli.top", "Show every role of a running mesh, live."),
    "load": ("lfmesh.cli.load", "Put a gateway under load, and measure what its clients get."),
    "registry": ("lfmesh.cli.roles", "Run one registry replica."),
    "ingestor": ("lfmesh.cli.roles", "Run one ingestor: the venue's feed into the mesh."),
    "normalizer": ("lfmesh.cli.roles", "Run the normalizer of one shard."),
    "snapshotter": ("lfmesh.cli.roles", "Run the snapshotter of one shard."),
    "gateway": ("lfmesh.cli.roles", "Run one gateway: WebSocket and HTTP for clients."),
    "state": ("lfmesh.cli.state", "Print a book, ticker or the trades as of a moment."),
    "replay": ("lfmesh.cli.replay", "Play the archive: to standard output, to clients, or to a hash."),
    "export": ("lfmesh.cli.export.command", "Write the archive to Parquet or CSV files."),
    "record": ("lfmesh.cli.record", "Record the venue's frames to a tape."),
    "store": ("lfmesh.cli.store.command", "Look after the stores: states and archive."),
    "sim": ("lfmesh.cli.sim", "Run the exchange simulator, or play a tape."),
    "config": ("lfmesh.cli.configuration", "Check and show the configuration."),
    "version": ("lfmesh.cli.version", "Print the version."),
}
"""Module and summary of each command, in the order of `lfmesh --help`, which reads only this."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The summaries, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    name="lfmesh",
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": "LFMESH",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, message="lfmesh %(version)s")
def cli() -> None:
    """LedgerFlux Mesh: an exchange's public feed, validated and fanned out to WebSocket clients.

    Each client gets a snapshot, then increments, in order per product, with nothing silently lost.

    \b
      lfmesh up                          the whole mesh, on a simulated exchange
      lfmesh watch BTC-USD ETH-USD       what a client sees
      lfmesh top                         how every process is doing

    Every option can also be given as the environment variable that its help names. Keys of the configuration have
    variables of the form LFMESH_SECTION__KEY, such as LFMESH_GATEWAY__PORT; configs/local.toml lists them all.
    Precedence: command line, its variables, the configuration's variables, the file given by --config, defaults.
    """


def run(arguments: list[str] | None = None) -> None:
    """Run the command line (None: of this process) and exit."""
    sys.exit(execute(arguments))


def execute(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        result = cli.main(arguments, prog_name="lfmesh", standalone_mode=False)
    except click.UsageError as error:
        return _misused(error)
    except click.ClickException as error:
        return _fail(error.format_message())
    except LfmeshError as error:
        return _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        from lfmesh.cli.interrupts import discard_output

        discard_output()
        return 0
    return result if isinstance(result, int) else 0


def _misused(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group without its command: the message is the help
        error.show()
        return error.exit_code
    command = error.ctx.command_path if error.ctx is not None else "lfmesh"
    message = error.format_message().rstrip(".")
    click.echo(f"{command}: {message} ({command} --help explains)", err=True)
    return error.exit_code


def _fail(message: str) -> int:
    click.echo(f"lfmesh: {message}", err=True)
    return 1
