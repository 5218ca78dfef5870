"""What clients may ask: the public contract of requests, and `parse_request`, which holds them to it."""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_core import from_json

from lfmesh.models.base import MAX_INTEGER, Count, Model, RequestId

MAX_CONFLATE_MS = 60_000
MIN_SPEED = 0.001
MAX_SPEED = 1e6
"""Of a replay; as many times as fast as it was."""

_POSITIONS = 'a position {"epoch": E, "seq": S} per channel, or a seq where one channel is named'
_ID = "a text of at most 200 characters or an integer of at most 53 bits"
_MOMENT = "a moment as text (2021-04-17T16:43:50Z) or as integer ns since the Unix epoch"
_SPEEDS = "a number from 0.001 to 1000000, or max"

ErrorCode = Literal[
    "INVALID_JSON",
    "BAD_REQUEST",
    "INVALID_OPERATION",
    "UNKNOWN_PRODUCT",
    "UNKNOWN_CHANNEL",
    "TOO_MANY_SUBSCRIPTIONS",
]


class StreamPosition(Model):
    """A place in one stream, as the messages of the stream name it."""

    epoch: Count
    seq: Count


class SubscribeRequest(Model):
    """Follow streams: every named channel of every named product. Requests are additive."""

    op: Literal["subscribe"] = Field(validation_alias=AliasChoices("op", "operation"))
    products: Annotated[list[str], Field(min_length=1)]
    """Product ids."""
    channels: Annotated[list[str], Field(min_length=1)] = Field(default=["ticker"])
    """Any of ticker, trades, book."""
    want_snapshot: bool = True
    """False: begin with the next increment."""
    from_seq: dict[str, Count | dict[str, StreamPosition]] | None = None
    """Go on after these positions: `{product: {channel: {epoch, seq}}}`, or `{product: seq}` with one channel."""
    conflate_ms: Annotated[int, Field(ge=0, le=MAX_CONFLATE_MS)] = 0
    """At most one increment per stream in this many milliseconds, of ticker and book; 0: every one. What comes between
    is merged: the latest ticker, the last size of each level; an increment then carries `prev_seq`. The gateway may
    take the next longer interval of those that it has. Trades are never conflated. Subscribing again to a stream, with
    another value, begins it anew."""
    id: RequestId | None = None
    """Comes back in the answer."""

    @model_validator(mode="after")
    def _bare_seq_needs_one_channel(self) -> "SubscribeRequest":
        bare = self.from_seq is not None and any(isinstance(value, int) for value in self.from_seq.values())
        if bare and len(set(self.channels)) != 1:
            raise ValueError("from_seq: a bare seq needs exactly one channel; else name epoch and seq per channel")
        return self


class UnsubscribeRequest(Model):
    """Leave streams; without products all of them, without channels all channels."""

    op: Literal["unsubscribe"] = Field(validation_alias=AliasChoices("op", "operation"))
    products: list[str] | None = None
    channels: list[str] | None = None
    id: RequestId | None = None


class PingRequest(Model):
    """Answered with `pong` and the same `t`."""

    op: Literal["ping"] = Field(validation_alias=AliasChoices("op", "operation"))
    t: Annotated[int, Field(ge=-(2**63), lt=2**63)] = Field(validation_alias=AliasChoices("t", "timestamp"))
    """Any integer of 64 bits."""
    id: RequestId | None = None


