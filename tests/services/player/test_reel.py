"""Reading ahead, in a thread: blocks, failures, and openings that take the place of others."""

import pytest

from lfmesh.archive.asof import StateAt
from lfmesh.errors import StoreUnavailable
from lfmesh.services.player.reel import BLOCK_LINES, BLOCKS, Reel
from lfmesh.types import Position, StreamKey
from tests.aio import run
from tests.services.player.kit import EPOCH, START, STEP, MemoryTape, Recording


async def rest(reel: Reel) -> list[bytes]:
    """Everything that is left."""
    got: list[bytes] = []
    while not reel.at_end:
        if reel.peek() is None:
            await reel.read()
        while (told := reel.peek()) is not None:
            got.append(told.line.message)
            reel.pop()
    return got


def test_it_gives_every_line_in_order_a_bounded_way_ahead() -> None:
    recording = Recording(products=3, rounds=1000)

    async def scenario() -> None:
        reel = Reel(MemoryTape(recording.lines))
        reel.open([], START - 1)
        reads = 0
        while reel.wants:
            await reel.read()
            reads += 1
        assert reads == BLOCKS
        assert len(recording.lines) > BLOCKS * BLOCK_LINES
        assert await rest(reel) == [told.line.message for told in recording.lines]
        reel.close()

    run(scenario())


def test_after_a_failure_it_goes_on_where_it_was_with_whole_snapshots() -> None:
    recording = Recording(products=1, rounds=2000)
    tape = MemoryTape(recording.lines)
    # Its second block ends within the parts of the book's first snapshot if it is long enough; so the failure does.
    tape.failures = [(1, StoreUnavailable("1")), (2, StoreUnavailable("2")), (BLOCK_LINES + 5, StoreUnavailable("3"))]

    async def scenario() -> None:
        reel = Reel(tape)
        reel.open([], START - 1)
        got: list[bytes] = []
        failed = 0
        while not reel.at_end:
            try:
                got += await rest(reel)
            except StoreUnavailable:
                failed += 1
                while (told := reel.peek()) is not None:
                    got.append(told.line.message)
                    reel.pop()
                reel.reopen()
        assert failed == 3
        assert sorted(set(got)) == sorted(got)
        reel.close()

    run(scenario())


def test_states_that_nobody_wants_any_more_are_not_read_on() -> None:
    recording = Recording(products=10, rounds=3)
    tape = MemoryTape(recording.lines)

    async def scenario() -> None:
        reel = Reel(tape)
        asked = 0

        def wanted() -> bool:
            nonlocal asked
            asked += 1
            return asked < 3

        assert await reel.states(tape.streams, START + STEP, wanted) is None
        assert asked == 3
        states = await reel.states(tape.streams, START + STEP, lambda: True)
        assert states is not None
        assert {(state.stream, state.position) for state in states} == {
            (key, Position(EPOCH, 1)) for key in recording.streams
        }
        reel.close()

    run(scenario())


def test_an_opening_makes_what_was_being_read_worthless() -> None:
    recording = Recording(products=1, rounds=50)
    tape = MemoryTape(recording.lines)

    async def scenario() -> None:
        reel = Reel(tape)
        reel.open([], START - 1)
        reading = reel.read()
        reading.send(None)  # it is under way
        reel.open([*tape.states(START + 40 * STEP)], START + 40 * STEP)
        reading.close()
        got = await rest(reel)
        assert got == [told.line.message for told in recording.lines if told.line.time > START + 40 * STEP]
        reel.close()

    run(scenario())


def test_what_the_thread_raises_is_raised_in_the_loop() -> None:
    class Broken(MemoryTape):
        def state(self, stream: StreamKey, at: int) -> StateAt | None:
            raise ZeroDivisionError(stream, at)

    async def scenario() -> None:
        tape = Broken(Recording(products=1, rounds=1).lines)
        reel = Reel(tape)
        with pytest.raises(ZeroDivisionError):
            await reel.states(tape.streams, 1, lambda: True)
        reel.close()

    run(scenario())
