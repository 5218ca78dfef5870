"""`lfmesh up` as a user runs it: real processes, real sockets, a simulated exchange."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import pytest

from lfmesh.client import Increment, Snapshot, TradeEvent, TradesSnapshot
from lfmesh.client.meshfile import MeshFile
from lfmesh.exact import is_decimal
from loadgen.tape import Writer
from tests.cli.up.mesh import DEADLINE_S, Up, an_up, first_updates, json_lines, run_lfmesh, until

ROLES = (
    "registry-0", "simulator", "ingestor-A", "normalizer-0", "normalizer-1", "snapshotter-0", "snapshotter-1",
    "gateway-0",
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


def test_it_comes_up_serves_is_seen_and_ends_on_ctrl_c() -> None:
    with an_up() as up:
        up.start("--rate", "500")
        mesh = up.mesh(*ROLES)
        updates = first_updates(mesh.gateway_url, ["BTC-USD", "ETH-USD"], 5)
        assert {update.product for update in updates} <= {"BTC-USD", "ETH-USD"}
        assert isinstance(updates[0], Snapshot)

        watched = run_lfmesh("watch", "BTC-USD", "--json", "--duration", "2", "--data-dir", str(up.data_dir), up=up)
        assert watched.returncode == 0, watched.stderr
        assert json_lines(watched.stdout)[0]["op"] == "subscribed"
        lines = run_lfmesh("watch", "--duration", "2", "--data-dir", str(up.data_dir), up=up)
        assert lines.returncode == 0, lines.stderr
        prices = [line.split()[4] for line in lines.stdout.splitlines() if " ticker last " in line]
        assert prices
        assert all(map(is_decimal, prices))

        top = run_lfmesh("top", "--json", "--data-dir", str(up.data_dir), up=up)
        assert top.returncode == 0, top.stderr
        (found,) = json_lines(top.stdout)
        assert found["registries"] == {"answering": 1, "known": 1}
        roles = found["roles"]
        assert isinstance(roles, list)
        assert {role["instance"] for role in roles} == set(ROLES) - {"simulator"}
        assert {role["instance"]: role["pid"] for role in roles}.items() <= mesh.pids.items()
        rates = {role["instance"]: role["messages_in_per_s"] for role in roles}
        assert rates["ingestor-A"] > 0
        table = run_lfmesh("top", "--once", "--data-dir", str(up.data_dir), up=up)
        assert "normalizer-1" in table.stdout

        watched_live(up, "verified", "watch", "--channel", "ticker")
        watched_live(up, "bid size", "watch", "--channel", "book", "BTC-USD")
        watched_live(up, "snapshotter-1", "top")

        assert up.interrupt() == 0
        up.gone()
        said = up.out.read_text()
        assert f"ready for clients: {mesh.gateway_url}" in said
        assert "ended in" in said
        assert "Traceback" not in up.said()
        for shard in (0, 1):
            with closing(sqlite3.connect(up.data_dir / "simulated" / f"state-shard-{shard}.sqlite")) as stored:
                assert stored.execute("SELECT count(*) FROM states WHERE channel = 'book'").fetchone()[0] > 0


def test_what_dies_is_started_again_and_keeps_its_address() -> None:
    with an_up() as up:
        up.start("--rate", "500", "--products", "4")
        before = up.mesh(*ROLES)
        first_updates(before.gateway_url, ["BTC-USD"], 2)
        with up.err.open("ab") as err:
            watch = subprocess.Popen(
                [sys.executable, "-m", "lfmesh.cli", "watch", "--data-dir", str(up.data_dir)],
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=up.environment(),
            )
        until(lambda: "lfmesh: connected to ws" in up.err.read_text(), "the watcher is connected")
        victims = ("gateway-0", "normalizer-0", "ingestor-A", "simulator", "registry-0", "snapshotter-1")
        for role in victims:
            os.kill(before.pids[role], signal.SIGKILL)

        def started_anew() -> MeshFile | None:
            mesh = up.mesh(*ROLES)
            return mesh if all(mesh.pids[role] != before.pids[role] for role in victims) else None

        restarted = until(started_anew, "new processes")
        assert restarted.gateway_url == before.gateway_url
        assert restarted.simulator_url == before.simulator_url
        assert restarted.pids["normalizer-1"] == before.pids["normalizer-1"]
        assert len(first_updates(before.gateway_url, ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"], 20)) == 20
        assert "killed by SIGKILL" in up.out.read_text()
        until(lambda: "lfmesh: connected again to ws" in up.err.read_text(), "the watcher is connected again")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(DEADLINE_S) == 0
        assert up.interrupt() == 0
        up.gone()
        assert "Traceback" not in up.said()


@pytest.mark.parametrize("victim", ["supervisor", "zygote"])
def test_nothing_survives_the_supervisor_or_the_zygote(victim: str) -> None:
    with an_up() as up:
        process = up.start("--shards", "1", "--products", "2")
        mesh = up.mesh("gateway-0", "ingestor-A", "simulator")
        status = Path(f"/proc/{mesh.pids['gateway-0']}/status").read_text()
        zygote = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
        assert zygote != process.pid
        os.kill(process.pid if victim == "supervisor" else zygote, signal.SIGKILL)
        assert up.wait() == (-signal.SIGKILL if victim == "supervisor" else 1)
        up.gone()
        if victim == "zygote":
            assert "lfmesh: the process that starts the roles has died" in up.err.read_text()
        up.start("--shards", "1", "--products", "2")
        up.mesh("gateway-0")
        assert up.interrupt() == 0
        up.gone()


def test_a_gateway_port_in_use_is_one_clear_line() -> None:
    with an_up() as up, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up.start("--gateway-port", str(port))
        assert up.wait() == 1
        up.gone()
        last = up.err.read_text().splitlines()[-1]
        assert last.startswith("lfmesh: gateway-0: ")
        assert f"{port} is in use by another process" in last
        assert "Traceback" not in up.said()


def test_one_mesh_a_data_folder() -> None:
    with an_up() as up:
        process = up.start("--shards", "1", "--products", "2")
        up.mesh("gateway-0")
        second = subprocess.run(
            up.command("--shards", "1"), capture_output=True, text=True, check=False, timeout=DEADLINE_S,
            env=up.environment(),
        )  # fmt: skip
        assert second.returncode == 1
        assert second.stdout == ""
        assert second.stderr.count("\n") == 1
        assert f"is in use by another lfmesh up (pid {process.pid})" in second.stderr
        assert up.interrupt() == 0
        up.gone()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--source", "binance"), 2, "'binance' is no source: it is sim, coinbase, or tape:FILE"),
        (("--source", "tape:/nowhere/x.tape"), 1, "/nowhere/x.tape: cannot be read"),
        (("--source", f"tape:{__file__}"), 1, "not a tape: line 1"),
        (("--source", "coinbase", "--rate", "5"), 2, "--rate goes with --source sim only"),
        (("--products", "501"), 1, "1 to 500"),
        (("--products", "BTC"), 2, "'BTC' is no product id"),
        (("--config", "/nowhere/x.toml"), 1, "cannot read the configuration"),
        (("--data-dir", f"{__file__}/data"), 1, "can't be used"),
    ],
)
def test_bad_input_is_one_clear_line_and_starts_nothing(arguments: tuple[str, ...], code: int, said: str) -> None:
    with an_up() as up:
        done = run_lfmesh("up", "--data-dir", str(up.data_dir), *arguments, up=up)
        assert done.returncode == code
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
        up.gone()


def test_ctrl_c_at_any_moment_of_the_start_is_a_clean_end() -> None:
    for after_ms in (60, 150, 300, 450, 600, 800):
        with an_up() as up:
            up.start("--shards", "1", "--products", "2")
            time.sleep(after_ms / 1000)  # the moment itself is what is tested; whichever it hits must do
            code = up.interrupt()
            assert code in (0, -signal.SIGINT), up.said()
            up.gone()
            assert "Traceback" not in up.said(), after_ms


def test_on_a_terminal_it_shows_a_table_and_ends_on_ctrl_c() -> None:
    with an_up() as up:
        main, terminal = pty.openpty()
        try:
            up.process = on_terminal(up, terminal, up.command("--shards", "1", "--products", "2"))
            shown = read_until(main, "snapshotter-0  ready", up.process)
            assert "ws://127.0.0.1:" in shown
            os.write(main, b"\x03")
            shown = read_until(main, "ended in", up.process)
            assert up.wait() == 0
            assert "Traceback" not in shown
            assert "\x1b[?25h" in shown or "\x1b[?25h" in read_rest(main), "the cursor is shown again"
        finally:
            os.close(main)
        up.gone()


def test_it_ends_in_order_when_its_terminal_is_closed() -> None:
    with an_up() as up:
        main, terminal = pty.openpty()
        up.process = on_terminal(up, terminal, up.command("--shards", "1", "--products", "2"))
        read_until(main, "snapshotter-0  ready", up.process)
        os.close(main)
        assert up.wait() == 0
        up.gone()


def test_it_ends_in_order_when_nobody_reads_its_output() -> None:
    with an_up() as up, up.err.open("wb") as err:
        up.process = subprocess.Popen(
            up.command("--shards", "1", "--products", "2"), stdout=subprocess.PIPE, stderr=err, env=up.environment(),
            start_new_session=True,
        )  # fmt: skip
        assert up.process.stdout is not None
        assert b"LedgerFlux Mesh" in up.process.stdout.readline()
        up.process.stdout.close()
        assert up.wait() == 0
        up.gone()
        assert "Traceback" not in up.err.read_text()
        assert "Exception ignored" not in up.err.read_text()


def on_terminal(up: Up, terminal: int, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command on a terminal, which becomes its controlling one, and is its alone."""
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**up.environment(), "TERM": "xterm"}, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    os.close(terminal)
    return process


