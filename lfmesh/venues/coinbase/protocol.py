"""What a feed connection and the venue say to each other beside market data, and where a frame belongs.

    → {"type":"subscribe","product_ids":[…],"channels":[…]}     and "unsubscribe", its mirror
    ← {"type":"subscriptions","channels":[{"name":…,"product_ids":[…]}]}
    ← {"type":"error","message":…,"reason":…}

The answer to each request is `subscriptions`: all that the connection is subscribed to from now on, under names that
differ for some channels (`ECHOED`); or an error, after which `subscriptions` may follow. A request that names one bad
product is refused whole. Nothing ties an answer to its request but the order.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from lfmesh.venues.coinbase.parse import MAX_DETAIL, VenueError, is_product_id

ECHOED = {"level2_batch": "level2_50", "ticker_batch": "ticker_1000"}
"""Channels that the venue confirms under another name. The name asked for is accepted as well."""

BOOK_CHANNELS = frozenset(("level2", "level2_batch"))
"""Channels that begin with a book snapshot; subscribing to them anew is what brings another one."""

type Stream = tuple[str, str]
"""(channel as asked for, product)."""


class Stray(StrEnum):
    """Why a frame has no place of its own: the reasons under which an ingestor counts such frames."""

    SUBSCRIPTIONS = "subscriptions"
    ERROR = "error"
    NO_PRODUCT = "no_product"
    UNKNOWN_PRODUCT = "unknown_product"
    BAD_PRODUCT = "bad_product"
    """Its product's id is none: the frame has been damaged, and may be anybody's."""
    INVALID_JSON = "invalid_json"


class Echo(msgspec.Struct, frozen=True, gc=False):
    """The venue's `subscriptions`: (name as echoed, product) of everything the connection is subscribed to."""

    streams: frozenset[Stream]


class _Request(msgspec.Struct, frozen=True):
    type: Literal["subscribe", "unsubscribe"]
    product_ids: list[str]
    channels: list[str]


class _EchoedChannel(msgspec.Struct, gc=False):
    name: str
    product_ids: list[str] | None = None


class _Subscriptions(msgspec.Struct, gc=False, tag_field="type", tag="subscriptions"):
    channels: list[_EchoedChannel]


class _Error(msgspec.Struct, gc=False, tag_field="type", tag="error"):
    message: str = ""
    reason: str | None = None


class _Any(msgspec.Struct, gc=False):
    product_id: str | None = None


_encode = msgspec.json.Encoder().encode
_controls: msgspec.json.Decoder[_Subscriptions | _Error] = msgspec.json.Decoder(_Subscriptions | _Error)
_decode_control = _controls.decode
_decode_any = msgspec.json.Decoder(_Any).decode


def subscribe(channels: Iterable[str], products: Iterable[str]) -> str:
    """The request for these channels of these products."""
    return _encode(_Request("subscribe", list(products), list(channels))).decode()


def unsubscribe(channels: Iterable[str], products: Iterable[str]) -> str:
    """The request that ends them."""
    return _encode(_Request("unsubscribe", list(products), list(channels))).decode()


def confirmed(echo: Echo, streams: Iterable[Stream]) -> frozenset[Stream]:
    """Those of the streams that the echo shows, under either name of their channel."""
    shown = echo.streams
    return frozenset(
        (channel, product)
        for channel, product in streams
        if (ECHOED.get(channel, channel), product) in shown or (channel, product) in shown
    )


def read_control(frame: bytes) -> Echo | VenueError | Stray:
    """What a frame is that `route` found no place for; it never raises."""
    try:
        control = _decode_control(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _stray(frame)
    match control:
        case _Subscriptions(channels):
            return Echo(
                frozenset((channel.name, product) for channel in channels for product in channel.product_ids or ())
            )
        case _Error(message, reason):
            return VenueError(message[:MAX_DETAIL], (reason or "")[:MAX_DETAIL])


def _stray(frame: bytes) -> Stray:
    try:
        product = _decode_any(frame).product_id
    except msgspec.ValidationError:
        return Stray.NO_PRODUCT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Stray.INVALID_JSON
    if product is None:
        return Stray.NO_PRODUCT
    return Stray.UNKNOWN_PRODUCT if is_product_id(product) else Stray.BAD_PRODUCT


_KEY = b'"product_id":"'
_KEY_LENGTH = len(_KEY)
_BACKSLASH = ord("\\")


def route[T](frame: bytes, places: Mapping[bytes, T]) -> T | None:
    """What `places` has for the frame's product, by the product's id in ASCII; None if the frame names none of them.

    It reads the id without parsing the JSON where that is certain. A quote that no backslash precedes begins or ends
    a string; `"product_id":"` can then only be a key with a text. It is a key of the frame itself, and not of an
    object within, if no brace opened before it but the first. Whatever is not certain is parsed.
    """
    at = frame.find(_KEY)
    if at > 0 and frame[at - 1] != _BACKSLASH and frame.find(b"{", 1, at) < 0:
        start = at + _KEY_LENGTH
        place = places.get(frame[start : frame.find(b'"', start)])
        if place is not None:
            return place
    return _parsed_route(frame, places)


def _parsed_route[T](frame: bytes, places: Mapping[bytes, T]) -> T | None:
    try:
        product = _decode_any(frame).product_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if product is None else places.get(product.encode())
