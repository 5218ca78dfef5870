"""The ladder of recovery, once for every hop: a consumer's view of one numbered stream, as a pure state machine.

    own ring → publisher's retransmit ring → snapshotter's snapshot → venue resync

A `Follower` is fed with what arrives (`increments`, `snapshot`, `beacon`, answers to its requests) and the time,
and returns
facts, in order: `Accepted` and `Opened` are to be applied; `Wanted` is a request to send; the others are counted
and logged.

States
    unset       no position yet. `join="anywhere"` (a gateway's ring, an ingestor's frames) takes the first thing it
    sees as its
                start; `join="snapshot"` (who holds state) holds what arrives and wants a snapshot.
    following   accepts last+1, drops what is at or below last.
    gapped      holds newer units (bounded), has asked for what is missing: first a retransmission, then, when that
                is unavailable or not answered in time, a snapshot.

A new epoch opens with its snapshot at (epoch, 0), which names where the stream stood before (`previous`). A
consumer that was
not there has missed the tail of the old epoch: that is a gap like any other. Units of an older epoch are stale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lfmesh.types import Position

Rung = Literal["retransmit", "snapshot"]


@dataclass(frozen=True, slots=True)
class Accepted[T]:
    """Units first_seq, first_seq + 1, … of the epoch, next in order."""

    epoch: int
    first_seq: int
    items: Sequence[T]


@dataclass(frozen=True, slots=True)
class Opened[T]:
    """A published snapshot: the state is now what `items` (its parts) say, at `position`."""

    position: Position
    items: Sequence[T]


@dataclass(frozen=True, slots=True)
class Based:
    """The position was set from outside (a snapshotter's answer, a ring's start): state at `position` holds."""

    position: Position


@dataclass(frozen=True, slots=True)
class Dropped:
    """`count` units at or below our position (duplicate), or of an older epoch (stale), or past the bound
    (overflow)."""

    count: int
    why: Literal["duplicate", "stale", "overflow"]


@dataclass(frozen=True, slots=True)
class GapOpened:
    """Units after `last` are missing; `seen` is the newest position known."""

    last: Position | None
    seen: Position


@dataclass(frozen=True, slots=True)
class GapClosed:
    """The gap is healed, by this rung, after `open_ns`."""

    rung: Rung | Literal["late"]
    open_ns: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ask for everything after `after` (retransmit), or for a snapshot."""

    rung: Rung
    after: Position | None


type Fact[T] = Accepted[T] | Opened[T] | Based | Dropped | GapOpened | GapClosed | Wanted


@dataclass(frozen=True, slots=True)
class FollowerLimits:
    """Bounds of one follower. Held units past `held_items` are dropped, newest first; requests repeat after
    `retry_ns`."""

    held_items: int = 10_000
    retry_ns: int = 500_000_000
    retransmit_attempts: int = 3


@dataclass(slots=True)
class _Held[T]:
    epoch: int
    first_seq: int
    snapshot: bool
    previous: Position | None
    items: Sequence[T]


@dataclass(slots=True)
class _Gap:
    opened_at: int
    rung: Rung
    asked_at: int
    attempts: int
    asked_from: Position | None
    seen: Position


DEFAULT_LIMITS = FollowerLimits()