def watched_live(up: Up, text: str, *arguments: str) -> None:
    """A command's live screen shows a text, and Ctrl-C ends it without a word."""
    main, terminal = pty.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    try:
        command = [sys.executable, "-m", "lfmesh.cli", *arguments, "--data-dir", str(up.data_dir)]
        process = on_terminal(up, terminal, command)
        read_until(main, text, process)
        os.write(main, b"\x03")
        assert "Traceback" not in read_rest(main)
        assert process.wait(DEADLINE_S) == 0
    finally:
        os.close(main)


def read_until(descriptor: int, text: str, process: subprocess.Popen[bytes]) -> str:
    """What a terminal has shown up to a text."""
    shown = ""
    ends = time.monotonic() + DEADLINE_S
    while text not in without_colours(shown):
        assert time.monotonic() < ends, f"{text!r} was not shown: {without_colours(shown)}"
        if select.select([descriptor], [], [], 0.1)[0]:
            shown += os.read(descriptor, 65536).decode("utf-8", "replace")
        else:
            assert process.poll() is None, shown
    return shown


def read_rest(descriptor: int) -> str:
    """What a terminal shows until its last process has gone."""
    shown = b""
    try:
        while select.select([descriptor], [], [], DEADLINE_S)[0]:
            shown += os.read(descriptor, 65536)
    except OSError:  # EIO: nobody holds the other end any more
        pass
    return shown.decode("utf-8", "replace")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def a_tape(path: Path) -> Path:
    """A short tape: a book and ten trades of two products."""
    with Writer(path) as writer:
        for product in ("BTC-USD", "ETH-USD"):
            book = f'{{"type":"snapshot","product_id":"{product}","bids":[["10.10","1.50"]],"asks":[["10.20","2"]]}}'
            writer.write(1_600_000_000_000_000_000, book.encode())
        for number in range(1, 11):
            for product in ("BTC-USD", "ETH-USD"):
                match = (
                    f'{{"type":"match","trade_id":{number},"maker_order_id":"a","taker_order_id":"b","side":"sell",'
                    f'"size":"0.10","price":"10.20","product_id":"{product}","sequence":{number},'
                    f'"time":"2020-09-13T12:26:40.{number:03d}000Z"}}'
                )
                writer.write(1_600_000_000_000_000_000 + number * 1_000_000, match.encode())
    return path


