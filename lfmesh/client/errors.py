"""What the client library raises: only what it cannot mend.

    LfmeshError
    └── ClientError
        ├── NoGateway                nothing there that speaks the protocol (in time)
        ├── FeedClosed               the feed has been closed
        ├── NotSubscribed            a book, ticker or position of a stream that was never asked for
        ├── NoAnswer                 the gateway has not answered a request in time
        └── RequestRefused           the gateway refuses a request; `code` is the protocol's
            ├── UnknownProduct
            ├── UnknownChannel
            └── TooManySubscriptions

A lost connection, a gap, a rate limit, a gateway that drains: none of these is an error. They are events.
"""

from lfmesh.errors import LfmeshError
from lfmesh.types import StreamKey


class ClientError(LfmeshError):
    """Base of what the client library raises."""


class NoGateway(ClientError):
    """No address can be used, or what answers there is no gateway, or nothing answers in time."""


class FeedClosed(ClientError):
    """The feed has been closed; nothing can be asked of it any more."""


class NotSubscribed(ClientError):
    """A stream that this feed does not follow."""


class NoAnswer(ClientError):
    """The gateway has not answered in time. What was subscribed stays wanted; `unsubscribe` gives it up."""


class RequestRefused(ClientError):
    """The gateway refuses `streams`; the others of the same call are followed."""

    def __init__(self, code: str, msg: str, streams: tuple[StreamKey, ...] = ()) -> None:
        super().__init__(f"the gateway refuses: {code}: {msg}")
        self.code = code
        self.msg = msg
        self.streams = streams


class UnknownProduct(RequestRefused):
    """Products that this gateway does not carry."""

    @property
    def products(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(dict.fromkeys(stream.product for stream in self.streams))


class UnknownChannel(RequestRefused):
    """Channels that this gateway does not have."""


class TooManySubscriptions(RequestRefused):
    """More streams than the gateway allows for one client."""


def refusal(code: str, msg: str, streams: tuple[StreamKey, ...] = ()) -> RequestRefused:
    """The error for a code of the protocol."""
    kinds: dict[str, type[RequestRefused]] = {
        "UNKNOWN_PRODUCT": UnknownProduct,
        "UNKNOWN_CHANNEL": UnknownChannel,
        "TOO_MANY_SUBSCRIPTIONS": TooManySubscriptions,
    }
    return kinds.get(code, RequestRefused)(code, msg, streams)
