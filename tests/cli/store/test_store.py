"""`lfmesh store` on local files: what people and programs see, exit codes, errors in one line."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lfmesh.archive.states import StatesWriter
from lfmesh.cli.root import execute
from lfmesh.core.archive import StateLine, parse_snapshot
from lfmesh.core.sharding import shard_of
from lfmesh.ports import StoredState
from lfmesh.store.embedded import SqliteStateStore, peek, state_path
from lfmesh.store.folder import FolderObjectStore
from lfmesh.types import Channel, InputPosition, Position, StreamKey
from tests.archive.published import BTC, ETH, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, upload

INPUT = InputPosition(2**64 - 1, 2, 3)


class Output:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)


class Run:
    """Runs `lfmesh store …` on a data folder that can be filled."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self.objects = FolderObjectStore(data_dir / "objects")
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Output:
        self._capsys.readouterr()
        code = execute(["store", *arguments, "--data-dir", str(self.data_dir)])
        shown = self._capsys.readouterr()
        return Output(code, shown.out, shown.err)

    def fill(self) -> None:
        for stream in (BTC, ETH):
            entries = [opening(stream, Position(10, 0), ts_event=NOW - SECOND), increments(stream, Position(10, 1), 60)]
            upload(self.objects, stream, entries, max_bytes=4000)  # type: ignore[arg-type] # a store like the other
        for shard in (0, 1):
            self.snapshot(shard, [one for one in (BTC, ETH) if shard_of(one.product, 2) == shard], 60)

    def snapshot(self, shard: int, streams: list[StreamKey], seq: int) -> None:
        writer = StatesWriter(VENUE, 2, shard)
        for stream in streams:
            state = msgspec.Raw(b'{"bids":[],"asks":[]}' if stream.channel is Channel.BOOK else b'{"trades":[]}')
            writer.add([StateLine(*stream, 7, 10, seq, NOW - SECOND + seq * 1_000_000, NOW, INPUT, state)])
        name, body = writer.finish()
        self.objects.put(name.key, body)

    def write_state(self, stream: StreamKey, seq: int) -> None:
        shard = shard_of(stream.product, 2)
        store = SqliteStateStore(state_path(self.data_dir, shard), shard)
        store.write([StoredState(stream, 7, Position(10, seq), INPUT, NOW, b'{"mine":1}')])
        store.close()

    def states(self) -> dict[StreamKey, StoredState]:
        paths = [state_path(self.data_dir, shard) for shard in (0, 1)]
        return {one.stream: one for path in paths if path.exists() for one in peek(path)}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path / "data", capsys)


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["gc"], ["rebuild"]])
def test_a_folder_without_an_archive_is_one_line_and_stays_as_it_is(run: Run, command: list[str]) -> None:
    shown = run(*command)
    assert shown.code == 1
    assert shown.out == ""
    assert shown.err == (
        f"lfmesh: there is no archive in {run.data_dir}/objects: a mesh makes one when it runs; --data-dir or --config"
        " names another\n"
    )
    assert not run.data_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gc", "--max-age", "soon"], "'soon' is no duration: such as 30d"),
        (["gc", "--max-size", "much"], "'much' is no size: such as 500MB"),
        (["verify", "--threads", "0"], "0 is not in the range"),
        (["ls", "--kind", "books"], "'books' is not one of"),
        (["ls", "--products", "x y"], "is no product id"),
        (["nope"], "No such command"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(run: Run, arguments: list[str], told: str) -> None:
    shown = run(*arguments)
    assert shown.code == 2
    assert told in shown.err
    assert shown.err.count("\n") == 1


def test_init_makes_the_folder_and_says_so(run: Run) -> None:
    first, second = run("init"), run("init")
    assert first.code == second.code == 0
    assert f"made the folder {run.data_dir}/objects" in first.out
    assert "is there" in second.out


# ls -----------------------------------------------------------------------------------------------------------------


def test_ls_adds_up_by_stream_and_shard(run: Run) -> None:
    run.fill()
    run.write_state(BTC, 3)
    shown = run("ls", "--json").document
    assert {(row["product"], row["channel"]) for row in shown["tape"]} == {("BTC-USD", "trades"), ("ETH-USD", "book")}
    assert all(row["lines"] == 61 and row["segments"] > 1 and row["bytes"] > 0 for row in shown["tape"])
    assert [(row["shard"], row["shards"], row["snapshots"]) for row in shown["snapshots"]] == [(0, 2, 1), (1, 2, 1)]
    (state,) = shown["states"]
    assert (state["product"], state["channel"], state["epoch"], state["seq"]) == ("BTC-USD", "trades", 10, 3)
    assert shown["objects"] == len(list(run.objects.list()))
    assert shown["bytes"] == sum(stored.size for stored in run.objects.list())
    first = shown["tape"][0]
    assert first["from"] == "2025-11-23T17:46:39.000000000Z"
    assert first["from"] < first["to"] < "2025-11-23T17:46:40Z"


def test_ls_for_people_has_a_line_for_each_and_totals(run: Run) -> None:
    run.fill()
    run.write_state(BTC, 3)
    lines = run("ls").out.splitlines()
    assert any(line.startswith("BTC-USD  trades") and "2025-11-23 17:46:39Z" in line for line in lines)
    assert any(line.startswith("total") and " 122 " in line for line in lines)
    assert any(line.startswith("shard 0") for line in lines)
    assert any("state-shard-" in line and "1 state," in line for line in lines)


def test_ls_of_what_is_asked_for(run: Run) -> None:
    run.fill()
    run.write_state(BTC, 3)
    shown = run("ls", "--json", "--products", "eth-usd").document
    assert [row["product"] for row in shown["tape"]] == ["ETH-USD"]
    assert shown["states"] == shown["snapshots"] == []
    assert run("ls", "--json", "--channels", "ticker").document["tape"] == []
    shown = run("ls", "--json", "--kind", "snapshots").document
    assert shown["tape"] == shown["states"] == []
    assert len(shown["snapshots"]) == 2


def test_ls_reads_states_while_a_mesh_uses_them(run: Run) -> None:
    run.fill()
    shard = shard_of("BTC-USD", 2)
    store = SqliteStateStore(state_path(run.data_dir, shard), shard)
    store.write([StoredState(BTC, 7, Position(10, 9), INPUT, NOW, b"{}")])
    assert [row["seq"] for row in run("ls", "--json").document["states"]] == [9]
    store.close()


def test_the_archive_of_a_simulated_session_is_found_and_said(run: Run) -> None:
    simulated = Run(run.data_dir / "simulated", run._capsys)
    simulated.fill()
    shown = run("verify")
    assert shown.code == 0
    assert f"session in {run.data_dir}/simulated" in shown.err


# verify -------------------------------------------------------------------------------------------------------------


def test_verify_of_a_whole_archive(run: Run) -> None:
    run.fill()
    for options in ([], ["--quick"], ["--threads", "3"]):
        shown = run("verify", *options)
        assert shown.code == 0, shown.out
        assert "122 lines" in shown.out
        assert shown.out.splitlines()[-1].startswith("whole: no gap")


def test_verify_reports_gaps_and_damage_and_exits_1(run: Run) -> None:
    run.fill()
    tape = [stored.key for stored in run.objects.list("tape/venue=coinbase/product=BTC-USD/")]
    run.objects.delete([tape[1]])
    other = next(run.objects.list("tape/venue=coinbase/product=ETH-USD/")).key
    (run.data_dir / "objects" / other).write_bytes(b"nothing")
    shown = run("verify")
    assert shown.code == 1
    lines = shown.out.splitlines()
    assert any(line.startswith("gap: BTC-USD trades: ") and "messages missing after 10/" in line for line in lines)
    assert any(line.startswith(f"damaged: {other}: ") for line in lines)
    assert lines[-1] == "NOT WHOLE: 1 gap, 1 damaged object"
    found = [json.loads(line) for line in run("verify", "--json").out.splitlines()]
    assert sorted(one["kind"] for one in found) == ["counts", "damaged", "gap"]
    gap = next(one for one in found if one["kind"] == "gap")
    assert gap["messages"] == gap["until"]["seq"] - gap["after"]["seq"] > 0
    assert gap["from"] < gap["to"]
    assert found[-1]["whole"] is False


# gc -----------------------------------------------------------------------------------------------------------------


def test_gc_without_bounds_deletes_nothing_and_says_why(run: Run) -> None:
    run.fill()
    shown = run("gc")
    assert shown.code == 0
    assert "0 objects deleted" in shown.out
    assert "no bound is set" in shown.err


def test_gc_by_age_keeps_the_newest_snapshots(run: Run) -> None:
    run.fill()
    run.snapshot(0, [], 50)
    before = {stored.key for stored in run.objects.list()}
    dry = run("gc", "--max-age", "0.000001", "--dry-run")
    assert {stored.key for stored in run.objects.list()} == before
    shown = run("gc", "--max-age", "0.000001")
    left = [stored.key for stored in run.objects.list()]
    names = [parse_snapshot(key) for key in left]
    assert sorted((name.shards, name.shard) for name in names if name is not None) == [(2, 0), (2, 1)]
    assert len(names) == 2
    assert f"{len(before) - 2} objects would go (age {len(before) - 2})" in dry.out
    assert f"{len(before) - 2} objects deleted (age {len(before) - 2})" in shown.out
    assert dry.out.count("\nage: ") + dry.out.startswith("age: ") == len(before) - 2


def test_gc_by_size_option_over_configuration(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fill()
    monkeypatch.setenv("LFMESH_ARCHIVE__RETENTION_BYTES", "1")
    assert "0 objects deleted" in run("gc", "--max-size", "1GB").out
    bound = sum(stored.size for stored in run.objects.list()) - 1
    assert "1 object deleted (size 1)" in run("gc", "--max-size", str(bound)).out
    assert run("verify").code == 0, "no hole"
    assert "deleted (size" in run("gc").out
    assert len(list(run.objects.list("tape/"))) == 0


# rebuild ------------------------------------------------------------------------------------------------------------


def test_rebuild_fills_empty_stores(run: Run) -> None:
    run.fill()
    dry = run("rebuild", "--dry-run")
    assert dry.code == 0
    assert run.states() == {}
    shown = run("rebuild")
    assert shown.code == 0, shown.err
    assert {stream: one.position for stream, one in run.states().items()} == {
        BTC: Position(10, 60), ETH: Position(10, 60),
    }  # fmt: skip
    assert {one.input for one in run.states().values()} == {INPUT}
    told = "shard 0: 2 states written from the snapshot of 2025-11-23 17:46:39Z\nshard 1: nothing in the archive\n"
    assert shown.out == told, "both products are the same shard's"
    again = run("rebuild")
    assert "0 states written" in again.out
    assert "2 left as they were, being as new or newer" in again.out


def test_rebuild_leaves_newer_states_and_replaces_older_ones(run: Run) -> None:
    run.fill()
    run.write_state(BTC, 61)
    run.write_state(ETH, 59)
    run("rebuild")
    states = run.states()
    assert states[BTC].state == b'{"mine":1}'
    assert states[ETH].state == b'{"bids":[],"asks":[]}'


def test_rebuild_does_not_disturb_a_running_mesh(run: Run) -> None:
    run.fill()
    store = SqliteStateStore(state_path(run.data_dir, 1), 1)
    shown = run("rebuild")
    store.close()
    assert shown.code == 1
    assert "in use by another process" in shown.err
    assert shown.err.count("\n") == 1


def test_rebuild_of_an_archive_of_other_products(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fill()
    monkeypatch.setenv("LFMESH_MESH__PRODUCTS", '["XRP-USD"]')
    shown = run("rebuild")
    assert shown.code == 1
    assert "nothing of the products of this mesh" in shown.err
    assert "BTC-USD, ETH-USD" in shown.err
