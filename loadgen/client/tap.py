"""Between a feed of the client library and a checker: every raw message, in the order of its arrival.

A `CheckerTap` is given to `lfmesh.client.connect(…, tap=…)`, which calls it for each request that is sent and each
message that comes, before it looks at either itself. So the checker judges what the gateway sent, not what the library
made of it. Times are ns since the Unix epoch.
"""

import msgspec

from loadgen.client.checker import Checker
from loadgen.client.wire import Request, Subscribe

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class CheckerTap:
    """Feeds a checker, and counts what a checker does not: connections, messages, streams resumed by position."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.connections = 0
        self.messages = 0
        self.resumes = 0
        self.disconnections: list[tuple[int, str]] = []

    def opened(self, url: str, now: int) -> None:
        """A connection is open."""
        del url
        self.connections += 1
        self.checker.connected(now)

    def closed(self, reason: str, now: int) -> None:
        """It is over; no reason: it was to be."""
        if reason:
            self.disconnections.append((now, reason))
        self.checker.disconnected()

    def sent(self, text: str, now: int) -> None:
        """A request is being sent."""
        request = _requests.decode(text)
        if isinstance(request, Subscribe):
            self.resumes += sum(1 if isinstance(given, int) else len(given) for given in request.from_seq.values())
        self.checker.requested(request, now)

    def received(self, text: str, now: int) -> None:
        """A message has come."""
        self.messages += 1
        self.checker.receive(text.encode(), now)

    def ticked(self, now: int) -> None:
        """Time passes."""
        self.checker.tick(now)
