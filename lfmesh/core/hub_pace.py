"""How much a client may be sent: messages and bytes a second, with a second's worth at once.

What a client has been sent is counted after the fact, several times a second. Who is past its rate is sent nothing more
of the market until it is back in credit; the hub conflates it, so what it missed is not lost silently.
"""

from collections.abc import Sequence

from lfmesh.core.hub_clients import Client

_SECOND_NS = 1_000_000_000
_UNBOUNDED = 1 << 62


class Pace:
    """The same limits for every client; 0 for either means that it has none."""

    def __init__(self, messages_per_s: float, bytes_per_s: float) -> None:
        self._messages_per_s = messages_per_s
        self._bytes_per_s = bytes_per_s
        self._at: int | None = None
        self._elapsed_ns = 0

    def advance(self, now: int) -> None:
        """The time of now; `throttles` is to be asked once for every client after each call."""
        self._elapsed_ns = 0 if self._at is None else min(max(0, now - self._at), _SECOND_NS)
        self._at = now

    def throttles(self, client: Client) -> bool:
        """True if the client is to be sent nothing more for now: it is past its rate, or not yet back in credit."""
        # A client owes what it has been sent; time pays it off. Its credit is a second's worth.
        share = self._elapsed_ns / _SECOND_NS
        past = False
        if self._messages_per_s:
            client.used_messages = max(0, client.used_messages - round(self._messages_per_s * share))
            past = client.used_messages > self._bound(self._messages_per_s, client)
        if self._bytes_per_s:
            client.used_bytes = max(0, client.used_bytes - round(self._bytes_per_s * share))
            past = past or client.used_bytes > self._bound(self._bytes_per_s, client)
        return past

    def room(self, client: Client) -> tuple[int, int]:
        """How many messages and bytes of credit it has left; at most a second's worth, at least one."""
        messages = self._messages_per_s - client.used_messages if self._messages_per_s else _UNBOUNDED
        size = self._bytes_per_s - client.used_bytes if self._bytes_per_s else _UNBOUNDED
        return max(1, int(messages)), max(1, int(size))

    def spent(self, client: Client) -> bool:
        """True if it has no credit left."""
        return bool(
            (self._messages_per_s and client.used_messages >= self._messages_per_s)
            or (self._bytes_per_s and client.used_bytes >= self._bytes_per_s)
        )

    def spares(self, frames: Sequence[bytes], size: int, state_bytes: int) -> bool:
        """True if the state of now is a smaller part of a client's rate than these frames of `size`."""
        return bool((self._messages_per_s and len(frames) > 1) or (self._bytes_per_s and size > state_bytes))

    @staticmethod
    def _bound(per_s: float, client: Client) -> float:
        return per_s / 2 if client.throttled else per_s
