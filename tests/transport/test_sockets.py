"""Real sockets, in both loops."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from lfmesh.errors import BadEndpoint, PortInUse, RequestTimeout
from lfmesh.transport import Publisher, Puller, Pusher, Requester, Responder, Server, Subscriber, Transport
from tests.aio import eventually

Runner = Callable[[Coroutine[object, object, None]], None]
ANY = "tcp://127.0.0.1:0"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    async def bounded(coro: Coroutine[object, object, None]) -> None:
        async with asyncio.timeout(30):
            await coro

    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coro: Coroutine[object, object, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded(coro))

    return runner


def test_published_frames_arrive_in_order_by_topic(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            asked: list[tuple[bytes, bool]] = []
            publisher = Publisher(transport, ANY, hwm=0, on_subscription=lambda *wish: asked.append(wish))
            got: list[bytes] = []
            subscriber = Subscriber(transport, [b"md.1."], got.extend, hwm=0)
            subscriber.connect(publisher.endpoint)
            await eventually(lambda: asked == [(b"md.1.", True)])
            for number in range(20_000):
                publisher.publish(b"md.1.%d" % number)
                publisher.publish(b"md.10.%d" % number)
            await eventually(lambda: len(got) == 20_000)
            assert got == [b"md.1.%d" % number for number in range(20_000)]

    run(scenario())


def test_a_push_without_a_peer_is_dropped_and_counted_and_never_blocks(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            pusher = Pusher(transport, "tcp://127.0.0.1:9", hwm=10)
            assert not any(pusher.push(b"x") for _ in range(100))
            assert pusher.counters.dropped == 100

    run(scenario())


def test_pushed_frames_arrive_and_a_full_queue_is_told(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            got: list[bytes] = []
            puller = Puller(transport, ANY, got.extend, hwm=10)
            pusher = Pusher(transport, puller.endpoint, hwm=10)
            await eventually(lambda: pusher.push(b"first"))
            sent = 1
            while pusher.push(b"x" * 100_000):  # the loop does not run, so nobody drains
                sent += 1
            assert pusher.counters.dropped > 0
            await eventually(lambda: len(got) == sent)

    run(scenario())


def test_requests_are_answered_out_of_order_and_in_parts(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            waiting: list[tuple[bytes, Responder]] = []
            server = Server(transport, ANY, lambda payload, responder: waiting.append((payload, responder)))
            requester = Requester(transport, server.endpoint)
            first = asyncio.ensure_future(requester.request(b"1", timeout_s=5))
            second = asyncio.ensure_future(requester.request(b"2", timeout_s=5))
            await eventually(lambda: len(waiting) == 2)
            for payload, responder in reversed(waiting):
                responder.reply(b"header", [payload, payload])
            assert list(await second) == [b"header", b"2", b"2"]
            assert list(await first) == [b"header", b"1", b"1"]

    run(scenario())


def test_a_silent_server_is_a_timeout_and_its_late_answer_is_dropped(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            waiting: list[Responder] = []
            server = Server(transport, ANY, lambda _, responder: waiting.append(responder))
            requester = Requester(transport, server.endpoint)
            with pytest.raises(RequestTimeout, match="no answer from tcp"):
                await requester.request(b"x", timeout_s=0.05)
            await eventually(lambda: waiting)
            waiting[0].reply(b"late")
            await eventually(lambda: requester.counters.dropped == 1)

    run(scenario())


def test_pending_requests_are_bounded(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            server = Server(transport, ANY, lambda *_: None)
            requester = Requester(transport, server.endpoint, max_pending=2)
            answers: list[object] = []
            for _ in range(5):
                requester.ask(b"x", answers.append, timeout_s=30)
            assert answers == [], "never called from inside ask"
            await eventually(lambda: len(answers) == 3)
            requester.close()
            await eventually(lambda: answers == [None] * 5)

    run(scenario())


def test_an_address_in_use_or_not_ours_is_said_clearly(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            server = Server(transport, ANY, lambda *_: None)
            with pytest.raises(PortInUse, match=f"{server.endpoint} is in use"):
                Server(transport, server.endpoint, lambda *_: None)
            with pytest.raises(BadEndpoint, match=r"cannot listen on tcp://192\.0\.2\.1:5"):
                Server(transport, "tcp://192.0.2.1:5", lambda *_: None)
            with pytest.raises(BadEndpoint, match="cannot connect to nonsense"):
                Pusher(transport, "nonsense", hwm=1)

    run(scenario())


def test_a_restarted_publisher_is_found_again_on_its_port(run: Runner) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            got: list[bytes] = []
            publisher = Publisher(transport, ANY, hwm=0)
            endpoint = publisher.endpoint
            subscriber = Subscriber(transport, [b""], got.extend, hwm=0)
            subscriber.connect(endpoint)
            publisher.close()
            again: list[tuple[bytes, bool]] = []
            made: list[Publisher] = []

            def bound() -> bool:
                # ZeroMQ closes in a thread of its own, so the port is free a little later.
                with contextlib.suppress(PortInUse):
                    made.append(Publisher(transport, endpoint, hwm=0, on_subscription=lambda *w: again.append(w)))
                return bool(made)

            await eventually(bound)
            publisher = made[0]
            await eventually(lambda: again)
            publisher.publish(b"here")
            await eventually(lambda: got == [b"here"])

    run(scenario())