class ReplayRequest(Model):
    """Control a replay (`lfmesh replay --serve`) for everybody who follows it; answered with `replay`.

    A gateway of a live mesh refuses it with INVALID_OPERATION.
    """

    op: Literal["replay"] = Field(validation_alias=AliasChoices("op", "operation"))
    action: Literal["status", "pause", "resume", "seek", "speed"]
    """`seek`: go on from `at`, playing or paused as it was. `speed`: play at `speed` from now on."""
    at: Annotated[int, Field(ge=0, lt=2**63)] | Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """A moment of the archive: ISO 8601 with Z or an offset, or ns since the Unix epoch (as a text, too)."""
    speed: Annotated[float, Field(ge=MIN_SPEED, le=MAX_SPEED)] | Literal["max"] | None = None
    """1: as it was; 10: ten times as fast; `max`: as fast as it is taken."""
    id: RequestId | None = None

    @model_validator(mode="after")
    def _has_what_its_action_needs(self) -> "ReplayRequest":
        if self.action == "seek" and self.at is None:
            raise ValueError("at: seek needs a moment, such as 2021-04-17T16:43:50Z or integer ns")
        if self.action == "speed" and self.speed is None:
            raise ValueError(f"speed: {_SPEEDS}")
        return self


Request = SubscribeRequest | UnsubscribeRequest | PingRequest | ReplayRequest

REQUESTS: dict[str, type[SubscribeRequest | UnsubscribeRequest | PingRequest | ReplayRequest]] = {
    "subscribe": SubscribeRequest,
    "unsubscribe": UnsubscribeRequest,
    "ping": PingRequest,
    "replay": ReplayRequest,
}


class Refusal(NamedTuple):
    """A request that can't be carried out as it stands: what the `error` message will say."""

    code: ErrorCode
    msg: str
    id: str | int | None


def parse_request(text: str | bytes) -> Request | Refusal:
    """The request that a client sent, or why it is none."""
    if not isinstance(text, str):
        return Refusal("BAD_REQUEST", "requests are text frames", None)
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return Refusal("INVALID_JSON", f"not JSON: {error}", None)
    if not isinstance(value, dict):
        return Refusal("BAD_REQUEST", "a request is a JSON object", None)
    return _validated(value)


def _validated(value: dict[str, Any]) -> Request | Refusal:
    op = value.get("op", value.get("operation"))
    if not isinstance(op, str):
        return Refusal("BAD_REQUEST", f"op: a text is required, one of {', '.join(REQUESTS)}", _id_of(value))
    model = REQUESTS.get(op)
    if model is None:
        return Refusal("INVALID_OPERATION", f"unknown op {op[:40]!r}; known: {', '.join(REQUESTS)}", _id_of(value))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return Refusal("BAD_REQUEST", _explain(error), _id_of(value))


class _OnlyId(msgspec.Struct):
    id: str | int | None = None


_only_id = msgspec.json.Decoder(_OnlyId)


def request_id(text: str | bytes) -> str | int | None:
    """The `id` of a request that will not be carried out, found cheaply; None if it has none or is no request."""
    try:
        return _id_of({"id": _only_id.decode(text).id})
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


def _id_of(value: dict[str, Any]) -> str | int | None:
    found = value.get("id")
    if isinstance(found, str) and len(found) <= 200:
        return found
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) <= MAX_INTEGER:
        return found
    return None


_IN_SHORT: dict[tuple[str | int, ...], str] = {("id",): _ID, ("at",): _MOMENT, ("speed",): _SPEEDS}
"""What is to stand in a field of several possible types."""


def _explain(error: ValidationError) -> str:
    """The faults in short. A value of several possible types has a fault for each, but is one thing that is wrong."""
    faults: dict[tuple[str | int, ...], str] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        loc, msg = fault["loc"], fault["msg"].removeprefix("Value error, ")
        if loc[:1] == ("from_seq",):
            loc, msg = loc[:2], _POSITIONS  # below the product comes the name of a type
        elif loc[:1] in _IN_SHORT:
            loc, msg = loc[:1], _IN_SHORT[loc[:1]]
        faults.setdefault(loc, msg)
    told = [f"{'.'.join(str(part)[:40] for part in loc)}: {msg}" if loc else msg for loc, msg in faults.items()]
    return "; ".join(told if len(told) <= 3 else [*told[:3], f"and {len(told) - 3} more"])