@pytest.mark.parametrize("start", ["client", "now", "again"])
def test_a_tape_waits_for_whom_it_is_told_to(start: str, tmp_path: Path) -> None:
    tape = a_tape(tmp_path / "x.tape")
    with an_up() as up:
        if start == "again":  # what a first run left does not make the second one's trades look old
            play(up, tape, "now")
        play(up, tape, "client" if start == "again" else start)


def play(up: Up, tape: Path, start: str) -> None:
    up.out.write_bytes(b"")
    up.start("--source", f"tape:{tape}", "--tape-start", start, "--shards", "1")
    mesh = up.mesh("gateway-0", "simulator")
    if start == "now":
        until(lambda: "the tape has ended" in up.said(), "the tape has played by itself")
        (snapshot,) = first_updates(mesh.gateway_url, ["BTC-USD"], 1, "trades")
        assert trade_ids([snapshot])[-1] == 10
    else:
        until(lambda: "the tape waits for the first client" in up.said(), "the tape waits")
        updates = first_updates(mesh.gateway_url, ["BTC-USD"], 5, "trades")
        assert isinstance(updates[0], Snapshot)
        ids = trade_ids(updates)
        assert ids == sorted(set(ids))
        assert ids
    assert up.interrupt() == 0
    up.gone()


def trade_ids(updates: list[Snapshot | Increment]) -> list[int]:
    listed = [update.trades for update in updates if isinstance(update, TradesSnapshot)]
    return [trade.trade_id for trades in listed for trade in trades] + [
        update.trade_id for update in updates if isinstance(update, TradeEvent)
    ]
