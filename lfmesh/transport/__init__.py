"""L2: the only place that knows ZeroMQ. Sockets in the event loop, drained in batches, never blocking."""

from lfmesh.transport.requests import Requester, Responder, Server
from lfmesh.transport.sockets import Publisher, Puller, Pusher, Subscriber, Transport

__all__ = ["Publisher", "Puller", "Pusher", "Requester", "Responder", "Server", "Subscriber", "Transport"]
