"""The player: an archive, published as a normalizer publishes a live feed, paced and under its clients' control.

    Tape ──► Reel (a thread reads ahead) ──► Stage ──► XPUB, ROUTER ──► a gateway, which is the Audience

It speaks as the only normalizer of a mesh with one shard. A turn plays what is due by the `Pace`, bounded, and ends
with a beacon. It is never more than a few turns ahead of the gateway, and stands while one of the gateway's clients has
much waiting: at speed `max` that is what paces it.

Where the archive is damaged, or a moment that is sought can't be read, it stands: everybody is told that it is paused,
and can let it try again or seek another moment.

To seek: what holds at the moment is read while nothing is played; then, in one call, the term is raised, the gateway
drops what it holds, and the snapshots of that moment follow.
"""

import asyncio
from typing import Literal

from lfmesh.config import Config, endpoint
from lfmesh.core.sharding import stable_id
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.messages import SnapshotRequest
from lfmesh.ports import Audience, Context, Figures, ReplayState
from lfmesh.services.player.lead import LEAD_TURNS, Lead, Questions
from lfmesh.services.player.mending import Mending
from lfmesh.services.player.moments import tell_moment
from lfmesh.services.player.options import TURN_BYTES, PlayOptions
from lfmesh.services.player.pace import Pace
from lfmesh.services.player.reel import Reel, Tape
from lfmesh.services.player.stage import Stage
from lfmesh.services.player.statistics import PlayerStatistics
from lfmesh.transport import Publisher, Responder, Server, Transport
from lfmesh.types import CHANNELS, Role, StreamKey

_BEAT_S = 0.1
_BEATS_A_FULL_BEACON = 10
_MIN_WAIT_S = 0.001