@dataclass(slots=True)
class Follower[T]:
    """One consumer's view of one stream; see the module's docstring."""

    join: Literal["anywhere", "snapshot"] = "snapshot"
    limits: FollowerLimits = DEFAULT_LIMITS
    position: Position | None = None
    _gap: _Gap | None = None
    _held: list[_Held[T]] = field(default_factory=list)
    _held_items: int = 0

    @property
    def gapped(self) -> bool:
        """True while something is known to be missing."""
        return self._gap is not None

    @property
    def held_items(self) -> int:
        """Units held back until the gap is healed."""
        return self._held_items

    def increments(self, epoch: int, first_seq: int, items: Sequence[T], now: int) -> list[Fact[T]]:
        """Units first_seq … of an epoch have arrived, live or retransmitted."""
        at = self.position
        if at is not None and epoch == at.epoch and first_seq == at.seq + 1 and self._gap is None:
            self.position = Position(epoch, at.seq + len(items))
            return [Accepted(epoch, first_seq, items)]
        facts: list[Fact[T]] = []
        self._take(_Held(epoch, first_seq, False, None, items), now, facts)
        return facts

    def snapshot(self, position: Position, previous: Position | None, items: Sequence[T], now: int) -> list[Fact[T]]:
        """A published snapshot has arrived; `previous` is where the stream stood before it (None: unknown)."""
        facts: list[Fact[T]] = []
        self._take(_Held(position.epoch, position.seq, True, previous, items), now, facts)
        return facts

    def beacon(self, position: Position, now: int) -> list[Fact[T]]:
        """The publisher says where it stands; ahead of us means that something was lost on the way."""
        facts: list[Fact[T]] = []
        at = self.position
        if at is None:
            if self.join == "anywhere":
                self.position = position
                facts.append(Based(position))
            else:
                self._open(position, now, facts)
        elif position > at:
            self._open(position, now, facts)
        return facts

    def base(self, position: Position, now: int) -> list[Fact[T]]:
        """A snapshot from beside the stream (a snapshotter, a restored state) holds at `position`.

        Ignored when it is not ahead of where we stand, unless nothing better is known.
        """
        facts: list[Fact[T]] = []
        if self.position is None or position > self.position:
            self.position = position
            facts.append(Based(position))
            self._release(now, facts, "snapshot")
        elif self._gap is not None and self._gap.rung == "snapshot":
            # Not new enough yet: the snapshotter itself may still be recovering. Ask again after the retry time.
            self._gap.asked_at = now
        return facts

    def unavailable(self, now: int) -> list[Fact[T]]:
        """The rung that was asked last can't give it: take the next one (the last one is asked again, later)."""
        gap = self._gap
        if gap is None or gap.rung == "snapshot":
            return []
        return [self._ask(gap, "snapshot", now)]

    def answered(self, now: int) -> list[Fact[T]]:
        """All units of an answer have been given to us: ask on if it helped but was not all, else take the next
        rung."""
        gap = self._gap
        if gap is None:
            return []
        helped = self.position != gap.asked_from
        return [self._ask(gap, gap.rung if helped else "snapshot", now)]

    def tick(self, now: int) -> list[Fact[T]]:
        """Repeat what was not answered; after the attempts are used up take the next rung."""
        gap = self._gap
        if gap is None or now - gap.asked_at < self.limits.retry_ns:
            return []
        if gap.rung == "retransmit" and gap.attempts >= self.limits.retransmit_attempts:
            return [self._ask(gap, "snapshot", now)]
        return [self._ask(gap, gap.rung, now)]

    # Inside ---------------------------------------------------------------------------------------------------

    def _take(self, unit: _Held[T], now: int, facts: list[Fact[T]]) -> None:
        if self.position is None and self.join == "anywhere" and not unit.snapshot:
            self.position = Position(unit.epoch, unit.first_seq - 1)
            facts.append(Based(self.position))
        before = self.position
        if self._apply(unit, facts):
            if self._gap is not None and self.position != before:
                self._release(now, facts, "late")
            return
        self._hold(unit, facts)
        self._open(Position(unit.epoch, unit.first_seq + len(unit.items) - 1), now, facts)

    def _apply(self, unit: _Held[T], facts: list[Fact[T]]) -> bool:
        """Apply a unit that fits onto the position; drop one that is old. False: it is ahead."""
        at = self.position
        if unit.snapshot:
            return self._apply_snapshot(unit, facts)
        count = len(unit.items)
        if at is None or unit.epoch > at.epoch:
            return False
        if unit.epoch < at.epoch:
            facts.append(Dropped(count, "stale"))
            return True
        last = unit.first_seq + count - 1
        if last <= at.seq:
            facts.append(Dropped(count, "duplicate"))
            return True
        if unit.first_seq > at.seq + 1:
            return False
        known = at.seq + 1 - unit.first_seq
        if known:
            facts.append(Dropped(known, "duplicate"))
        self.position = Position(unit.epoch, last)
        facts.append(Accepted(unit.epoch, at.seq + 1, unit.items[known:] if known else unit.items))
        return True

    def _apply_snapshot(self, unit: _Held[T], facts: list[Fact[T]]) -> bool:
        at = self.position
        position = Position(unit.epoch, unit.first_seq)
        if at is not None:
            if position <= at:
                facts.append(Dropped(1, "duplicate" if unit.epoch == at.epoch else "stale"))
                return True
            if unit.previous is not None and unit.previous > at:
                return False
        self.position = position
        facts.append(Opened(position, unit.items))
        return True

    def _hold(self, unit: _Held[T], facts: list[Fact[T]]) -> None:
        count = len(unit.items)
        if self._held_items + count > self.limits.held_items:
            facts.append(Dropped(count, "overflow"))
            return
        self._held.append(unit)
        self._held_items += count

    def _open(self, seen: Position, now: int, facts: list[Fact[T]]) -> None:
        gap = self._gap
        if gap is not None:
            gap.seen = max(gap.seen, seen)
            return
        rung: Rung = "snapshot" if self.position is None else "retransmit"
        self._gap = gap = _Gap(now, rung, now, 0, self.position, seen)
        if self.position is not None:
            facts.append(GapOpened(self.position, seen))
        facts.append(self._ask(gap, rung, now))

    def _ask(self, gap: _Gap, rung: Rung, now: int) -> Wanted:
        gap.attempts = gap.attempts + 1 if gap.rung == rung else 1
        gap.rung = rung
        gap.asked_at = now
        gap.asked_from = self.position
        return Wanted(rung, self.position)

    def _release(self, now: int, facts: list[Fact[T]], rung: Rung | Literal["late"]) -> None:
        """Apply what was held, as far as it fits; close the gap when nothing known is missing."""
        held = sorted(self._held, key=lambda unit: (unit.epoch, unit.first_seq))
        self._held, self._held_items = [], 0
        for unit in held:
            if not self._apply(unit, facts):
                self._held.append(unit)
                self._held_items += len(unit.items)
        gap = self._gap
        at = self.position
        if gap is None or at is None or self._held or at < gap.seen:
            return
        self._gap = None
        facts.append(GapClosed(gap.rung if rung == "late" else rung, now - gap.opened_at))
