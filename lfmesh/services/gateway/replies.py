"""What answers of normalizers and snapshotters hold, pure: [header, frame…] in, what the hub takes out."""

from collections.abc import Sequence

from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags
from lfmesh.core.hub_frames import text_frames
from lfmesh.core.hub_history import Unit
from lfmesh.core.hub_snapshots import State
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import SnapshotReply, decode_reply
from lfmesh.types import Position, StreamKey

_STATUS = int(Flags.STATUS)
_SNAPSHOT = int(Flags.SNAPSHOT)


def state_in(key: StreamKey, parts: Sequence[bytes]) -> State | None:
    """The state of the stream that was asked for; None if the answer says that there is none. BadMeshFrame."""
    header = decode_reply(parts[0])
    if not isinstance(header, SnapshotReply):
        return None
    if (header.product, header.channel) != key or len(parts) < 2:
        raise BadMeshFrame(f"a state of {key.product} {key.channel} was asked for, and something else came")
    return State(Position(header.epoch, header.seq), header.term, header.ts_snapshot, tuple(parts[1:]))


def units_in(key: StreamKey, frames: Sequence[bytes]) -> list[Unit]:
    """What market-data frames hold of the stream that was asked for; BadMeshFrame."""
    units = []
    for frame in frames:
        topic, header, messages = codec.unpack(frame)
        if topics.parse_market_data(topic)[1] != key:
            raise BadMeshFrame(f"{key.product} {key.channel} was asked for, and {topic[:80]!r} came")
        if header.flags & _STATUS or not messages:
            continue
        previous = Position(header.prev_epoch, header.prev_seq) if header.prev_epoch else None
        snapshot = bool(header.flags & _SNAPSHOT)
        units.append(Unit(header.epoch, header.first_seq, snapshot, previous, text_frames(messages)))
    return units
