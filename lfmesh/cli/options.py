"""Options that several commands share, and the parameter types of their values."""

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from lfmesh.config import Config
    from lfmesh.types import Channel

DEFAULT_HOME = ".lfmesh"
"""Where `lfmesh watch` and `top` look for a running mesh: the default of mesh.data_dir."""

_product = re.compile(r"[A-Z0-9]{1,20}(-[A-Z0-9]{1,20}){1,3}")


def option[F: Callable[..., Any]](*names: str, **settings: Any) -> Callable[[F], F]:  # noqa: ANN401 - what click takes
    """A click option whose help names its environment variable."""
    return click.option(*names, show_envvar=True, **settings)


def config_option[F: Callable[..., Any]](command: F) -> F:
    """`--config FILE`."""
    return option(
        "--config",
        "config_path",
        envvar="LFMESH_CONFIG",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Configuration, TOML; configs/local.toml is an example with every key explained.",
    )(command)


def data_dir_option[F: Callable[..., Any]](command: F) -> F:
    """`--data-dir DIR` of a command that reads an archive; None where the configuration decides."""
    return option(
        "--data-dir",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the mesh keeps, or kept, its data.  [default: mesh.data_dir, .lfmesh]",
    )(command)


def log_options[F: Callable[..., Any]](command: F) -> F:
    """`--log-format` and `--log-level`; None where the configuration decides."""
    command = option(
        "--log-level",
        envvar="LFMESH_LOG_LEVEL",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least severe level written.  [default: the configuration's, info]",
    )(command)
    return option(
        "--log-format",
        envvar="LFMESH_LOG_FORMAT",
        type=click.Choice(["console", "json"]),
        help="Log lines for people or for machines.  [default: the configuration's, console]",
    )(command)


def log_changes(log_format: str | None, log_level: str | None) -> dict[str, dict[str, Any]]:
    """The configuration keys that `log_options` replace."""
    given = {"format": log_format, "level": log_level}
    changes = {key: value for key, value in given.items() if value is not None}
    return {"log": changes} if changes else {}


def effective_config(path: Path | None, *changes: dict[str, dict[str, Any]]) -> "Config":
    """The configuration of a command: file and environment, then what its options replace; ConfigError."""
    from lfmesh import config

    loaded = config.load(path)
    merged: dict[str, dict[str, Any]] = {}
    for change in changes:
        for section, keys in change.items():
            merged.setdefault(section, {}).update(keys)
    return loaded.override(merged) if merged else loaded


def parse_products(text: str) -> tuple[str, ...]:
    """Option type: a comma list of product ids, each once, in capitals whatever was typed."""
    products = tuple(part.strip().upper() for part in text.split(",") if part.strip())
    for product in products:
        if not _product.fullmatch(product):
            raise click.BadParameter(f"{product!r} is no product id, such as BTC-USD")
    if not products:
        raise click.BadParameter("name at least one product, such as BTC-USD")
    return tuple(dict.fromkeys(products))


def parse_channels(text: str) -> "tuple[Channel, ...]":
    """Option type: a comma list of the mesh's channels, each once, in the mesh's order."""
    from lfmesh.types import CHANNELS

    named = {part.strip().lower() for part in text.split(",") if part.strip()}
    unknown = named.difference(CHANNELS)
    if unknown or not named:
        what = f"{', '.join(sorted(unknown))} is no channel" if unknown else "name at least one channel"
        raise click.BadParameter(f"{what}: {', '.join(CHANNELS)}")
    return tuple(channel for channel in CHANNELS if channel in named)


def parse_moment(text: str) -> int:
    """Option type: a moment as ISO 8601 with a zone, or integer ns since 1970; as ns since the Unix epoch."""
    from lfmesh.core.times import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_speed(text: str) -> float | Literal["max"]:
    """Option type: a positive number, or `max`."""
    if text == "max":
        return "max"
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise click.BadParameter(f"{text!r} is no speed: a positive number, or max")
    return speed


def product_ids(values: tuple[str, ...]) -> tuple[str, ...]:
    """Product ids given as arguments, each possibly a comma list; a usage error names what is none."""
    given = ",".join(values)
    return parse_products(given) if given else ()


def is_given(path: Path | None, section: str, key: str) -> bool:
    """Whether the file or the environment names a configuration key, so that its value is more than a default."""
    variables = {name.upper() for name in os.environ}
    if {f"LFMESH_{section}__{key}".upper(), f"LFMESH_{section}".upper()} & variables:
        return True
    return path is not None and key in tomllib.loads(path.read_text(encoding="utf-8")).get(section, {})
