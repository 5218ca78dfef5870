"""`lfmesh state`: exact states as of a moment, and one clear line where there is none."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lfmesh.cli.root import cli, execute
from lfmesh.core.times import format_time
from lfmesh.types import CHANNELS, Channel, StreamKey
from tests.archive.market import Market


def told(data_dir: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["state", *arguments, "--data-dir", str(data_dir)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return result.stdout


def refused(capsys: pytest.CaptureFixture[str], data_dir: Path, *arguments: str, code: int = 1) -> str:
    assert execute(["state", *arguments, "--data-dir", str(data_dir)]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_state_at_a_moment_with_every_digit(
    data_dir: Path, known: dict[StreamKey, Market], channel: Channel
) -> None:
    market = known[StreamKey("BTC-USD", channel)]
    for number in (0, 20, 33, 60, -1):
        record = market.state_at(market.records[number].time)
        assert record is not None
        for at in (str(record.time), format_time(record.time)):
            text = told(data_dir, "btc-usd", "--channel", str(channel), "--at", at)
            data = json.loads(text, parse_float=str, parse_int=str)
            assert data["state"] == market.text_of(record)
            assert (data["v"], data["type"], data["product"], data["channel"]) == ("1", "snapshot", "BTC-USD", channel)
            assert (data["epoch"], data["seq"]) == tuple(map(str, record.position))
            assert data["ts_snapshot"] == str(record.time)


def test_the_newest_state_of_the_ticker_unless_something_else_is_asked_for(
    data_dir: Path, known: dict[StreamKey, Market]
) -> None:
    market = known[StreamKey("ETH-USD", Channel.TICKER)]
    data = json.loads(told(data_dir, "ETH-USD"), parse_float=str, parse_int=str)
    assert data["state"] == market.text_of(market.records[-1])


def test_what_the_archive_does_not_reach_or_has_lost_is_a_warning(
    data_dir: Path, known: dict[StreamKey, Market]
) -> None:
    market = known[StreamKey("BTC-USD", Channel.BOOK)]
    last = market.records[-1].time
    healed = next(
        number
        for number, record in enumerate(market.records)
        if record.position.seq > market.records[number - 1].position.seq + 1
    )

    def warned(at: int | None) -> str:
        moment = () if at is None else ("--at", str(at))
        arguments = ["state", "BTC-USD", "--channel", "book", *moment, "--data-dir", str(data_dir)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0
        assert result.stdout.count("\n") == 1
        return result.stderr

    assert [warned(at) for at in (None, last, last - 1, market.records[0].time)] == [""] * 4
    reach, later = format_time(last), format_time(last + 86_400_000_000_000)
    assert warned(last + 86_400_000_000_000) == (
        f"warning: the archive reaches to {reach}: what came between {reach} and {later} is not in it\n"
    )
    in_hole = market.records[healed + 1].time - 1
    assert "a hole in the archive begins at" in warned(in_hole)


def test_on_a_terminal_it_is_laid_out_and_no_digit_changes(data_dir: Path) -> None:
    command = [sys.executable, "-m", "lfmesh.cli", "state", "BTC-USD", "--channel", "book", "--data-dir", str(data_dir)]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            try:
                while part := terminal.read(65536):
                    shown += part
            except OSError:  # the other end is closed
                pass
        assert process.returncode == 0
    text = shown.decode()
    assert text.count("\n") > 10
    assert any(line.strip().startswith("[") and line.strip().rstrip(",").endswith("]") for line in text.splitlines())
    exact = {"parse_float": str, "parse_int": str}
    assert json.loads(text, **exact) == json.loads(told(data_dir, "BTC-USD", "--channel", "book"), **exact)  # type: ignore[arg-type] # one dict for both calls


def test_what_is_not_there_is_one_line(
    data_dir: Path, known: dict[StreamKey, Market], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "no XRP-USD; it has BTC-USD, ETH-USD" in refused(capsys, data_dir, "XRP-USD")
    records = known[StreamKey("BTC-USD", Channel.BOOK)].records
    why = refused(capsys, data_dir, "BTC-USD", "--channel", "book", "--at", "2001-01-01T00:00Z")
    assert "nothing is known of the book of BTC-USD at 2001-01-01T00:00:00.000000000Z" in why
    assert f"from {format_time(records[0].time)} to {format_time(records[-1].time)}" in why
    assert "is empty" in refused(capsys, tmp_path, "BTC-USD")
    assert "names no zone" in refused(capsys, data_dir, "BTC-USD", "--at", "2021-04-17T16:43:50", code=2)
    assert "name one product" in refused(capsys, data_dir, "BTC-USD,ETH-USD", code=2)
    assert "no product id" in refused(capsys, data_dir, "BTC", code=2)


def test_a_simulated_session_is_found_in_its_folder_and_told(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "simulated").symlink_to(data_dir)
    result = CliRunner().invoke(cli, ["state", "BTC-USD", "--data-dir", str(tmp_path)])
    assert result.stdout == told(data_dir, "BTC-USD")
    assert "of the simulated or recorded session in" in result.stderr


def test_another_venues_archive_is_told(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFMESH_VENUE__NAME", "kraken")
    assert "LFMESH_VENUE__NAME=coinbase names one" in refused(capsys, data_dir, "BTC-USD")


def test_a_missing_channel_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.cli.archive.recorded import keep

    market = Market(Channel.TRADES)
    market.play([])
    keep(tmp_path, {market.stream: market})
    assert "no book of BTC-USD; it has trades" in refused(capsys, tmp_path, "BTC-USD", "--channel", "book")
