"""A worker's end of the line, with the supervisor's end in the test's hands."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from lfmesh.errors import PortInUse
from lfmesh.services.gateway.crew_member import Member
from lfmesh.services.gateway.crew_messages import (
    Admit,
    Admitted,
    Answer,
    Answers,
    Ask,
    Failed,
    FromWorker,
    Leave,
    Lines,
    Told,
    ToWorker,
    decode_from_worker,
    line,
)
from tests.aio import run


class Supervisor:
    """The other end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.setblocking(False)
        self._lines = Lines()
        self._heard: list[bytes] = []

    async def hears(self) -> FromWorker:
        while not self._heard:
            data = await asyncio.get_running_loop().sock_recv(self._end, 65536)
            assert data, "the worker has hung up"
            self._heard = self._lines.feed(data)
        return decode_from_worker(self._heard.pop(0))

    async def says(self, message: ToWorker) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, line(message))

    def hangs_up(self) -> None:
        self._end.close()


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Member, Supervisor]]:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as listener:
        member = Member("g.1", "g", ours, listener)
        await member.open(lambda: ["no data"], lambda: "text")
        try:
            yield member, Supervisor(theirs)
        finally:
            member.close()
            await asyncio.sleep(0)


def test_admission_is_asked_of_the_supervisor() -> None:
    async def scenario() -> None:
        async with joined() as (member, supervisor):
            first, second = asyncio.create_task(member.admit("a")), asyncio.create_task(member.admit("b"))
            asked = [await supervisor.hears(), await supervisor.hears()]
            assert [(type(one), one.address) for one in asked if isinstance(one, Admit)] == [(Admit, "a"), (Admit, "b")]
            for one, refusal in zip(reversed(asked), ("full", ""), strict=True):
                assert isinstance(one, Admit)
                await supervisor.says(Admitted(one.number, refusal))
            assert (await first, await second) == ("", "full")
            member.leave("a")
            assert await supervisor.hears() == Leave("a")

    run(scenario())


@pytest.mark.parametrize("late", [True, False])
def test_who_no_longer_waits_to_be_admitted_is_not_counted(late: bool) -> None:
    async def scenario() -> None:
        async with joined() as (member, supervisor):
            waits = asyncio.create_task(member.admit("a"))
            asked = await supervisor.hears()
            assert isinstance(asked, Admit)
            if late:
                waits.cancel()
                await asyncio.wait([waits])
                await supervisor.says(Admitted(asked.number, ""))
            else:
                member.data_received(line(Admitted(asked.number, "")))
                waits.cancel()  # the answer is there, and not yet looked at
                await asyncio.wait([waits])
            assert waits.cancelled()
            assert await supervisor.hears() == Leave("a")

    run(scenario())


def test_it_answers_for_its_service() -> None:
    async def scenario() -> None:
        async with joined() as (_, supervisor):
            await supervisor.says(Ask(4, "ready"))
            assert await supervisor.hears() == Answer(4, ["no data"])
            await supervisor.says(Ask(5, "metrics"))
            assert await supervisor.hears() == Answer(5, ["text"])

    run(scenario())


def test_who_asks_the_others_at_once_shares_one_question() -> None:
    async def scenario() -> None:
        async with joined() as (member, supervisor):
            first, second = asyncio.create_task(member.others("ready")), asyncio.create_task(member.others("ready"))
            asked = await supervisor.hears()
            assert isinstance(asked, Ask)
            member.leave("a")
            assert await supervisor.hears() == Leave("a"), "nothing was asked in between"
            first.cancel()
            await asyncio.wait([first])
            await supervisor.says(Answers(asked.number, [Told("g.2", ["x"])]))
            assert await second == [Told("g.2", ["x"])]
            third = asyncio.create_task(member.others("ready"))
            asked_again = await supervisor.hears()
            assert isinstance(asked_again, Ask)
            assert asked_again.number != asked.number
            third.cancel()

    run(scenario())


def test_without_a_supervisor_nobody_is_admitted_and_readiness_says_so() -> None:
    async def scenario() -> None:
        async with joined() as (member, supervisor):
            admission, answers = asyncio.create_task(member.admit("a")), asyncio.create_task(member.others("ready"))
            await supervisor.hears()
            await supervisor.hears()
            supervisor.hangs_up()
            gone = [Told("g", silence="the supervisor is gone")]
            assert await admission == "full"
            assert await answers == gone
            assert await member.admit("a") == "full"
            assert await member.others("metrics") == gone
            member.leave("a")

    run(scenario())


def test_a_start_that_fails_is_told_before_and_after_the_line_is_open() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket() as listener:
            Member("g.1", "g", ours, listener).failed(PortInUse("8000 is in use"))
            assert await Supervisor(theirs).hears() == Failed("PortInUse", "8000 is in use")
        async with joined() as (member, supervisor):
            member.failed(PortInUse("8000 is in use"))
            assert await supervisor.hears() == Failed("PortInUse", "8000 is in use")

    run(scenario())


def test_lines_are_put_together_from_any_pieces() -> None:
    text = b"".join(line(Leave("x" * size)) for size in (1, 500, 3))
    for size in (1, 2, 7, 100, len(text)):
        lines = Lines()
        found = [one for start in range(0, len(text), size) for one in lines.feed(text[start : start + size])]
        assert [msgspec.json.decode(one)["address"] for one in found] == ["x", "x" * 500, "xxx"]
