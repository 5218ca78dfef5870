"""Every command explains itself, and every option can be given as an environment variable that its help names."""

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner

from lfmesh.cli.root import COMMANDS, cli, execute


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli, info_name="lfmesh")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for inner, subcommand in command.commands.items():
                yield f"{name} {inner}", subcommand
        else:
            yield name, command


ALL = dict(commands())


@pytest.mark.parametrize("name", ["", *COMMANDS, *ALL])
def test_help_of_every_command_renders(name: str) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


def options_of(name: str) -> Iterator[tuple[click.Option, click.Context]]:
    """Each option of a command, with a context as the command line makes it."""
    context = cli.make_context("lfmesh", [], resilient_parsing=True)
    for part in name.split():
        command = ALL[name] if part == name.split()[-1] else cli.get_command(context, part)
        assert command is not None
        context = type(context)(command, parent=context, info_name=part, **command.context_settings)
    for option in ALL[name].params:
        if isinstance(option, click.Option) and "--help" not in option.opts:
            yield option, context


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_also_the_variable_that_its_help_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for option, context in options_of(name):
        record = option.get_help_record(context)
        assert record is not None
        named = re.search(r"\[env var: (LFMESH_[A-Z_]+)", record[1])
        assert named is not None, option.opts
        assert record[1][0] != "[" or "default" in record[1], f"{option.opts} says nothing"
        given = a_value(option)
        monkeypatch.setenv(named[1], given)
        value, source = option.consume_value(context, {})
        assert source is ParameterSource.ENVIRONMENT, named[1]
        by_variable = option.type_cast_value(context, value)
        by_option = option.type_cast_value(context, [given] if option.multiple else given)
        assert by_variable == by_option
        monkeypatch.delenv(named[1])


def a_value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[0])
    if isinstance(option.type, click.IntRange | click.FloatRange):
        return str(max(1, option.type.min or 0))
    if option.is_flag:
        return "true"
    words = {"--source": "sim", "--products": "BTC-USD", "--channels": "ticker", "--offences": "flood"}
    return words.get(option.opts[0], "1")


def test_the_listed_summaries_are_those_of_the_commands() -> None:
    context = click.Context(cli)
    for name, (_, summary) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == summary


def test_general_help_imports_no_command() -> None:
    """`lfmesh --help` stays quick: neither pydantic nor zmq nor rich is imported for it."""
    code = (
        "import sys\n"
        "from lfmesh.cli.root import execute\n"
        "execute(['--help']); execute(['version'])\n"
        "print('imported:', *sorted({'pydantic', 'zmq', 'rich', 'websockets', 'asyncio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_unknown_command_and_option_are_one_line_and_exit_2() -> None:
    for arguments in (["nope"], ["up", "--nope"], ["normalizer"], ["sim", "--port", "x"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("lfmesh")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lfmesh.cli", *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_without_a_command_the_help_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["config"]):
        code = execute(arguments)
        shown = "".join(capsys.readouterr())
        assert code == 2
        assert shown.startswith("Usage: lfmesh")
        assert "explains" not in shown
