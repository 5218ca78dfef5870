"""Moments as people and programs write them, as ns since the Unix epoch, and back. No float comes near them."""

import re
from datetime import UTC, datetime

_NS = 1_000_000_000
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NS = (1 << 63) - 1
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9}))?([Zz]|[+-]\d\d(?::?\d\d)?)", re.ASCII
)
_INTEGER = re.compile(r"\d{1,19}", re.ASCII)
_ZONELESS = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d)?([.,]\d{1,9})?)?", re.ASCII)


def parse_time(text: str) -> int:
    """ns since the Unix epoch of an ISO 8601 moment (`2021-04-17T16:43:50.123456789Z`, `… +02:00`) or of integer ns.

    ValueError, fit for a user, for anything else: a moment without a zone among them, which could be any of 38.
    """
    text = text.strip()
    if _INTEGER.fullmatch(text):
        ns = int(text)
        if ns > _MAX_NS:
            raise ValueError(f"{text} is too late: ns since 1970 are below 2^63")
        return ns
    match = _MOMENT.fullmatch(text)
    if match is None:
        if _ZONELESS.fullmatch(text):
            raise ValueError(f"{text!r} names no zone: write {_with_zone(text)} for UTC, or an offset such as +02:00")
        raise ValueError(f"{text[:60]!r} is no moment: 2021-04-17T16:43:50Z, with an offset, or integer ns since 1970")
    day, clock, fraction, zone = match.groups()
    whole = clock if len(clock) > len("00:00") else clock + ":00"
    try:
        moment = datetime.fromisoformat(f"{day}T{whole}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as error:
        raise ValueError(f"{text!r} is no moment: {error}") from None
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).days * 86400 + (
        moment - datetime(1970, 1, 1, tzinfo=UTC)
    ).seconds
    ns = seconds * _NS + int((fraction or "").ljust(9, "0"))
    if not 0 <= ns <= _MAX_NS:
        raise ValueError(f"{text!r} is out of range: from 1970 to 2262")
    return ns


def format_time(ns: int) -> str:
    """ISO 8601 in UTC with all nine digits of the fraction: `2021-04-17T16:43:50.123456789Z`."""
    seconds, fraction = divmod(ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def _with_zone(text: str) -> str:
    return f"{text}Z" if len(text) > len("2021-04-17") else f"{text}T00:00Z"
