"""What a load is to be: how many clients, what they ask for, how some of them misbehave."""

from enum import StrEnum
from typing import Literal

import msgspec

from lfmesh.types import CHANNELS

Shape = Literal["same", "random", "all"]
Flap = Literal["resume", "fresh", "both"]


class Behaviour(StrEnum):
    """What a client does once it has joined. Good, slow and stalled ones differ only in how they read."""

    GOOD = "good"
    SLOW = "slow"
    """Reads at a limited rate."""
    STALLED = "stalled"
    """Stops reading, until the end."""
    FLAPPING = "flapping"
    """Cuts its connection again and again, and comes back."""
    BAD_JSON = "bad_json"
    """Sends what is no JSON, while it reads as a good one."""
    UNKNOWN_OP = "unknown_op"
    """Sends requests that do not exist."""
    FLOOD = "flood"
    """Sends far more requests than it may."""
    OVERSIZED = "oversized"
    """Sends a message over the size limit, and comes back when it is sent away."""
    INVALID_FRAME = "invalid_frame"
    """Sends a frame that RFC 6455 forbids, and comes back when it is sent away."""
    UNFINISHED = "unfinished"
    """Opens a connection and never finishes the handshake; another one when that is ended."""
    IDLE = "idle"
    """Connects and asks for nothing; again when that is ended."""


OFFENCES = (
    Behaviour.BAD_JSON, Behaviour.UNKNOWN_OP, Behaviour.FLOOD, Behaviour.OVERSIZED, Behaviour.INVALID_FRAME,
    Behaviour.UNFINISHED, Behaviour.IDLE,
)  # fmt: skip
"""What misbehaving clients do, dealt out in this order."""

SILENT = (Behaviour.UNFINISHED, Behaviour.IDLE)
"""They never subscribe, so they never join."""

BACKLOGGED = (Behaviour.SLOW, Behaviour.STALLED)
"""They leave unread what comes, so something becomes of them: an `Outcome`. They are checked in full."""


class Outcome(StrEnum):
    """What became of a slow or stalled client by the end, when it may read what waits for it."""

    KEPT_UP = "kept_up"
    """Live, and never conflated."""
    CONFLATED = "conflated"
    """Told that it was conflated, and live again."""
    CLOSED = "closed"
    """Closed by the gateway; `closes` tells the code."""
    BEHIND = "behind"
    """Not live by the end."""
    NEVER_JOINED = "never_joined"
    """What it asked for had not begun when it was measured."""
    VIOLATED = "violated"
    """It was sent what the protocol forbids."""


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run. Shares are of all clients; every choice follows from `seed`.

    `shape`: "same": all clients follow the first `products_each` of `products` (0: all); "random": each follows
    `products_each` different ones, drawn by Zipf with exponent `zipf`, the first product being the most wanted; "all".
    `join_rate`: connections begun a second, over all processes; 0: at once. `duration_s` counts from when all have
    joined, or `join_timeout_s` after the last one began.
    `check`: share of clients whose positions, trade ids and bytes are checked, at least two if any (flapping ones
    always are); `full_check`: share for whom books, tickers and trades are kept and compared, too (slow and stalled
    ones always are).
    `slow_bytes_per_s` 0: `slow_ratio` of what a good client gets. `drop_all_after_s`: all cut their connections at
    once, so long after the start, and come back; 0: never. What was checked resumes by position.
    `sources`: local addresses, in turn. `heartbeat_s`: the gateway's; three of them in silence are a violation.
    """

    url: str
    products: tuple[str, ...] = ()
    channels: tuple[str, ...] = (str(CHANNELS[0]),)
    clients: int = 100
    processes: int = 1
    shape: Shape = "same"
    products_each: int = 0
    zipf: float = 1.0
    conflate_ms: int = 0
    join_rate: float = 0.0
    join_timeout_s: float = 10.0
    duration_s: float = 10.0
    slow: float = 0.0
    stalled: float = 0.0
    flapping: float = 0.0
    misbehaving: float = 0.0
    offences: tuple[Behaviour, ...] = OFFENCES
    slow_bytes_per_s: float = 0.0
    slow_ratio: float = 0.1
    flap_every_s: float = 2.0
    flap: Flap = "both"
    drop_all_after_s: float = 0.0
    settle_s: float = 5.0
    check: float = 0.05
    full_check: float = 0.0
    seed: int = 1
    sources: tuple[str, ...] = ()
    heartbeat_s: float = 1.0


class Progress(msgspec.Struct, frozen=True):
    """How far a process, or all of them, are; `messages` and `bytes` since the clients began."""

    clients: int = 0
    settled: int = 0
    joined: int = 0
    connected: int = 0
    messages: int = 0
    bytes: int = 0
    violations: int = 0
