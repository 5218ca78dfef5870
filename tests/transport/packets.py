"""Run by itself in a network namespace: every packet on its loopback is dropped for a while."""

import asyncio
import subprocess

from lfmesh.transport import Publisher, Puller, Pusher, Requester, Server, Subscriber, Transport
from tests.aio import eventually, run

_DROP = ("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "8bit", "burst", "1", "limit", "1")
_PASS = ("tc", "qdisc", "del", "dev", "lo", "root")
ANY = "tcp://127.0.0.1:0"


async def network(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


async def network_up() -> None:
    await network("ip", "link", "set", "lo", "up")


async def drop_packets() -> None:
    """A token bucket too small for any packet."""
    await network(*_DROP)


async def pass_packets() -> None:
    await network(*_PASS)


async def scenario() -> None:
    await network_up()
    with Transport() as transport:
        joined: list[bytes] = []
        got: list[bytes] = []
        pulled: list[bytes] = []
        publisher = Publisher(transport, ANY, hwm=0, on_subscription=lambda topic, _: joined.append(topic))
        subscriber = Subscriber(transport, [b""], got.extend, hwm=0)
        subscriber.connect(publisher.endpoint)
        server = Server(transport, ANY, lambda payload, responder: responder.reply(payload))
        requester = Requester(transport, server.endpoint)
        puller = Puller(transport, ANY, pulled.extend, hwm=1000)
        pusher = Pusher(transport, puller.endpoint, hwm=1000)
        await eventually(lambda: joined and pusher.push(b"first"))
        assert await requester.request(b"first", 5.0) == [b"first"]
        await drop_packets()
        await eventually(lambda: not pusher.push(b"lost"), interval=0.05)
        answers: list[object] = []
        requester.ask(b"lost", answers.append, 0.3)
        await eventually(lambda: answers == [None])
        joined.clear()
        await pass_packets()
        subscriber.reconnect(publisher.endpoint)  # as who misses beacons does
        await eventually(lambda: joined and pusher.push(b"again"))
        publisher.publish(b"again")
        await eventually(lambda: b"again" in got and b"again" in pulled)
        requester.reconnect()
        assert await requester.request(b"again", 5.0) == [b"again"]


if __name__ == "__main__":
    run(scenario(), timeout=60)
