"""Exact decimals: the venue's digits, from the venue to the client.

On the hot path prices and sizes stay text: `check` validates the text against JSON's number grammar (no sign,
no exponent, bounded length) and nothing ever converts it. `Exact` is the type that models and the
client library use: a Decimal whose `str` is the text it came from (`0.00000000`, never `0E-8`).
"""

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a client that has no models needs no Pydantic, whose import costs more than all of ours
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import core_schema

MAX_INTEGER_DIGITS = 20
MAX_FRACTION_DIGITS = 18

DECIMAL_PATTERN = rf"(?:0|[1-9][0-9]{{0,{MAX_INTEGER_DIGITS - 1}}})(?:\.[0-9]{{1,{MAX_FRACTION_DIGITS}}})?"
"""A JSON number without sign or exponent, RFC 8259 section 6, bounded in length."""

is_decimal = re.compile(DECIMAL_PATTERN, re.ASCII).fullmatch
"""Match object if the text is an exact decimal that the mesh accepts, else None."""

_POWERS = tuple(int("1" + "0" * exponent) for exponent in range(MAX_FRACTION_DIGITS + 1))
_ONE = _POWERS[MAX_FRACTION_DIGITS]


def scaled(text: str) -> int:
    """The value of a valid decimal text in units of 10**-18: exact, ordered, equal for `1.1` and `1.10`."""
    whole, _, fraction = text.partition(".")
    if not fraction:
        return int(whole) * _ONE
    return int(whole + fraction) * _POWERS[MAX_FRACTION_DIGITS - len(fraction)]


class Exact(Decimal):
    """A Decimal that keeps its digits: `str(Exact("1.50")) == "1.50"`, `str(Exact("0.00000000")) == "0.00000000"`.

    In Pydantic models it accepts Decimal, int and text of JSON's number grammar, never a float, and its
    JSON Schema is a number. Serialize with `lfmesh.models.to_json`, which writes the digits as a JSON number.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return format(self, "f")

    def __repr__(self) -> str:
        return f"Exact('{self!s}')"

    @classmethod
    def parse(cls, value: object) -> "Exact":
        """An Exact from a Decimal, int or text; ValueError for anything else, floats and exponents included."""
        if isinstance(value, Exact):
            return value
        if isinstance(value, Decimal):
            value = format(value, "f")
        elif isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not is_decimal(value):
            raise ValueError("an exact decimal is text, int or Decimal without sign and exponent, never a float")
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: object, _handler: "GetCoreSchemaHandler"
    ) -> "core_schema.CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: "core_schema.CoreSchema", _handler: "GetJsonSchemaHandler"
    ) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "description": "exact decimal, the venue's digits"}
