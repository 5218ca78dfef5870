"""Connections and joins leave no cycles behind: the runtime lets Python look for such seldom, and relies on it."""

import asyncio
import gc
import json

from websockets.asyncio.client import connect

from lfmesh.core.hub_clients import Client, Join
from lfmesh.services.gateway.doorway import Arrival
from lfmesh.services.gateway.session import Session
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, world
from tests.services.gateway.test_joins import flowing

KINDS = (Arrival, Client, Join, Session)


def alive() -> dict[str, int]:
    objects = gc.get_objects()
    return {kind.__name__: sum(issubclass(type(one), kind) for one in objects) for kind in KINDS}


def test_what_a_connection_was_is_freed_when_it_ends_however_it_ends() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            url = here.gateway.http_url().replace("http", "ws") + "/ws"
            gc.collect()
            before = alive()
            gc.disable()
            try:
                for number in range(12):
                    async with connect(url, compression=None, proxy=None) as client:
                        await client.send(json.dumps({"op": "subscribe", "products": [TICKER.product]}))
                        await client.recv()
                        if number % 3 == 1:
                            client.transport.abort()
                        elif number % 3 == 2:
                            await client.send("x" * 100_000)  # too much: 1009
                            await client.wait_closed()
                await eventually(lambda: here.gateway.statistics().clients == 0)
                await asyncio.sleep(0)
                await eventually(lambda: alive() == before)
            finally:
                gc.enable()

    run(scenario())
