"""A replay behind the gateway instead of a live mesh: what clients ask of it, and what they are told of it.

`lfmesh replay --serve` makes such a gateway. Everything else of it is the gateway of a live mesh: market data comes
over the same sockets, from a player that speaks like a normalizer.
"""

from collections.abc import Callable, Collection
from typing import assert_never

from lfmesh.core.hub import Hub
from lfmesh.core.hub_clients import Client
from lfmesh.core.times import format_time, parse_time
from lfmesh.models import ReplayRequest
from lfmesh.ports import Clock, Replay, ReplayState
from lfmesh.services.gateway import answers
from lfmesh.services.gateway.intake import Intake
from lfmesh.types import StreamKey

NO_REPLAY = "only a replay has the op replay; this is a live mesh"
BEHIND_BYTES = 1024 * 1024
"""While more waits for a client, the replay waits, too."""
PATIENCE_NS = 10_000_000_000
"""But not for one whose socket has taken nothing for so long: that one will be closed as too slow."""


class ReplayDesk:
    """See the module's docstring; an `Audience` to the replay. `settle` is called after what may have consequences."""

    def __init__(self, replay: Replay, hub: Hub, intake: Intake, clock: Clock, settle: Callable[[], None]) -> None:
        self._replay = replay
        self._hub = hub
        self._intake = intake
        self._clock = clock
        self._settle = settle
        replay.listen(self)

    # What the replay calls --------------------------------------------------------------------------------------

    def heard(self) -> int | None:
        """See `lfmesh.ports.Audience`."""
        return self._intake.heard_sent

    def is_behind(self) -> bool:
        """See `lfmesh.ports.Audience`."""
        return self._hub.is_behind(BEHIND_BYTES, PATIENCE_NS, self._clock())

    def changed(self, state: ReplayState) -> None:
        """See `lfmesh.ports.Audience`."""
        self._hub.broadcast(answers.replay(state))

    def rewound(self, state: ReplayState, begun: Collection[StreamKey]) -> None:
        """See `lfmesh.ports.Audience`. Clients are told before the first message of the new run."""
        self.changed(state)
        self._intake.rewound(state.run, begun, self._clock())
        self._settle()

    # What clients bring about -----------------------------------------------------------------------------------

    def welcome(self, client: Client) -> None:
        """A client has connected: it is told where the replay is."""
        self._hub.send(client, answers.replay(self._replay.state()))

    def subscribed(self) -> None:
        """A client follows something."""
        self._replay.subscribed()

    def settled(self) -> None:
        """Something has been taken, by us or by a client."""
        self._replay.room()

    def carry_out(self, client: Client, request: ReplayRequest) -> str:
        """Do what a client asks, and answer it; why that can't be done, else empty."""
        replay = self._replay
        match request.action:
            case "status":
                pass
            case "pause":
                replay.pause()
            case "resume":
                replay.resume()
            case "speed":
                replay.set_speed(None if request.speed == "max" else request.speed)
            case "seek":
                why = self._seek(request.at)
                if why:
                    return why
            case _:
                assert_never(request.action)
        self._hub.send(client, answers.replay(replay.state(), request.id))
        return ""

    def _seek(self, asked: int | str | None) -> str:
        try:
            at = asked if isinstance(asked, int) else parse_time(asked or "")
        except ValueError as error:
            return f"at: {error}"
        state = self._replay.state()
        if not state.start <= at <= state.end:
            return f"at: {asked} is not in this replay: {format_time(state.start)} to {format_time(state.end)}"
        self._replay.seek(at)
        return ""
