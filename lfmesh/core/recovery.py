"""The ladder of recovery, once for every hop: a consumer's view of one numbered stream, as a pure state machine.

    own ring → publisher's retransmit ring → snapshotter's snapshot → venue resync

A `Follower` is fed with what arrives (`increments`, `snapshot`, `beacon`, answers to its requests) and the time, and
returns facts, in order: `Accepted` and `Opened` are to be applied; `Wanted` is a request to send; the others are
counted and logged.

States
    unset       no position yet. `join="anywhere"` (a gateway's ring, an ingestor's frames) takes the first thing it
                sees as its start; `join="snapshot"` (who holds state) holds what arrives and wants a snapshot.
    following   accepts last+1, drops what is at or below last.
    gapped      holds newer units (bounded), has asked for what is missing: first a retransmission, then, when that is
                unavailable or not answered in time, a snapshot. Each step forward begins at the bottom of the ladder
                again; what is not answered is asked again after pauses that double.
    in doubt    gapped when another publisher took over (`taken_over`): what was held and seen may never have been. The
                new one's words tell: a position ahead of ours makes it a gap again, any other ends it ("takeover").

A new epoch opens with its snapshot at (epoch, 0), which names where the stream stood before (`previous`). A consumer
that was not there has missed the tail of the old epoch: that is a gap like any other. One that was further than
`previous` has heard more of the old epoch from a publisher that is gone than its successor knows, and misses nothing.
Units of an older epoch are stale.

Live units and answers are told apart (`answer=True`), since only the publisher's own live words prove that something
exists: a unit of an answer that does not fit is dropped, and nothing is expected because of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lfmesh.core.facts import (
    Accepted,
    Based,
    Dropped,
    Fact,
    GapClosed,
    GapOpened,
    Healer,
    Opened,
    Rung,
    Wanted,
)
from lfmesh.core.held import Allowance, Held, Unit
from lfmesh.types import Position

__all__ = [
    "DEFAULT_LIMITS", "Accepted", "Allowance", "Based", "Dropped", "Fact", "Follower", "FollowerLimits", "GapClosed",
    "GapOpened", "Healer", "Opened", "Rung", "Wanted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FollowerLimits:
    """Bounds of one follower.

    Units that come while `held_items` or `held_bytes` are held are dropped (and asked for later). A request is repeated
    after `retry_ns`, then after twice as long each time up to `max_retry_ns`; retransmissions `retransmit_attempts`
    times in all, then a snapshot is wanted.
    """

    held_items: int = 10_000
    retry_ns: int = 500_000_000
    retransmit_attempts: int = 2
    max_retry_ns: int = 2_000_000_000
    held_bytes: int = 8 * 1024 * 1024


@dataclass(slots=True)
class _Gap:
    """`seen` None: in doubt. `dropped`: items that were held when the publisher was replaced, not told of yet."""

    opened_at: int
    seen: Position | None
    rung: Rung
    asked_at: int
    asked_from: Position | None
    attempts: int = 0
    healer: Healer = "late"
    dropped: int = 0


DEFAULT_LIMITS = FollowerLimits()


@dataclass(slots=True)
class Follower[T]:
    """One consumer's view of one stream; see the module's docstring.

    `size_of` is the size of a unit in bytes (None: units are not counted in bytes); `allowance` is shared with others.
    """

    join: Literal["anywhere", "snapshot"] = "snapshot"
    limits: FollowerLimits = DEFAULT_LIMITS
    position: Position | None = None
    size_of: Callable[[T], int] | None = None
    allowance: Allowance | None = None
    _gap: _Gap | None = None
    _held: Held[T] = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self._held = Held(limits.held_items, limits.held_bytes, self.size_of, self.allowance)

    @property
    def gapped(self) -> bool:
        """True while something is, or may be, missing."""
        return self._gap is not None

    @property
    def in_doubt(self) -> bool:
        """True if a gap was open when the publisher was replaced, and the new one has not spoken of the stream yet."""
        return self._gap is not None and self._gap.seen is None

    @property
    def seen(self) -> Position | None:
        """The newest position that the publisher is known to have been at, while something is missing."""
        return None if self._gap is None else self._gap.seen

    @property
    def held_items(self) -> int:
        """Units held back until the gap is healed."""
        return self._held.items

    @property
    def held_bytes(self) -> int:
        """Their size, if `size_of` tells it."""
        return self._held.bytes

    # What arrives -----------------------------------------------------------------------------------------------

    def increments(
        self, epoch: int, first_seq: int, items: Sequence[T], now: int,
        previous_seq: int | None = None, *, answer: bool = False,
    ) -> list[Fact[T]]:  # fmt: skip
        """Units first_seq … of an epoch have arrived, live or as an `answer` to a request.

        `previous_seq`: the one unit is conflated, and stands for all after that number up to its own.
        """
        at = self.position
        if at is not None and epoch == at.epoch and first_seq == at.seq + 1 and self._gap is None:
            self.position = Position(epoch, at.seq + len(items))
            return [Accepted(epoch, first_seq, items)]
        after = first_seq - 1 if previous_seq is None else previous_seq
        unit = Unit(epoch, after, first_seq + len(items) - 1, snapshot=False, previous=None, items=items)
        return self._take(unit, now, answer=answer)

    def snapshot(
        self, position: Position, previous: Position | None, items: Sequence[T], now: int, *, answer: bool = False
    ) -> list[Fact[T]]:
        """A published snapshot has arrived; `previous` is where the stream stood before it (None: unknown)."""
        epoch, seq = position
        return self._take(Unit(epoch, seq, seq, snapshot=True, previous=previous, items=items), now, answer=answer)

    def beacon(self, position: Position, now: int) -> list[Fact[T]]:
        """The publisher says where it stands; ahead of us means that something was lost on the way."""
        facts: list[Fact[T]] = []
        at = self.position
        if at is None and self.join == "anywhere":
            self.position = position
            facts.append(Based(position))
        elif at is None or position > at:
            self._open(position, now, facts)
        elif self.in_doubt:
            self._close(now, facts)
        return facts

    def rebase(self, position: Position, items: Sequence[T], now: int) -> list[Fact[T]]:
        """A snapshot that is in force wherever we stand: for who hears one source over one ordered connection, and
        compares epochs for equality only."""
        facts: list[Fact[T]] = [Opened(position, items)]
        self.position = position
        self._drop_held(facts, keep=position.epoch)
        gap = self._gap
        if gap is not None:
            gap.healer = "snapshot"
            gap.seen = Position(position.epoch, max(position.seq, self._held.newest))
            self._release(now, facts)
        return facts

    # Answers ----------------------------------------------------------------------------------------------------

    def base(self, position: Position, now: int) -> list[Fact[T]]:
        """A snapshot from beside the stream (a snapshotter, a restored state) holds at `position`.

        Ignored when it is not ahead of where we stand, unless nothing better is known. What is missing after it is
        asked for from the bottom of the ladder.
        """
        facts: list[Fact[T]] = []
        gap = self._gap
        if self.position is None or position > self.position:
            self.position = position
            facts.append(Based(position))
            if gap is not None:
                gap.healer = "snapshot"
                self._release(now, facts)
                if self._gap is not None:
                    facts.append(self._ask(gap, self._bottom(), now))
        elif gap is not None and gap.rung == "snapshot":
            # Not new enough yet: the snapshotter itself may still be recovering. Ask again after the retry time.
            gap.asked_at = now
        return facts

    def unavailable(self, now: int, asked: Wanted | None = None) -> list[Fact[T]]:
        """The rung that was asked last can't give it: take the next one (the last one is asked again, later).

        `asked`: the request that this answers; an answer to an earlier one says nothing.
        """
        gap = self._awaited(asked)
        if gap is None or gap.rung == "snapshot":
            return []
        return [self._ask(gap, "snapshot", now)]

    def answered(self, now: int, asked: Wanted | None = None) -> list[Fact[T]]:
        """All units of an answer have been given to us: ask on if it helped but was not all, else take the next rung.

        `asked`: as for `unavailable`.
        """
        gap = self._awaited(asked)
        if gap is None:
            return []
        if self.position != gap.asked_from:
            return [self._ask(gap, self._bottom(), now)]
        return [self._ask(gap, "snapshot", now)] if gap.rung == "retransmit" else []

    # Time and publishers ----------------------------------------------------------------------------------------

    def tick(self, now: int) -> list[Fact[T]]:
        """Repeat what was not answered; after the attempts are used up take the next rung."""
        gap = self._gap
        if gap is None or gap.seen is None or now - gap.asked_at < self._pause(gap):
            return []
        if self.position != gap.asked_from:
            return [self._ask(gap, self._bottom(), now)]
        if gap.rung == "retransmit" and gap.attempts >= self.limits.retransmit_attempts:
            return [self._ask(gap, "snapshot", now)]
        return [self._ask(gap, gap.rung, now)]

    def heard_again(self, now: int) -> list[Fact[T]]:
        """Who is asked was silent and is not any more: what is missing is asked for at once, from the bottom."""
        gap = self._gap
        if gap is None or gap.seen is None or gap.asked_at == now:
            return []
        gap.attempts = 0
        return [self._ask(gap, self._bottom(), now)]

    def taken_over(self) -> None:
        """Another publisher has taken over: forget what only the old one said; see "in doubt"."""
        gap = self._gap
        if gap is not None:
            gap.seen = None
            gap.healer = "takeover"
            gap.dropped += self._held.sift(lambda _: True)

    def absent(self, now: int) -> list[Fact[T]]:
        """The publisher has named all of its streams, and this one is not among them: nothing is missing now."""
        facts: list[Fact[T]] = []
        if self.in_doubt:
            self._close(now, facts)
        return facts

    def abandon(self, now: int) -> list[Fact[T]]:
        """What we hold of the stream is void: it is joined anew."""
        facts: list[Fact[T]] = []
        self._drop_held(facts)
        if self._gap is not None:
            self._gap.healer = "takeover"
            self._close(now, facts)
        self.position = None
        return facts

    # Inside -----------------------------------------------------------------------------------------------------

    def _take(self, unit: Unit[T], now: int, *, answer: bool) -> list[Fact[T]]:
        facts: list[Fact[T]] = []
        if self.position is None and self.join == "anywhere" and not unit.snapshot and not answer:
            self.position = Position(unit.epoch, unit.after)
            facts.append(Based(self.position))
        before = self.position
        if self._apply(unit, facts):
            gap = self._gap
            if gap is not None and self.position != before:
                if answer and gap.healer != "snapshot":
                    gap.healer = "retransmit"
                self._release(now, facts)
        elif answer:
            facts.append(Dropped(len(unit.items), "stale"))
        else:
            if not self._held.add(unit):
                facts.append(Dropped(len(unit.items), "overflow"))
            self._open(Position(unit.epoch, unit.last), now, facts)
        return facts

    def _apply(self, unit: Unit[T], facts: list[Fact[T]]) -> bool:
        """Apply a unit that fits onto the position; drop one that is old. False: it is ahead."""
        at = self.position
        if unit.snapshot:
            return self._apply_snapshot(unit, facts)
        if at is None or unit.epoch > at.epoch:
            return False
        items = unit.items
        count = len(items)
        if unit.epoch < at.epoch:
            facts.append(Dropped(count, "stale"))
            return True
        if unit.last <= at.seq:
            facts.append(Dropped(count, "duplicate"))
            return True
        if unit.after > at.seq:
            return False
        # Of a conflated unit that begins before our position nothing is left out: its levels are the last ones.
        first = unit.last - count + 1
        known = at.seq + 1 - first
        if known > 0:
            facts.append(Dropped(known, "duplicate"))
            first, items = at.seq + 1, items[known:]
        self.position = Position(unit.epoch, unit.last)
        facts.append(Accepted(unit.epoch, first, items))
        return True

    def _apply_snapshot(self, unit: Unit[T], facts: list[Fact[T]]) -> bool:
        at = self.position
        position = Position(unit.epoch, unit.last)
        if at is not None:
            if position <= at:
                facts.append(Dropped(1, "duplicate" if unit.epoch == at.epoch else "stale"))
                return True
            if unit.previous is not None and unit.previous > at:
                return False
        self.position = position
        facts.append(Opened(position, unit.items))
        return True

    def _drop_held(self, facts: list[Fact[T]], keep: int | None = None) -> None:
        dropped = self._held.sift(lambda unit: unit.epoch != keep)
        if dropped:
            facts.append(Dropped(dropped, "stale"))

    def _release(self, now: int, facts: list[Fact[T]]) -> None:
        """Apply what was held, as far as it fits; close the gap when nothing known is missing."""
        self._held.sift(lambda unit: self._apply(unit, facts))
        gap, at = self._gap, self.position
        if gap is not None and at is not None and (gap.seen is None or at >= gap.seen):
            self._close(now, facts)

    def _open(self, seen: Position, now: int, facts: list[Fact[T]]) -> None:
        gap = self._gap
        if gap is None:
            gap = self._gap = _Gap(now, seen, self._bottom(), now, self.position)
            if self.position is not None:
                facts.append(GapOpened(self.position, seen))
        elif gap.seen is None:
            gap.seen, gap.healer, gap.attempts = seen, "late", 0
            self._tell_dropped(gap, facts)
        else:
            gap.seen = max(gap.seen, seen)
            return
        facts.append(self._ask(gap, self._bottom(), now))

    def _close(self, now: int, facts: list[Fact[T]]) -> None:
        gap = self._gap
        assert gap is not None
        self._gap = None
        self._tell_dropped(gap, facts)
        facts.append(GapClosed(gap.healer, now - gap.opened_at))

    @staticmethod
    def _tell_dropped(gap: _Gap, facts: list[Fact[T]]) -> None:
        if gap.dropped:
            facts.append(Dropped(gap.dropped, "stale"))
            gap.dropped = 0

    def _bottom(self) -> Rung:
        return "snapshot" if self.position is None else "retransmit"

    def _awaited(self, asked: Wanted | None) -> _Gap | None:
        """The gap, if this is what was asked for it last."""
        gap = self._gap
        if gap is None or gap.seen is None:
            return None
        return gap if asked is None or (asked.rung == gap.rung and asked.after == gap.asked_from) else None

    def _ask(self, gap: _Gap, rung: Rung, now: int) -> Wanted:
        gap.attempts = gap.attempts + 1 if gap.rung == rung and gap.asked_from == self.position else 1
        gap.rung = rung
        gap.asked_at = now
        gap.asked_from = self.position
        return Wanted(rung, self.position)

    def _pause(self, gap: _Gap) -> int:
        # Doubling is cut off where any bound has been reached, since attempts have none.
        return min(self.limits.retry_ns << min(gap.attempts - 1, 20), self.limits.max_retry_ns)
