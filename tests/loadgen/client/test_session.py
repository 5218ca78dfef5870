"""Sessions and runs against a scripted gateway."""

import asyncio
import socket

import pytest

from lfmesh.errors import LfmeshError
from lfmesh.types import Channel
from loadgen.client.checker import Checker
from loadgen.client.report import report
from loadgen.client.run import RunConfig, model_fault, products_of, run
from loadgen.client.session import Session, http_base
from loadgen.client.wire import ResumePosition
from tests.aio import run as run_async
from tests.loadgen.client.feed import EPOCH, P, book_incr, book_snapshot, snapshot, tick
from tests.loadgen.client.gateway import gateway

QUIET_TICK = '{"last_trade":null,"best_bid":null,"best_ask":null}'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_session_feeds_its_checker_and_answers_pings() -> None:
    async def scenario() -> None:
        async with gateway(lambda _: [*book_snapshot(5), book_incr(6)]) as url:
            checker = Checker()
            async with Session(url, checker) as session:
                await session.subscribe([P], ["book"])
                await session.until(lambda: checker.increments, 5)
                await session.ping(41)
                await session.until(lambda: checker.ops["pong"], 5)
            assert checker.violations.first == []
            assert checker.unanswered == 0

    run_async(scenario())


def test_a_resume_names_the_positions_and_long_lists_are_split() -> None:
    requests: list[dict[str, object]] = []

    def script(request: dict[str, object]) -> list[bytes]:
        requests.append(request)
        return []

    async def scenario() -> None:
        async with gateway(script) as url:
            checker = Checker()
            async with Session(url, checker) as session:
                await session.subscribe([P], ["book"], from_seq={P: {"book": ResumePosition(EPOCH, 5)}})
                await session.subscribe([f"P{number}-USD" for number in range(450)], ["ticker"])
                await session.until(lambda: not checker.unanswered, 5)

    run_async(scenario())
    assert requests[0]["from_seq"] == {P: {"book": {"epoch": EPOCH, "seq": 5}}}
    assert [len(list(str(request["products"]).split(","))) for request in requests[1:]] == [200, 200, 50]


def test_a_closed_connection_is_told_with_its_code() -> None:
    async def scenario() -> None:
        async with gateway(lambda _: [], close=(4001, "slow consumer")) as url, Session(url, Checker()) as session:
            await session.subscribe([P], ["book"])
            assert await session.wait_closed() == "4001 slow consumer"
            with pytest.raises(LfmeshError, match="4001 slow consumer"):
                await session.until(lambda: False, 5)
            with pytest.raises(LfmeshError, match="4001 slow consumer"):
                await session.ping(1)

    run_async(scenario())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ws", "ws://", "nonsense"])
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    async def scenario() -> None:
        async with Session(url, Checker()):
            raise AssertionError

    with pytest.raises(LfmeshError, match="no WebSocket address"):
        run_async(scenario())
    with pytest.raises(LfmeshError, match="no WebSocket address"):
        http_base(url)


def test_nobody_there() -> None:
    async def scenario() -> None:
        async with Session(f"ws://127.0.0.1:{free_port()}/ws", Checker()):
            raise AssertionError

    with pytest.raises(LfmeshError, match="refused"):
        run_async(scenario())


def test_a_server_that_is_no_gateway() -> None:
    async def scenario() -> None:
        async with gateway(lambda _: []) as url, Session(url.replace("/ws", "/products"), Checker()):
            raise AssertionError

    with pytest.raises(LfmeshError, match="HTTP 200"):
        run_async(scenario())


def test_a_run_ends_when_the_feed_is_quiet_and_reports_it() -> None:
    async def scenario() -> None:
        async with gateway(lambda _: [*snapshot(Channel.TICKER, 0, [QUIET_TICK]), tick(1, QUIET_TICK)]) as url:
            assert await products_of(url) == (P,)
            config = RunConfig(
                urls=(url,), channels=("ticker",), clients=3, duration_s=30, until_quiet_s=0.2, validate=True
            )
            outcome = await run(config, asyncio.Event())
        found = report(outcome.taps, outcome.duration_s, outcome.closed, with_hash=True)
        assert found.failure is None
        assert found.increments == {"ticker": 3}
        assert found.snapshots == {"subscribe": 3}
        assert list(found.state_hashes.values()) == [3]
        assert found.duration_s < 30

    run_async(scenario())


def test_a_run_says_when_nothing_came_or_the_gateway_hung_up() -> None:
    async def scenario(close: tuple[int, str] | None) -> str | None:
        async with gateway(lambda _: [], close=close) as url:
            config = RunConfig(urls=(url,), products=(P,), duration_s=0.3)
            outcome = await run(config, asyncio.Event())
        return report(outcome.taps, outcome.duration_s, outcome.closed, with_hash=False).failure

    assert run_async(scenario(None)) == "nothing came"
    assert "1013 full" in (run_async(scenario((1013, "full"))) or "")


def test_the_models_agree_with_the_encoder_and_refuse_what_is_wrong() -> None:
    assert model_fault(book_incr(6, [("10.50", "0.00000000")])) is None
    assert model_fault(book_incr(6, [("1e5", "1")])) is not None
    assert model_fault(b'{"op":"surprise"}') is not None
    assert model_fault(b"\xff") is not None


def test_resumes_over_cut_connections_are_checked_and_reported() -> None:
    requests: list[dict[str, object]] = []

    def script(request: dict[str, object]) -> list[bytes]:
        requests.append(request)
        at = request.get("from_seq")
        if at is None:
            return [*snapshot(Channel.TICKER, 0, [QUIET_TICK]), tick(1, QUIET_TICK)]
        assert isinstance(at, dict)
        return [tick(at[P]["ticker"]["seq"] + 1, QUIET_TICK)]

    async def scenario() -> None:
        async with gateway(script) as url:
            config = RunConfig(urls=(url,), channels=("ticker",), duration_s=1.2, drop_every_s=0.3)
            outcome = await run(config, asyncio.Event())
        found = report(outcome.taps, outcome.duration_s, outcome.closed, with_hash=False)
        assert found.failure is None
        assert found.resumes == found.connections - 1 == len(requests) - 1 >= 2
        assert len(requests) - 1 <= found.increments["ticker"] <= len(requests)
        assert found.snapshots == {"subscribe": 1}
        assert found.disconnections == {"the client's own doing": found.resumes}

    run_async(scenario())
