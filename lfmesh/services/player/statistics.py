"""What a player says of itself."""

from typing import Annotated

import msgspec
from msgspec import Meta


class PlayerStatistics(msgspec.Struct, frozen=True):
    """One player's figures; totals count since the process started."""

    messages_total: Annotated[int, Meta(description="Archived messages played")]
    frames_total: Annotated[int, Meta(description="Frames published")]
    bytes_total: Annotated[int, Meta(description="Bytes of them")]
    beacons_total: Annotated[int, Meta(description="Beacons published")]
    seeks_total: Annotated[int, Meta(description="Times it went on from another moment")]
    holes_total: Annotated[int, Meta(description="Places where the archive lacked messages")]
    mended_total: Annotated[int, Meta(description="Holes behind which it went on from a shard's snapshot")]
    passed_over_total: Annotated[int, Meta(description="Messages that could not be played for want of those before")]
    held_total: Annotated[int, Meta(description="Times it waited for the gateway or its clients")]
    starved_total: Annotated[int, Meta(description="Times it waited for the archive")]
    reading_errors_total: Annotated[int, Meta(description="Times the archive could not be read")]
    asked_total: Annotated[int, Meta(description="Requests of the gateway")]
    ring_bytes: Annotated[int, Meta(description="Bytes of frames kept for retransmission")]
    ring_entries: Annotated[int, Meta(description="Frames kept for retransmission")]
