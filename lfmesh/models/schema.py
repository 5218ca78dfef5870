"""JSON Schema (Draft 2020-12) of the client protocol, from the models."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from lfmesh.models.messages import Message
from lfmesh.models.requests import Request

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLACE = "#/$defs/{model}"


@cache
def schema() -> dict[str, Any]:
    """One schema for any frame of the protocol; `#/$defs/Request` and `#/$defs/Message` are its two directions."""
    _, parts = TypeAdapter.json_schemas(
        [("request", "validation", TypeAdapter(Request)), ("message", "validation", TypeAdapter(Message))],
        ref_template=_PLACE,
    )
    schemas, shared = _, parts
    return {
        "$schema": _DIALECT,
        "title": "LedgerFlux Mesh client protocol",
        "description": "Text frames over WebSocket, one JSON object a frame. px and qty are exact decimals: read the "
        "digits, not a binary float.",
        "anyOf": [{"$ref": "#/$defs/Request"}, {"$ref": "#/$defs/Message"}],
        "$defs": {
            **shared.get("$defs", {}),
            "Request": schemas[("request", "validation")],
            "Message": schemas[("message", "validation")],
        },
    }
