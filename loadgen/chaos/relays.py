"""All relays of a run, in a process of their own: whatever the auditing clients compute, no beacon waits for it.

    {"open": [Post, …], "seed": N}                           →  {"ports": {name: port}}
    {"lead": {connector: {endpoint: endpoint}}}              →  {}    addresses that registries' answers shall name
    {"link": NAME, "cut": …, "delay_s": …, "drop_share": …}  →  {"dropped": messages that have vanished on it so far}

One JSON object a line, in order; it ends when its standard input does.
"""

import asyncio
import random
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import uvloop

from lfmesh.errors import LfmeshError
from loadgen.chaos.lane import Weather
from loadgen.chaos.relay import Post, Relay

_LINE_BYTES = 16 * 1024 * 1024
_ANSWER_S = 10.0


class Order(msgspec.Struct, omit_defaults=True):
    """One line of what the relays' process is told."""

    open: list[Post] = []
    host: str = "127.0.0.1"
    seed: int = 0
    lead: dict[str, dict[str, str]] = {}
    link: str = ""
    cut: bool = False
    delay_s: float = 0.0
    drop_share: float = 0.0


class Yard:
    """The relays' side: carries out orders."""

    def __init__(self) -> None:
        self._weather: dict[str, Weather] = {}
        self._relays: list[Relay] = []
        self._addresses: dict[str, dict[str, str]] = {}

    async def obey(self, order: Order) -> dict[str, Any]:
        """Carry out one order; what is to be answered."""
        if order.open:
            return {"ports": await self._open(order)}
        for connector, addresses in order.lead.items():
            self._addresses.setdefault(connector, {}).update(addresses)
        if not order.link:
            return {}
        weather = self._weather[order.link]
        weather.cut, weather.delay_s, weather.drop_share = order.cut, order.delay_s, order.drop_share
        for relay in self._relays:
            if relay.post.link == order.link:
                relay.changed()
        return {"dropped": weather.dropped}

    def close(self) -> None:
        """Close every relay."""
        for relay in self._relays:
            relay.close()

    async def _open(self, order: Order) -> dict[str, int]:
        chance = random.Random(order.seed)  # noqa: S311 - which messages vanish, reproducibly
        for post in order.open:
            weather = self._weather.setdefault(post.link, Weather())
            relay = Relay(post, weather, chance, self._addresses.setdefault(post.connector, {}))
            await relay.open(order.host)
            self._relays.append(relay)
        return {relay.post.name: relay.port for relay in self._relays}


class Relays:
    """The harness's side; use it as an async context manager."""

    def __init__(self, seed: int, host: str = "127.0.0.1") -> None:
        self._seed = seed
        self._host = host
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadgen.chaos.relays",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the harness, which ends this by closing the pipe
            limit=_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def open(self, posts: Sequence[Post]) -> dict[str, int]:
        """Open relays; the ports they listen on, by name."""
        answer = await self._tell(Order(open=list(posts), seed=self._seed, host=self._host))
        return dict(answer["ports"])

    async def lead(self, addresses: Mapping[str, Mapping[str, str]]) -> None:
        """Say to each connector's registry relays which addresses it is to be given."""
        await self._tell(Order(lead={connector: dict(known) for connector, known in addresses.items()}))

    async def weather(self, link: str, *, cut: bool = False, delay_s: float = 0.0, drop_share: float = 0.0) -> int:
        """Set what a link has from now on (nothing: it is whole); how many messages have vanished on it so far."""
        answer = await self._tell(Order(link=link, cut=cut, delay_s=delay_s, drop_share=drop_share))
        return int(answer["dropped"])

    async def _tell(self, order: Order) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        async with asyncio.timeout(_ANSWER_S):
            line = await process.stdout.readline()
        if not line:
            raise LfmeshError("the relays' process has died")
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer


async def _serve() -> None:
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    yard = Yard()
    decode = msgspec.json.Decoder(Order).decode
    try:
        while line := await reader.readline():
            answer = await yard.obey(decode(line))
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
            sys.stdout.flush()
    finally:
        yard.close()


if __name__ == "__main__":
    asyncio.run(_serve(), loop_factory=uvloop.new_event_loop)
