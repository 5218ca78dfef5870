"""States as of other moments than that of the replay, as a snapshotter tells them from its archive."""

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
    _, position, time, parts = states[0]
    responder.reply(encode(SnapshotReply(*key, term, *position, time, NO_INPUT)), parts)
