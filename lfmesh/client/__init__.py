"""L4: what a client of the mesh needs: a WebSocket session that reconnects, exact messages, and where a mesh runs."""

from lfmesh.client.messages import Update, parse
from lfmesh.client.session import Connected, Lost, Received, Session

__all__ = ["Connected", "Lost", "Received", "Session", "Update", "parse"]
