"""The command line of the checking client, as a user runs it."""

import asyncio
import json
import sys
from collections.abc import Sequence

from lfmesh.types import Channel
from tests.aio import run
from tests.loadgen.client.feed import P, snapshot, tick
from tests.loadgen.client.gateway import gateway
from tests.loadgen.client.test_session import QUIET_TICK, free_port

GOOD = [*snapshot(Channel.TICKER, 0, [QUIET_TICK]), tick(1, QUIET_TICK)]
BAD = [*GOOD, tick(3, QUIET_TICK)]


async def client(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of `python -m loadgen.client`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadgen.client", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def against(frames: Sequence[bytes], *arguments: str) -> tuple[int, str, str]:
    async with gateway(lambda request: [] if "from_seq" in request else frames) as url:
        return await client("--gateway-url", url, "--channels", "ticker", "--until-quiet", "0.3", *arguments)


def test_a_right_gateway_gives_a_table_and_exit_code_0() -> None:
    code, out, err = run(against(GOOD, "--products", P, "--state-hash", "--clients", "2"))
    assert (code, err) == (0, "")
    assert "OK: no violations" in out
    assert "state hash: " in out
    assert "p99" in out
    assert "from before joining, not counted: 2" in out


def test_a_violation_gives_exit_code_1_and_is_named() -> None:
    code, out, _ = run(against(BAD))
    assert code == 1
    assert "seq: BTC-USD ticker: seq 3 after 1" in out


def test_the_report_as_json() -> None:
    code, out, _ = run(against(BAD, "--json"))
    found = json.loads(out)
    assert code == 1
    assert found["violations"] == {"seq": 1}
    assert found["increments"] == {"ticker": 2}


def test_no_gateway_is_one_clear_line() -> None:
    code, out, err = run(client("--gateway-url", f"ws://127.0.0.1:{free_port()}/ws", "--products", P))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "refused" in err


def test_an_unknown_channel_is_refused() -> None:
    code, _, err = run(client("--channels", "depth"))
    assert code == 2
    assert "ticker, trades, book" in err


def test_ctrl_c_prints_what_there_is() -> None:
    async def scenario() -> tuple[int, str]:
        subscribed = asyncio.Event()

        def script(_request: dict[str, object]) -> Sequence[bytes]:
            subscribed.set()
            return GOOD

        async with gateway(script) as url:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "loadgen.client", "--gateway-url", url, "--channels", "ticker",
                "--duration", "0", stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await subscribed.wait()
            process.send_signal(2)
            out, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode()

    code, out = run(scenario())
    assert "streams: 1" in out
    assert code == (0 if "OK" in out else 1)
