"""Keys of states that are too large for their database, and so lie in the object store. Pure.

    states/venue=V/product=P/channel=C/{term}-{epoch}-{seq}_{checksum}.json.zst

One immutable object a state: the JSON of the snapshot's `state`, zstd-compressed. The checksum is that of
`lfmesh.core.archive`, of the bytes as they are stored. The database's item holds the key of the state in force; what
no item points to is left over from a write that was superseded or cut short, and `lfmesh store gc` removes it.
"""

import re
from typing import NamedTuple

from lfmesh.core.archive import checksum
from lfmesh.types import Channel, Position, StreamKey

STATES = "states/"

_DIGITS = 16
_KEY = re.compile(
    r"states/venue=([^/]+)/product=([^/]+)/channel=(ticker|trades|book)/(\d{16})-(\d{16})-(\d{16})_([0-9a-f]{16})"
    r"\.json\.zst"
)


class StateName(NamedTuple):
    """What the key of a stored state says."""

    venue: str
    stream: StreamKey
    term: int
    position: Position
    checksum: str

    @property
    def key(self) -> str:
        """The object's key."""
        place = version(self.term, self.position)
        return f"{state_folder(self.venue, self.stream)}{place}_{self.checksum}.json.zst"


def name_state(venue: str, stream: StreamKey, term: int, position: Position, body: bytes) -> StateName:
    """The name of a state whose compressed bytes are `body`."""
    return StateName(venue, stream, term, position, checksum(body))


def parse_state(key: str) -> StateName | None:
    """The name of a stored state from its key; None for any other key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    venue, product, channel, term, epoch, seq, digest = match.groups()
    return StateName(venue, StreamKey(product, Channel(channel)), int(term), Position(int(epoch), int(seq)), digest)


def state_folder(venue: str, stream: StreamKey) -> str:
    """The folder of all stored states of a stream."""
    return f"{STATES}venue={venue}/product={stream.product}/channel={stream.channel}/"


def version(term: int, position: Position) -> str:
    """(term, epoch, seq) as a text that sorts as they do: each is below 2^53, and so has at most 16 digits."""
    return f"{term:0{_DIGITS}d}-{position.epoch:0{_DIGITS}d}-{position.seq:0{_DIGITS}d}"


def parse_version(text: str) -> tuple[int, Position]:
    """Term and position from their `version`; ValueError."""
    term, epoch, seq = text.split("-")
    return int(term), Position(int(epoch), int(seq))
