"""A TCP proxy in front of a socket: it passes bytes on, or swallows them without a word, as a broken network does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Direction = Literal["to_server", "to_client"]
BOTH: tuple[Direction, ...] = ("to_server", "to_client")


class Proxy:
    """Listens on `endpoint`. While a direction is in `swallowing`, its bytes vanish; connections stay open."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.endpoint = ""
        self.swallowing: set[Direction] = set()
        self.accepted = 0
        self.ended = 0
        """Connections that their client has closed."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow(self, *directions: Direction) -> None:
        self.swallowing = set(directions or BOTH)

    def heal(self) -> None:
        self.swallowing = set()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        writers = [writer]
        with suppress(asyncio.CancelledError):  # `close`
            try:
                there_reader, there_writer = await asyncio.open_connection(*self._target)
                writers.append(there_writer)
                await asyncio.gather(
                    self._pump(reader, there_writer, "to_server"), self._pump(there_reader, writer, "to_client")
                )
            finally:
                self._serving.discard(task)
                for one in writers:
                    one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if way not in self.swallowing:
                    writer.write(data)
                    await writer.drain()
        if way == "to_server":
            self.ended += 1
        # A closed connection is seen at once even where data vanishes: both sides are in one machine here.
        with suppress(ConnectionError, OSError):
            if not writer.is_closing():
                writer.write_eof()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
