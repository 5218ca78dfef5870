"""What `lfmesh up` shows, from values to text."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from lfmesh.cli.up.board import (
    Line,
    Places,
    Work,
    changed,
    line_of,
    plain,
    render,
    where_lines,
    work_of_workers,
    works_of,
)
from lfmesh.cli.up.mesh import places_of
from lfmesh.cli.up.screen import PlainScreen
from lfmesh.cli.up.unit import Unit
from lfmesh.top.state import Row
from lfmesh.types import Role


def a_unit() -> Unit:
    unit = Unit("normalizer-0", Role.NORMALIZER, 0, 2)
    unit.forking(0.0)
    unit.forked(17)
    unit.started(0.5)
    return unit


READY = Work(17, "ready", [], 1234.4, 2345.6, 1.25)


def test_a_unit_is_ready_when_it_says_so_and_its_rates_are_known() -> None:
    unit = a_unit()
    assert line_of(unit, None, 1.0).state == "running"
    assert line_of(unit, READY._replace(in_per_s=None, out_per_s=None), 1.0).state == "running"
    line = line_of(unit, READY, 61.5)
    assert line == Line("normalizer-0", "ready", 17, 1234.4, 2345.6, 1.25, 61.0, 0, "")
    assert plain(line) == "normalizer-0     ready       pid 17  1,234 msg/s in, 2,346 msg/s out"


def test_what_an_earlier_process_told_is_not_shown() -> None:
    line = line_of(a_unit(), READY._replace(pid=16), 1.0)
    assert (line.state, line.in_per_s) == ("running", None)


def test_reasons_and_deaths_are_notes() -> None:
    unit = a_unit()
    not_ready = READY._replace(state="not ready", reasons=["no data yet", "no peer"])
    assert line_of(unit, not_ready, 1.0).state == "running", "it has only just started"
    line = line_of(unit, not_ready, 3.0)
    assert (line.state, line.note) == ("not ready", "no data yet; no peer")
    unit.ended(9, 2.0)
    line = line_of(unit, READY, 2.0)
    assert plain(line) == "normalizer-0     restarting  restarts 1  (killed by SIGKILL (pid 17))"


def test_only_news_is_printed() -> None:
    before = line_of(a_unit(), READY, 1.0)
    faster = line_of(a_unit(), READY._replace(in_per_s=9.0), 5.0)
    assert changed({"normalizer-0": before}, [faster]) == []
    unit = a_unit()
    unit.stopping()
    assert changed({"normalizer-0": before}, [line_of(unit, READY, 5.0)]) == [], "its end is said once it has come"
    unit.ended(0, 6.0)
    stopped = line_of(unit, READY, 6.0)
    assert changed({"normalizer-0": before}, [stopped]) == [stopped]
    assert changed({}, [before]) == [before]
    assert changed({}, [line_of(Unit("x", Role.GATEWAY, None, 0), None, 0.0)]) == [], "nothing has happened to it yet"


def test_the_screen_has_addresses_and_a_line_a_unit() -> None:
    console = Console(file=io.StringIO(), width=140)
    places = Places("ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000")
    console.print(render("LedgerFlux Mesh", places, [line_of(a_unit(), READY, 3.0)]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("LedgerFlux Mesh", "ws://127.0.0.1:8000/ws", "lfmesh watch", "lfmesh top", "normalizer-0", "1,234"):
        assert part in text


def text_of(lines: list[Line], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(render("LedgerFlux Mesh", None, lines, None, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", range(40, 121, 10))
def test_narrow_terminals_lose_columns_and_no_figure_is_cut(width: int) -> None:
    line = line_of(a_unit(), READY._replace(duty="standby"), 61.5)
    late = line_of(a_unit(), READY._replace(state="not ready", reasons=["no ingestor is known"]), 61.5)
    shown = text_of([line, late], width)
    assert all(len(text) <= width for text in shown)
    row = next(text.split() for text in shown if text.startswith("normalizer-0  ready"))
    order = ["1,234", "standby", "1.2", "17", "1m01s"]
    there = [figure for figure in order if figure in row]
    assert there == order[: len(there)], "the least important went first"
    assert len(there) >= min(len(order), (width - 50) // 10)
    assert "noingestorisknown" in "".join("".join(shown[3:]).split())


def test_which_of_a_pair_is_at_work_is_shown_and_a_change_of_it_is_news() -> None:
    def row(instance: str, pid: int, *, active: bool) -> Row:
        return Row(
            role=Role.NORMALIZER, instance=instance, shard=0, state="ready", reasons=[], pid=pid, host="", http="",
            age_s=9.0, restarts=0, messages_in_per_s=1.0, messages_out_per_s=1.0, active=active,
        )  # fmt: skip

    before = works_of([row("normalizer-0", 17, active=True), row("normalizer-0-b", 18, active=False)])
    unit = a_unit()
    line = line_of(unit, before[Role.NORMALIZER, "normalizer-0"], 9.0)
    assert (line.duty, "  active  " in plain(line)) == ("active", True)
    assert " active " in text_of([line], 120)[-1]
    after = works_of([row("normalizer-0", 17, active=False), row("normalizer-0-b", 18, active=True)])
    changed_line = line_of(unit, after[Role.NORMALIZER, "normalizer-0"], 9.0)
    assert changed_line.duty == "standby"
    assert changed({"normalizer-0": line}, [changed_line]) == [changed_line]
    assert line_of(unit, None, 9.0).duty == ""


def a_worker(number: int, **more: object) -> Row:
    row = Row(
        role=Role.GATEWAY, instance=f"gateway-0.{number}", shard=None, state="ready", reasons=[], pid=20 + number,
        host="", http="", age_s=9.0, restarts=0, messages_in_per_s=10.0, messages_out_per_s=100.0, lag_ms=float(number),
    )  # fmt: skip
    return msgspec.structs.replace(row, **more)


def test_workers_are_one_line() -> None:
    unit = Unit("gateway-0", Role.GATEWAY, None, 0)
    unit.forking(0.0)
    unit.forked(17)
    unit.started(0.5)

    def line(*rows: Row) -> Line:
        return line_of(unit, work_of_workers(works_of(rows), unit, 2), 9.0)

    whole = line(a_worker(1), a_worker(2, restarts=3))
    assert (whole.state, whole.pid, whole.restarts) == ("ready", 17, 3)
    assert (whole.in_per_s, whole.out_per_s, whole.lag_ms) == (10.0, 200.0, 2.0)
    lame = line(a_worker(1, state="not ready", reasons=["no data yet"]), a_worker(2, state="gone"))
    assert (lame.state, lame.note) == ("not ready", "gateway-0.1: no data yet; gateway-0.2: is gone")
    assert line(a_worker(2)).note == "gateway-0.1 is not heard"
    assert line().state == "running"


def test_every_gateway_is_named() -> None:
    places = Places("ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000", others=("ws://127.0.0.1:8001/ws",))
    assert where_lines(places)[0] == (
        "ready for clients: ws://127.0.0.1:8000/ws  ws://127.0.0.1:8001/ws   page: http://127.0.0.1:8000/"
    )


@pytest.mark.parametrize("json", [False, True])
def test_clients_are_invited_once_and_not_while_it_ends(capsys: pytest.CaptureFixture[str], *, json: bool) -> None:
    places = Places("ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000")
    ended = PlainScreen("mesh", json=json)
    ended.show([], None, None)
    ended.show([], places, "ending …")
    assert "ws://" not in capsys.readouterr().out
    running = PlainScreen("mesh", json=json)
    for ending in (None, None, "ending …"):
        running.show([], places, ending)
    assert capsys.readouterr().out.count("ws://") == 1


def test_the_live_screen_says_whether_clients_can_connect() -> None:
    places = Places("ws://127.0.0.1:8000/ws", "http://127.0.0.1:8000")

    def text(places: Places | None, ending: str | None) -> str:
        console = Console(file=io.StringIO(), width=77)
        console.print(render("LedgerFlux Mesh", places, [], ending))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert "ready for clients: ws://127.0.0.1:8000/ws " in text(places, None)
    assert "not ready for clients yet" in text(None, None)
    assert "clients" not in text(places, "ending …")


def test_addresses_are_those_that_this_machine_reaches() -> None:
    announced, home = "http://some-host:4001", Path(".lfmesh")
    assert places_of("0.0.0.0", announced, home) == Places("ws://127.0.0.1:4001/ws", "http://127.0.0.1:4001")
    assert places_of("127.0.0.1", "http://127.0.0.1:8000", home).ws_url == "ws://127.0.0.1:8000/ws"
    assert places_of("::1", "http://[::1]:8000", home).ws_url == "ws://[::1]:8000/ws"
    assert places_of("::1", announced, home).tools() == ("lfmesh watch", "lfmesh top")
    elsewhere = places_of("::1", announced, Path("/tmp/a b"))
    assert elsewhere.tools() == ("lfmesh watch --data-dir '/tmp/a b'", "lfmesh top --data-dir '/tmp/a b'")
