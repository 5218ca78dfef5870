"""JSON text of models and back, with every digit of every price and size kept.

Pydantic's own JSON reading and writing pass decimals through other types, so neither is used for messages: numbers
with a fraction are read as `Exact` from their text and written as their text.
"""

import json
from functools import cache
from typing import Any, NoReturn

import msgspec
from pydantic import BaseModel, TypeAdapter

from lfmesh.exact import Exact
from lfmesh.models.messages import Message


def _write(value: object) -> msgspec.Raw:
    if isinstance(value, Exact):
        return msgspec.Raw(str(value).encode("ascii"))
    raise TypeError(f"{type(value).__name__} has no JSON form in this protocol")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=_write)
_decoder = json.JSONDecoder(parse_float=Exact.parse, parse_constant=_refuse)


@cache
def _messages() -> TypeAdapter[Message]:
    return TypeAdapter(Message)


def to_json(model: BaseModel) -> bytes:
    """The JSON text of a message or request, compact, as it goes over the wire; fields that were not set are absent."""
    return _encoder.encode(model.model_dump(exclude_unset=True, by_alias=True))


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON is anything
    """JSON with numbers that have a fraction as `Exact`; ValueError if it is none, or has a sign or an exponent."""
    return _decoder.decode(text if isinstance(text, str) else text.decode())


def parse_message(text: str | bytes) -> Message:
    """A message from the gateway, checked against its model; ValueError (pydantic's ValidationError among them)."""
    return _messages().validate_python(parse_json(text))
