"""The archive played to clients: a player and a real gateway, in this process, apart from any mesh that runs.

Called by `lfmesh replay --serve PORT`. Their sockets are in a private folder, and nothing is written.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from lfmesh.core.times import format_time
from lfmesh.errors import LfmeshError
from lfmesh.types import CHANNELS, Channel, Role, StreamKey

if TYPE_CHECKING:
    from lfmesh.archive.reader import Archive
    from lfmesh.config import Config
    from lfmesh.ports import Context
    from lfmesh.services.gateway import GatewayService
    from lfmesh.services.player import PlayerService, Tape
    from lfmesh.services.runtime import Running

_PREFIX = "lfmesh-replay-"
_RESUME_WAIT_S = 0.2
"""Who is ahead of a replay was there before it was moved back, and is not to wait until it is there again."""
_ATTACH_S = 10.0
"""Two sockets in one process find each other within milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What `lfmesh replay --serve` was asked for. Times in ns; None: from the beginning, to the end of the archive.

    `start`: play when the first client has subscribed, or at once. `skip_gaps_s`: pauses in the data that are longer
    are shortened to it (seconds of the archive's time); None: they are waited out. No `products`: all that there are.
    """

    port: int = 8000
    host: str = "127.0.0.1"
    products: Sequence[str] = ()
    channels: Sequence[Channel] = CHANNELS
    start_ts: int | None = None
    end_ts: int | None = None
    speed: float | Literal["max"] = 1.0
    start: Literal["client", "now"] = "client"
    loop: bool = False
    skip_gaps_s: float | None = None


def serve(config: "Config", archive: "Archive", options: ReplayOptions) -> int:
    """Play the archive to clients until Ctrl-C or SIGTERM; the exit code. LfmeshError, such as PortInUse.

    `config` is the effective configuration: of it only `gateway` (but for host and port), `normalizer` and `log` are
    used. Prints one line that says where clients connect, when they can.
    """
    return asyncio.run(_serve(config, archive, options))


async def _serve(config: "Config", archive: "Archive", options: ReplayOptions) -> int:
    from lfmesh.cli.interrupts import stop_event

    with stop_event() as stop:
        tape = await asyncio.to_thread(make_tape, archive, options)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            async with contextlib.AsyncExitStack() as stack:
                player, gateway = await _started(stack, private(config, tape, options, folder), tape, options)
                click.echo(_title(tape, gateway, options))
                return await _until(stop, player, gateway)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_tape(archive: "Archive", options: ReplayOptions) -> "Tape":
    """What is to be played; LfmeshError where that is nothing. Reads the archive, and may take its time."""
    from lfmesh.services.player import ArchiveTape

    known = archive.products()
    unknown = [product for product in options.products if product not in known]
    if unknown or not known:
        has = f"; it has {', '.join(known)}" if known else ""
        raise LfmeshError(f"the archive has nothing of {', '.join(unknown) or 'any product'}{has}")
    streams = [
        StreamKey(product, channel)
        for product in options.products or known
        for channel in archive.channels(product)
        if channel in options.channels
    ]
    bounds = {stream: found for stream in streams if (found := archive.bounds(stream)) is not None}
    if not bounds:
        raise LfmeshError(f"the archive has nothing of {', '.join(options.channels)} of these products")
    # A stream without an event has a state, whose time is ours: in a recorded session, years after the others.
    still = [stream for stream, (start, end) in bounds.items() if start == end]
    moving = [found for stream, found in bounds.items() if stream not in still] or [*bounds.values()]
    first, last = min(start for start, _ in moving), max(end for _, end in moving)
    still = [stream for stream in still if not first <= bounds[stream][0] <= last]
    start = max(first, options.start_ts if options.start_ts is not None else first)
    end = min(last, options.end_ts if options.end_ts is not None else last)
    if start > end:
        raise LfmeshError(f"nothing to replay: the archive is from {format_time(first)} to {format_time(last)}")
    return ArchiveTape(archive, streams, start, end, still)


def private(config: "Config", tape: "Tape", options: ReplayOptions, folder: Path) -> "Config":
    """The configuration of a mesh of a player and a gateway that nobody else meets."""
    normalizer = {name: f"ipc://{folder}/{name}" for name in ("market_data", "requests", "telemetry")}
    endpoints = {name: normalizer[name] for name in ("market_data", "requests")}
    # It knows other moments, too, as a snapshotter does.
    peers = [
        {"role": role, "instance": "player", "shard": 0, "endpoints": endpoints}
        for role in (Role.NORMALIZER, Role.SNAPSHOTTER)
    ]
    return config.override(
        {
            "mesh": {"products": tuple(dict.fromkeys(stream.product for stream in tape.streams)), "shards": 1},
            "ingestor": {"products": ()},
            "registry": {"static_peers": peers},
            "archive": {"enabled": True},
            "normalizer": {"instance": "player", **{f"bind_{name}": address for name, address in normalizer.items()}},
            "gateway": {
                "instance": "gateway-replay",
                "host": options.host,
                "port": options.port,
                "bind_telemetry": f"ipc://{folder}/gateway",
                "resume_wait_s": min(config.gateway.resume_wait_s, _RESUME_WAIT_S),
            },
            "ops": {"host": "127.0.0.1", "port": 0},
            "log": {"level": "warning" if config.log.level == "info" else config.log.level},
        }
    )


async def _started(
    stack: contextlib.AsyncExitStack, config: "Config", tape: "Tape", options: ReplayOptions
) -> "tuple[Running, Running]":
    from lfmesh.services.gateway import GatewayService
    from lfmesh.services.player import PlayerService, PlayOptions
    from lfmesh.services.runtime import running

    players: list[PlayerService] = []
    skip_s = options.skip_gaps_s
    play = PlayOptions(
        speed=None if options.speed == "max" else options.speed,
        waits=options.start == "client",
        loop=options.loop,
        skip_gaps_ns=None if skip_s is None else round(skip_s * 1e9),
    )

    def make_player(config: "Config", context: "Context") -> "PlayerService":
        players.append(PlayerService(config, context, tape, play))
        return players[-1]

    def make_gateway(config: "Config", context: "Context") -> "GatewayService":
        return GatewayService(config, context, replay=players[-1])

    player = await stack.enter_async_context(running(make_player, config, Role.NORMALIZER, 0))
    gateway = await stack.enter_async_context(running(make_gateway, config, Role.GATEWAY))
    async with asyncio.timeout(_ATTACH_S):
        await players[-1].attached.wait()
    return player, gateway


async def _until(stop: asyncio.Event, *services: "Running") -> int:
    """Wait for the signal, or for a failure: that is raised when the service has been ended."""
    stopped: asyncio.Future[Literal[True]] = asyncio.create_task(stop.wait())
    ends: list[asyncio.Future[Any]] = [stopped, *(service.tasks.failed for service in services)]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    return 0


def _title(tape: "Tape", gateway: "Running", options: ReplayOptions) -> str:
    products = ", ".join(dict.fromkeys(stream.product for stream in tape.streams))
    assert gateway.record is not None
    url = gateway.record.http.replace("http", "ws", 1)
    begins = " when the first client has subscribed" if options.start == "client" else ""
    speed = options.speed if options.speed == "max" else f"{options.speed:g}"
    return (
        f"replay of {products}, {format_time(tape.start)} to {format_time(tape.end)}, at speed {speed}{begins}: "
        f"{url}/ws; Ctrl-C ends it"
    )