class PlayerService:
    """See the module's docstring; a `Replay` to the gateway. Of the configuration it uses `normalizer` and `mesh`."""

    role = Role.NORMALIZER
    shard: int | None = 0

    def __init__(self, config: Config, context: Context, tape: Tape, options: PlayOptions) -> None:
        section = config.normalizer
        self.instance = endpoint(section.instance, shard=0)
        self._section = section
        self._context = context
        self._tape = tape
        self._options = options
        self._loop = asyncio.get_running_loop()
        played = set(tape.streams)
        every = [StreamKey(product, channel) for product in config.mesh.products for channel in CHANNELS]
        self._stage = Stage(
            tape.streams,
            [key for key in every if key not in played],
            stable_id(self.instance),
            context.incarnation,
            self._publish,
        )
        self._reel: Reel | None = None
        self._pace = Pace(tape.start, options.speed)
        self._lead = Lead()
        self._mending = Mending(self._stage, context.clock)
        self._questions = Questions(self._stage, lambda: self._lead.unheard == 0, self._on_moment)
        self._transport: Transport | None = None
        self._wake = asyncio.Event()
        self.attached = asyncio.Event()
        """Set once the gateway hears us: nothing is played before."""
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._beats_timer: asyncio.TimerHandle | None = None
        self._beats = 0
        self._run = 0
        self._waiting = options.waits
        self._paused = False
        self._sought: int | None = None
        self._ended = False
        self._blocked = False
        self._damaged = False
        """What comes after that which has been read can't be: not tried again before somebody wants that."""
        self._told: tuple[str, float | None, int] | None = None
        self._seeks = self._held = self._starved = self._errors = 0

    # As a service -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, and read what holds at the first moment. StoreUnavailable, BadArchive, PortInUse, BadEndpoint."""
        section, name = self._section, self.instance
        self._reel = Reel(self._tape)
        self._transport = Transport()
        try:
            self._publisher = Publisher(
                self._transport,
                endpoint(section.bind_market_data, shard=0, instance=name),
                hwm=section.publish_hwm_messages,
            )
            self._server = Server(
                self._transport, endpoint(section.bind_requests, shard=0, instance=name), self._questions.ask
            )
            states = await self._reel.states(self._tape.streams, self._tape.start - 1, lambda: True)
            assert states is not None
            self._reel.open(states, self._tape.start - 1)
            await self._reel.read()
        except BaseException:
            self._close()
            raise
        self._run = self._context.clock() // 1000
        self._stage.begin(states, self._run, self._context.clock())
        self._context.spawn(self._read(self._reel))
        self._beat()
        if not self._waiting:
            self._pace.run(self._now())
        self._schedule(0.0)

    def endpoints(self) -> dict[str, str]:
        """Those of a normalizer, but for raw frames."""
        return {"market_data": self._publisher.endpoint, "requests": self._server.endpoint}

    def on_peers(self, peers: object) -> None:
        """It follows nobody."""

    def readiness(self) -> list[str]:
        """It is ready when it has started."""
        return [] if self._transport is not None else ["not started"]

    def statistics(self) -> PlayerStatistics:
        """Its figures."""
        counts, ring = self._stage.counters, self._stage.ring_statistics()
        return PlayerStatistics(
            messages_total=counts.messages,
            frames_total=counts.frames,
            bytes_total=counts.bytes,
            beacons_total=counts.beacons,
            seeks_total=self._seeks,
            holes_total=counts.holes,
            mended_total=self._mending.mended,
            passed_over_total=counts.passed_over,
            held_total=self._held,
            starved_total=self._starved,
            reading_errors_total=self._errors,
            asked_total=self._questions.asked,
            ring_bytes=ring.bytes,
            ring_entries=ring.entries,
        )

    def figures(self) -> Figures:
        """Messages played."""
        counts = self._stage.counters
        return Figures(messages_out_total=counts.messages, gaps_total=counts.holes)

    async def stop(self) -> None:
        """Publish nothing more; idempotent."""
        self._close()

    # As a replay ------------------------------------------------------------------------------------------------

    def listen(self, audience: Audience) -> None:
        """See `lfmesh.ports.Replay`."""
        self._lead.audience = audience

    def state(self) -> ReplayState:
        """See `lfmesh.ports.Replay`."""
        tape = self._tape
        at = min(max(self._at(), tape.start), tape.end)
        return ReplayState(self._phase, at, tape.start, tape.end, self._pace.speed, self._run)

    def _at(self) -> int:
        """Where it is, or will be; what is due and could not be played yet is still to come."""
        if self._sought is not None:
            return self._sought
        if self._ended:
            return self._tape.end
        told = self._reel.peek() if self._reel is not None else None
        now = self._pace.now(self._now())
        return now if told is None else min(now, told.line.time)

    def pause(self) -> None:
        """See `lfmesh.ports.Replay`."""
        self._paused = True
        self._changed()

    def resume(self) -> None:
        """See `lfmesh.ports.Replay`. One that waits for its first client waits no longer."""
        self._paused = self._waiting = self._damaged = False
        self._wake.set()
        self._changed()

    def subscribed(self) -> None:
        """See `lfmesh.ports.Replay`."""
        if self._waiting:
            self._waiting = False
            self._changed()

    def set_speed(self, speed: float | None) -> None:
        """See `lfmesh.ports.Replay`."""
        self._pace.set_speed(speed, self._now())
        self._changed()

    def seek(self, at: int) -> None:
        """See `lfmesh.ports.Replay`. A later one takes the place of one that is under way."""
        self._sought = at
        self._changed()
        self._wake.set()

    def room(self) -> None:
        """See `lfmesh.ports.Replay`."""
        self._questions.answer()
        if self._blocked:
            self._blocked = False
            self._schedule(0.0)
        if not self.attached.is_set() and self._lead.unheard is not None:
            self.attached.set()
            self._stage.beacon(self._context.clock(), full=True)  # what was said before was said to nobody
            self._publisher.settle()

    # Playing ----------------------------------------------------------------------------------------------------

    @property
    def _phase(self) -> Literal["waiting", "playing", "paused", "seeking", "ended"]:
        if self._sought is not None:
            return "seeking"
        if self._ended:
            return "ended"
        if self._paused:
            return "paused"
        return "waiting" if self._waiting else "playing"

    def _changed(self) -> None:
        """Go on or stand, by the phase; tell everybody if it is another one."""
        playing, now = self._phase == "playing", self._now()
        if playing != self._pace.running:
            if playing:
                self._pace.run(now)
            else:
                self._pace.stop(now)
        if playing:
            self._schedule(0.0)
        self._tell()

    def _tell(self) -> None:
        state = self.state()
        told = (state.state, state.speed, state.run)
        if told != self._told and self._lead.audience is not None:
            self._told = told
            self._lead.audience.changed(state)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is None:
            return
        if delay_s <= 0:
            self._timer = self._loop.call_soon(self._play)
        else:
            self._timer = self._loop.call_later(max(delay_s, _MIN_WAIT_S), self._play)

    def _play(self) -> None:
        """Play what is due, one turn of it, and see when the next is."""
        self._timer = None
        reel, now = self._reel, self._now()
        if reel is None or self._transport is None or self._phase != "playing":
            return
        if self._mending.at is not None:
            self._pace.hold(now)
            return
        if self._lead.is_over(0 if reel.at_end or self._questions else LEAD_TURNS):
            self._held += not self._blocked
            self._blocked = True
            self._pace.hold(now)
            return
        if reel.at_end:
            self._end()
            return
        if reel.peek() is None and self._damaged:
            self.pause()
            return
        if reel.peek() is None:
            self._starved += 1
            self._pace.hold(now)
            self._wake.set()
            return
        self._pace.release(now)
        reached = self._take_turn(reel, now)
        if reached is not None:
            self._end_turn()
            if self._mending.look(reached):
                self._wake.set()
        if reel.wants:
            self._wake.set()
        self._look_ahead(reel, self._now())

    def _take_turn(self, reel: Reel, now: int) -> int | None:
        """Put what is due on the stage; the time of the last line, None if there was none."""
        stage, pace = self._stage, self._pace
        taken = size = 0
        reached = None
        while (told := reel.peek()) is not None:
            if not pace.is_due(told.line.time, now) or taken >= self._options.turn_lines or size >= TURN_BYTES:
                break
            reel.pop()
            stage.put(told)
            taken += 1
            size += len(told.line.message)
            reached = told.line.time
            pace.reached(reached)
        return reached

    def _end_turn(self) -> None:
        """A beacon behind a turn tells the gateway that it has all of it, and us (`Audience.heard`)."""
        now = self._context.clock()
        self._stage.flush(now)
        self._stage.beacon(now, full=False)
        self._publisher.settle()
        self._lead.mark(self._stage.sent)

    def _look_ahead(self, reel: Reel, now: int) -> None:
        told = reel.peek()
        if told is not None:
            skip = self._options.skip_gaps_ns
            if skip is not None and told.line.time - self._pace.now(now) > skip:
                self._pace.set(told.line.time - skip, now)
            self._schedule(self._pace.due_in_s(told.line.time, now))
        else:
            self._schedule(0.0)

    def _end(self) -> None:
        """Everything has been played, and taken."""
        if self._options.loop:
            self.seek(self._tape.start)
        else:
            self._ended = True
            self._changed()

    # Reading ----------------------------------------------------------------------------------------------------

    async def _read(self, reel: Reel) -> None:
        """Read ahead, and what holds at moments that are sought; as long as the player lives."""
        while self._transport is not None:
            sought = self._sought
            try:
                if sought is not None:
                    await self._go_to(reel, sought)
                elif self._mending.at is not None:
                    await self._mend(reel)
                elif reel.wants and not self._damaged:
                    await reel.read()
                    self._schedule_after_reading()
                else:
                    self._wake.clear()
                    await self._wake.wait()
            except BadArchive as error:
                self._on_damage(reel, sought, error)
            except StoreUnavailable as error:
                self._errors += 1
                if sought is not None and not self._options.loop:  # whose way back to the start nobody would ask again
                    self._stay(sought, error)
                    continue
                self._context.log.warning("the archive can't be read; trying again", error=str(error))
                await asyncio.sleep(self._options.retry_s)
                reel.reopen()

    def _on_damage(self, reel: Reel, sought: int | None, error: BadArchive) -> None:
        """Trying again at once would not help."""
        self._errors += 1
        if sought is not None:
            self._stay(sought, error)
        elif self._mending.at is not None:
            self._context.log.error("the archive is damaged; the hole is not mended here", error=str(error))
            self._mending.put_off()
            self._schedule(0.0)
        else:
            self._context.log.error("the archive is damaged; the replay pauses before that", error=str(error))
            self._damaged = True
            reel.reopen()
            self._schedule_after_reading()

    def _stay(self, sought: int, error: BadArchive | StoreUnavailable) -> None:
        """A moment that was sought can't be read: stand where it was, unless another one is sought by now."""
        self._context.log.error(
            "the archive can't be read at that moment; the replay stays", at=sought, error=str(error)
        )
        if self._sought == sought:
            self._sought, self._paused = None, True
            self._changed()

    def _schedule_after_reading(self) -> None:
        if self._timer is None and not self._blocked and self._phase == "playing":
            self._schedule(0.0)

    async def _mend(self, reel: Reel) -> None:
        if await self._mending.mend(reel, lambda: self._sought is None and self._transport is not None):
            self._end_turn()
        self._schedule(0.0)

    async def _go_to(self, reel: Reel, at: int) -> None:
        """Go on from this moment, unless another one is sought meanwhile. The first moment of all is played, too."""
        holds_at = at if at > self._tape.start else self._tape.start - 1
        streams = self._tape.streams
        states = await reel.states(streams, holds_at, lambda: self._sought == at and self._transport is not None)
        if states is None or self._sought != at or self._transport is None:
            return
        reel.open(states, holds_at)
        self._seeks += 1
        self._sought, self._ended, self._blocked, self._damaged = None, False, False, False
        self._lead.begin_anew()
        self._mending.begin_anew()
        now = self._context.clock()
        self._run = max(now // 1000, self._stage.term + 1)
        self._pace.stop(self._now())
        self._pace.set(at, self._now())
        state = self.state()
        self._told = (state.state, state.speed, state.run)
        if self._lead.audience is not None:
            self._lead.audience.rewound(state, {one.stream for one in states})
        self._stage.begin(states, self._run, now)
        self._stage.beacon(now, full=True)
        self._publisher.settle()
        self._lead.mark(self._stage.sent)
        self._changed()

    def _on_moment(self, request: SnapshotRequest, responder: Responder) -> None:
        if self._reel is not None:
            self._context.spawn(tell_moment(self._reel, self._stage.term, request, responder))

    # Inside -----------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._beats_timer = self._loop.call_later(_BEAT_S, self._beat)
        self._beats += 1
        self._stage.beacon(self._context.clock(), full=self._beats % _BEATS_A_FULL_BEACON == 1)
        self._publisher.settle()
        self.room()

    def _publish(self, frame: bytes) -> None:
        self._publisher.publish(frame)

    def _now(self) -> int:
        return int(self._loop.time() * 1e9)

    def _close(self) -> None:
        for timer in (self._timer, self._beats_timer):
            if timer is not None:
                timer.cancel()
        if self._reel is not None:
            self._reel.close()
            self._reel = None
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._wake.set()
