"""What clients ask for on the WebSocket: subscribe and unsubscribe, in both forms of the venue.

Channels are named as texts, which take the request's `product_ids`, or as objects with `product_ids` of their own.
"""

from typing import Literal

import msgspec

from loadgen.sim.audience import VenueChannel, channel_named


class BadRequest(Exception):
    """A request that is refused whole: the `message` and `reason` of the error frame."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message if reason is None else f"{message}: {reason}")
        self.message = message
        self.reason = reason


class SubscriptionRequest(msgspec.Struct, frozen=True):
    """A valid request. Products None with an unsubscribe means all of the channel's; `status` has none."""

    action: Literal["subscribe", "unsubscribe"]
    streams: list[tuple[VenueChannel, list[str] | None]]


class _ChannelObject(msgspec.Struct):
    name: str
    product_ids: list[str] | None = None


class _Request(msgspec.Struct):
    type: str = ""
    product_ids: list[str] | None = None
    channels: list[str | _ChannelObject] | None = None


_decode = msgspec.json.Decoder(_Request).decode


def parse_request(raw: str | bytes) -> SubscriptionRequest:
    """Read one client message; BadRequest with the venue's wording for anything else than a valid request."""
    try:
        request = _decode(raw)
    except msgspec.ValidationError as error:
        raise BadRequest("Invalid request", str(error)) from error
    except msgspec.DecodeError as error:
        raise BadRequest("Malformed JSON") from error
    match request.type:
        case "subscribe" | "unsubscribe":
            action: Literal["subscribe", "unsubscribe"] = request.type
        case _:
            raise BadRequest("Type has to be either subscribe or unsubscribe")
    failure = f"Failed to {action}"
    if not request.channels:
        raise BadRequest(failure, "No channels provided")
    streams = [_stream(item, request.product_ids, failure) for item in request.channels]
    if action == "subscribe":
        for channel, products in streams:
            if not products and channel is not VenueChannel.STATUS:
                raise BadRequest(failure, f"No product_ids provided for {channel}")
    return SubscriptionRequest(action, streams)


def _stream(
    item: str | _ChannelObject, shared: list[str] | None, failure: str
) -> tuple[VenueChannel, list[str] | None]:
    name = item if isinstance(item, str) else item.name
    channel = channel_named(name)
    if channel is None:
        raise BadRequest(failure, f"{name} is not a valid channel")
    products = shared if isinstance(item, str) or item.product_ids is None else item.product_ids
    return channel, products or None
