"""What the gateway says beside market data, as JSON made from the public models."""

from collections.abc import Iterable, Sequence

from lfmesh.exact import Exact
from lfmesh.models import (
    Error,
    ErrorCode,
    GoAway,
    Heartbeat,
    Pong,
    RateLimit,
    ReplayStatus,
    Subscribed,
    Unsubscribed,
    to_json,
)
from lfmesh.ports import ReplayState
from lfmesh.types import Channel

RequestId = str | int | None

_NAMED = 10
_NAME_LENGTH = 40


def subscribed(request_id: RequestId, products: Sequence[str], channels: Sequence[Channel]) -> bytes:
    """These streams are followed from now on."""
    return to_json(Subscribed(op="subscribed", products=[*products], channels=[*channels], **_id(request_id)))


def unsubscribed(request_id: RequestId, products: Sequence[str], channels: Sequence[Channel]) -> bytes:
    """These streams are followed no more."""
    return to_json(Unsubscribed(op="unsubscribed", products=[*products], channels=[*channels], **_id(request_id)))


def pong(t: int, request_id: RequestId) -> bytes:
    """The answer to a ping."""
    return to_json(Pong(op="pong", t=t, **_id(request_id)))


def rate_limit(retry_ms: int, request_id: RequestId) -> bytes:
    """The request was not carried out: too many of them."""
    return to_json(RateLimit(op="rate_limit", retry_ms=retry_ms, **_id(request_id)))


def heartbeat(ts: int) -> bytes:
    """Nothing else was sent."""
    return to_json(Heartbeat(op="heartbeat", ts=ts))


def error(code: ErrorCode, msg: str, request_id: RequestId) -> bytes:
    """The request, or a part of it, was not carried out."""
    return to_json(Error(op="error", code=code, msg=msg, **_id(request_id)))


def goaway(reconnect_ms: int) -> bytes:
    """The gateway ends; connect again."""
    return to_json(GoAway(op="goaway", reason="draining", reconnect_ms=reconnect_ms))


def replay(state: ReplayState, request_id: RequestId = None) -> bytes:
    """Where the replay is."""
    return to_json(
        ReplayStatus(
            op="replay",
            state=state.state,
            at=state.at,
            from_=state.start,
            to=state.end,
            speed="max" if state.speed is None else _number(state.speed),
            run=state.run,
            **_id(request_id),
        )
    )


def _number(value: float) -> Exact:
    """With at most six digits after the point, and no exponent."""
    return Exact.parse(f"{value:.6f}".rstrip("0").rstrip("."))


def names(values: Iterable[str]) -> str:
    """What a client named, for an error message; long lists and long names are cut."""
    listed = [*values]
    shown = ", ".join(value if len(value) <= _NAME_LENGTH else value[:_NAME_LENGTH] + "…" for value in listed[:_NAMED])
    return shown if len(listed) <= _NAMED else f"{shown} and {len(listed) - _NAMED} more"


def _id(request_id: RequestId) -> dict[str, str | int]:
    return {} if request_id is None else {"id": request_id}
