"""Who listens to what: the subscribers of each (channel, product)."""

from enum import StrEnum
from typing import Protocol


class VenueChannel(StrEnum):
    """The venue's channels that the simulator serves, by the names that clients ask for."""

    LEVEL2 = "level2"
    LEVEL2_BATCH = "level2_batch"
    TICKER = "ticker"
    MATCHES = "matches"
    HEARTBEAT = "heartbeat"
    STATUS = "status"

    @property
    def echoed(self) -> str:
        """The name in the `subscriptions` echo."""
        return "level2_50" if self is VenueChannel.LEVEL2_BATCH else self.value


def channel_named(name: str) -> VenueChannel | None:
    """The channel that a request names, by either of its names; None for an unknown one."""
    for channel in VenueChannel:
        if name in (channel.value, channel.echoed):
            return channel
    return None


class Subscriber(Protocol):
    """Receives frames. `push` never blocks and never raises."""

    def push(self, frame: bytes, channel: VenueChannel, index: int) -> None:
        """Take one WebSocket frame of a channel for the product with this index in the feed's list."""


class Audience:
    """Subscribers by channel and product index. The status channel has one list, at index 0."""

    def __init__(self, product_count: int) -> None:
        self._lists: dict[VenueChannel, list[list[Subscriber]]] = {
            channel: [[] for _ in range(product_count)] for channel in VenueChannel
        }

    def of(self, channel: VenueChannel) -> list[list[Subscriber]]:
        """The channel's lists of subscribers, by product index; live, to be read only."""
        return self._lists[channel]

    def join(self, subscriber: Subscriber, channel: VenueChannel, index: int) -> None:
        """Add a subscriber that is not there yet."""
        self._lists[channel][index].append(subscriber)

    def leave(self, subscriber: Subscriber, channel: VenueChannel, index: int) -> None:
        """Remove a subscriber that is there."""
        self._lists[channel][index].remove(subscriber)

    def publish(self, frame: bytes, channel: VenueChannel, index: int) -> None:
        """Hand one frame to all subscribers of a stream."""
        for subscriber in self._lists[channel][index]:
            subscriber.push(frame, channel, index)

    def listeners(self, index: int) -> set[Subscriber]:
        """Who is subscribed to any channel of a product."""
        return {subscriber for lists in self._lists.values() for subscriber in lists[index]}

    def heard(self, channel: VenueChannel) -> list[int]:
        """Indexes of the products that somebody listens to on this channel."""
        return [index for index, subscribers in enumerate(self._lists[channel]) if subscribers]
