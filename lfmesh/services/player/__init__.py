"""L3: the player, which publishes an archive as a normalizer publishes a live feed, for a gateway to serve."""

from lfmesh.services.player.options import PlayOptions
from lfmesh.services.player.reel import Tape
from lfmesh.services.player.service import PlayerService
from lfmesh.services.player.tape import ArchiveTape

__all__ = ["ArchiveTape", "PlayOptions", "PlayerService", "Tape"]
