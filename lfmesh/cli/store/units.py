"""Sizes and durations as people write them, and times as a table shows them."""

import re
from datetime import UTC, datetime
from fractions import Fraction

import click

_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)
_BYTES = {
    "": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3, "t": 1000**4,
    "tb": 1000**4, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Option type: bytes, with a unit or without (`500MB`, `2GiB`)."""
    number = _times(text, _BYTES)
    if number is None:
        raise click.BadParameter(f"{text!r} is no size: such as 500MB, 2GiB, or bytes")
    return int(number)


def parse_duration(text: str) -> float:
    """Option type: seconds, or with a unit (`90s`, `15m`, `12h`, `30d`, `2w`)."""
    number = _times(text, _SECONDS)
    if number is None:
        raise click.BadParameter(f"{text!r} is no duration: such as 30d, 12h, 15m, or seconds")
    return float(number)


def size(count: int) -> str:
    """Bytes for people: `0 B`, `999 B`, `1.2 MB`, `35 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def moment(ns: int) -> str:
    """A time for people, to the second, UTC."""
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S}Z"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 segment`, `2,000 segments`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _times(text: str, units: dict[str, int]) -> Fraction | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        return None
    return Fraction(match[1]) * units[match[2].lower()]
