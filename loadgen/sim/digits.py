"""Integers in, the venue's texts out: decimals, times, order ids.

Prices are counted in ticks and sizes in lots (whole numbers of 10**-digits); they become text only here.
"""

from datetime import UTC, datetime

_MASK64 = (1 << 64) - 1


def padded(units: int, digits: int) -> str:
    """`units` of 10**-digits with all their fraction digits: books and increments. `units` is not negative."""
    if digits == 0:
        return str(units)
    text = str(units)
    if len(text) <= digits:
        text = text.zfill(digits + 1)
    return f"{text[:-digits]}.{text[-digits:]}"


def trimmed(units: int, digits: int) -> str:
    """The same without trailing zeros, as the venue writes prices and sizes of trades."""
    text = padded(units, digits)
    if digits == 0 or text[-1] != "0":
        return text
    return text.rstrip("0").rstrip(".")


class IsoTimes:
    """Formats microseconds since the epoch as `2021-04-17T16:43:37.075687Z`; remembers the last second's text."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def text(self, time_us: int) -> str:
        """ISO 8601 in UTC with six fraction digits."""
        second, micros = divmod(time_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{micros:06d}Z"


def order_id(number: int) -> str:
    """A 128-bit number in the shape of a random UUID (RFC 9562 version 4)."""
    text = f"{number & ((1 << 128) - 1):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def mixed(number: int) -> int:
    """64 bits that look random, a pure function of `number` (the finalizer of SplitMix64)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK64
    return number ^ (number >> 31)
