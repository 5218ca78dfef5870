"""States as of other moments than that of the replay, as a snapshotter tells them from its archive."""

from lfmesh.core.times import format_time
from lfmesh.errors import LfmeshError
from lfmesh.messages import SnapshotReply, SnapshotRequest, Unavailable, encode
from lfmesh.services.player.reel import Reel
from lfmesh.transport import Responder
from lfmesh.types import NO_INPUT, StreamKey


async def tell_moment(reel: Reel, term: int, request: SnapshotRequest, responder: Responder) -> None:
    """Read the state and answer; what is played goes on meanwhile."""
    key = StreamKey(request.product, request.channel)
    try:
        states = await reel.states([key], request.at, lambda: True)
    except LfmeshError as error:
        responder.reply(encode(Unavailable(str(error), later=True)))
        return
    if not states:
        responder.reply(encode(Unavailable("nothing is known of that moment")))
        return
    (found,) = states
    if found.lack is not None and found.lack.hole:
        after = format_time(found.lack.after)
        responder.reply(encode(Unavailable(f"what came between {after} and that moment is missing in this archive")))
        return
    responder.reply(encode(SnapshotReply(*key, term, *found.position, found.time, NO_INPUT)), found.parts)
