"""`lfmesh replay`: messages as they were, in order, paced; a hash of it all; ends that are clean."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lfmesh.archive.history import Told
from lfmesh.archive.segments import Line
from lfmesh.cli.archive import open_archive
from lfmesh.cli.replay_hash import replay_hash
from lfmesh.cli.replay_output import PAUSE, paced, write
from lfmesh.cli.root import cli, execute
from lfmesh.config import Config
from lfmesh.types import Channel, StreamKey
from tests.archive.market import Market

BTC_TRADES = StreamKey("BTC-USD", Channel.TRADES)


def replayed(data_dir: Path, *arguments: str) -> list[bytes]:
    result = CliRunner().invoke(cli, ["replay", *arguments, "--data-dir", str(data_dir)])
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.splitlines()


def messages_of(known: dict[StreamKey, Market]) -> dict[StreamKey, list[bytes]]:
    return {key: [text for record in market.records for text in record.messages] for key, market in known.items()}


def test_every_message_as_it_was_in_order(data_dir: Path, known: dict[StreamKey, Market]) -> None:
    lines = replayed(data_dir, "--speed", "max")
    came: dict[StreamKey, list[bytes]] = {key: [] for key in known}
    for line in lines:
        data = json.loads(line)["data"]
        came[StreamKey(data["product"], Channel(data["channel"]))].append(line)
    assert came == messages_of(known)
    only = replayed(data_dir, "--speed", "max", "--products", "btc-usd", "--channels", "trades")
    assert only == messages_of(known)[BTC_TRADES]


def test_a_window_and_the_state_before_it(data_dir: Path, known: dict[StreamKey, Market]) -> None:
    market = known[StreamKey("ETH-USD", Channel.BOOK)]
    start, end = market.records[25].time, market.records[45].time
    arguments = (
        "--speed",
        "max",
        "--products",
        "ETH-USD",
        "--channels",
        "book",
        "--from",
        str(start),
        "--to",
        str(end),
    )
    expected = [text for record in market.records if start <= record.time <= end for text in record.messages]
    assert replayed(data_dir, *arguments) == expected
    first, *rest = replayed(data_dir, *arguments, "--with-state")
    before = market.state_at(start - 1)
    assert before is not None
    snapshot = json.loads(first, parse_float=str, parse_int=str)
    assert snapshot["op"] == "snapshot"
    assert snapshot["data"]["state"] == market.text_of(before)
    assert rest == expected
    assert json.loads(rest[0])["data"]["seq"] == int(snapshot["data"]["seq"]) + 1


def test_the_hash_does_not_depend_on_how_many_processes(data_dir: Path, known: dict[StreamKey, Market]) -> None:
    lines = replayed(data_dir, "--hash", "--jobs", "1")
    increments = sum(b'"op":"incr"' in text for texts in messages_of(known).values() for text in texts)
    shown = dict(line.decode().split(": ") for line in lines)
    assert shown == {
        "state hash": shown["state hash"], "streams": "6", "messages": str(increments), "snapshots": "18",
        "trades": shown["trades"], "holes": "6",
    }  # fmt: skip
    assert len(shown["state hash"]) == 64
    again = dict(line.decode().split(": ") for line in replayed(data_dir, "--hash", "--products", "BTC-USD,ETH-USD"))
    assert again == shown
    until = str(known[BTC_TRADES].records[30].time)
    assert replayed(data_dir, "--hash", "--to", until)[0] != lines[0]


def test_several_processes_come_to_the_same(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config().override({"mesh": {"data_dir": data_dir}})
    with open_archive(config) as archive:
        streams = archive.streams()
        alone = replay_hash(config, archive, streams, (None, None), 1)
        monkeypatch.setattr("lfmesh.cli.replay_hash._LINES_WORTH_A_PROCESS", 1)
        together = replay_hash(config, archive, streams, (None, None), 2)
    assert (alone.jobs, together.jobs) == (1, 2)
    assert together.state_hash == alone.state_hash
    assert (together.messages, together.trades, together.holes) == (alone.messages, alone.trades, alone.holes)


def test_what_is_asked_wrongly_or_not_there_is_one_line(
    data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments, code, why in (
        (["--from", "2", "--to", "1"], 2, "--from is later than --to"),
        (["--from", "yesterday"], 2, "is no moment"),
        (["--with-state"], 2, "--with-state needs --from"),
        (["--hash", "--serve", "0"], 2, "two different things"),
        (["--speed", "0"], 2, "no speed"),
        (["--channels", "candles"], 2, "candles is no channel"),
        (["--products", "XRP-USD"], 1, "the archive has no XRP-USD; it has BTC-USD, ETH-USD"),
        (
            ["--to", "2001-01-01T00:00Z", "--speed", "max"],
            1,
            "nothing to replay: what the archive has of these is from",
        ),
        (["--to", "2001-01-01T00:00Z", "--hash"], 1, "nothing to replay"),
    ):
        assert execute(["replay", *arguments, "--data-dir", str(data_dir)]) == code
        shown = capsys.readouterr()
        assert why in shown.err
        assert shown.err.count("\n") == 1
        assert shown.out == ""
    assert execute(["replay", "--data-dir", str(tmp_path)]) == 1
    assert "is empty" in capsys.readouterr().err


# Pace ----------------------------------------------------------------------------------------------------------------

MS = 1_000_000


class Time:
    """A clock that only sleeping, and what a test does, moves."""

    def __init__(self) -> None:
        self.now = 5_000 * MS
        self.slept: list[int] = []

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds * 1000))
        self.now += round(seconds * 1e9)


def told_at(*times_ms: int) -> list[Told]:
    return [Told(BTC_TRADES, Line(at * MS, 1, seq, b"%d" % seq)) for seq, at in enumerate(times_ms, 1)]


@pytest.mark.parametrize(
    ("speed", "skip_s", "slept"),
    [
        (1, None, [100, 900, 60_000]),
        (10, None, [10, 90, 6000]),
        (1, 0.5, [100, 500, 500]),
        (1, 0, []),
        ("max", None, []),
    ],
)
def test_messages_are_due_as_they_happened(speed: float, skip_s: float | None, slept: list[int]) -> None:
    time = Time()
    came = list(paced(told_at(1000, 1100, 1100, 2000, 62_000), speed, skip_s, clock=time, sleep=time.sleep))
    assert [each for each in came if each] == [b"1", b"2", b"3", b"4", b"5"]
    assert time.slept == slept
    assert came.count(PAUSE) == len(slept)


def test_a_slow_reader_gets_what_is_overdue_at_once() -> None:
    time = Time()
    messages = paced(told_at(1000, 2000, 3000, 9000), 1, clock=time, sleep=time.sleep)
    assert next(messages) == b"1"
    time.now += 2500 * MS
    assert [next(messages), next(messages)] == [b"2", b"3"]
    assert list(messages) == [PAUSE, b"4"]
    assert time.slept == [5500]


def test_short_pauses_add_up_to_one() -> None:
    time = Time()
    list(paced(told_at(*range(1000, 1011)), 4, clock=time, sleep=time.sleep))
    assert sum(time.slept) <= 2
    assert len(time.slept) < 3


def test_what_is_due_is_written_before_a_pause() -> None:
    class Output(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    output = Output()

    def messages() -> "list[bytes]":
        return [b"one", b"two", PAUSE, b"three", PAUSE, b"x" * 100_000, b"end"]

    def watched() -> "object":
        for message in messages():
            if message == b"three":
                assert output.getvalue() == b"one\ntwo\n"
            yield message

    assert write(output, watched()) == 5  # type: ignore[arg-type] # a generator that asserts
    assert output.getvalue() == b"one\ntwo\nthree\n" + b"x" * 100_000 + b"\nend\n"
    assert output.flushed == len(output.getvalue())


# Ends ----------------------------------------------------------------------------------------------------------------


def started(data_dir: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "lfmesh.cli", "replay", *arguments, "--data-dir", str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_reader_that_goes_and_ctrl_c_end_it_quietly(data_dir: Path) -> None:
    for end in ("reader", "ctrl-c"):
        with started(data_dir, "--speed", "0.001" if end == "ctrl-c" else "max") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith(b'{"op":"')
            if end == "reader":
                process.stdout.close()
            else:
                process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b""
            assert process.wait(30) == (0 if end == "reader" else -signal.SIGINT)
