"""Rows know whether their budget is met, and what has changed since the recorded result."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from loadgen.bench import record
from loadgen.bench.table import Goal, Row, change, show, skipped, written


@pytest.mark.parametrize(
    ("goal", "met", "budget"),
    [
        (None, None, ""),
        (Goal(100.0), True, "≥ 100 ms"),
        (Goal(121.0), False, "≥ 121 ms"),
        (Goal(100.0, better="less"), False, "≤ 100 ms"),
        (Goal(2.5, "ratio"), True, "≥ 2.50 ×"),
        (Goal(1.1, "ratio", "less"), False, "≤ 1.10 ×"),
    ],
)
def test_budgets_are_of_the_figure_or_of_the_ratio(goal: Goal | None, met: bool | None, budget: str) -> None:
    row = Row("key", "what", 120.0, "ms", 3.0, "that", goal)
    assert (row.met, row.budget) == (met, budget)


def test_what_was_not_measured_meets_and_misses_nothing() -> None:
    row = skipped("fanout.nats", "… against nats", "nats-server is not installed")
    assert (row.value, row.met, row.note) == (None, None, "not run: nats-server is not installed")
    assert Row("key", "what", 5.0, "ms", goal=Goal(2.0, "ratio")).met is None, "a goal for a ratio that was not formed"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_345_678.4, "12,345,678"), (150.2, "150"), (17.66, "17.7"), (3.0, "3"), (2.345, "2.35"), (0.0912, "0.091")],
)
def test_figures_have_as_many_digits_as_say_something(value: float, text: str) -> None:
    assert written(value) == text


def test_the_change_is_that_of_the_ratio_where_there_is_one() -> None:
    row = Row("fanout.nats", "what", 200.0, "deliveries/s", 3.0)
    recorded = {"fanout.nats": {"value": 100.0, "ratio": 2.5}}
    assert change(row, recorded) == "+20%"
    assert change(Row("fanout.nats", "what", 90.0, "deliveries/s"), recorded) == "-10%"
    assert change(row, {}) == ""
    assert change(skipped("fanout.nats", "what", "no"), recorded) == ""


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert record.read(path) == ({}, {})
    first = Row("a", "what", 2.0, "s", goal=Goal(3.0, better="less"), better="less")
    path.write_text(record.written([first, Row("b", "more", 1.0, "s")], {"cores": 2}), encoding="utf-8")
    made_on, rows = record.read(path)
    assert made_on == {"cores": 2}
    assert [*rows] == ["a", "b"]
    assert (rows["a"]["value"], rows["a"]["budget"], rows["a"]["met"]) == (2.0, "≤ 3 s", True)


def test_a_part_that_is_recorded_anew_replaces_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(record.written([Row("a", "what", 2.0, "s"), Row("b", "more", 1.0, "s")], {}), encoding="utf-8")
    result = json.loads(record.merged([Row("b", "more", 5.0, "s"), Row("c", "new", 7.0, "s")], path))
    assert [(row["key"], row["value"]) for row in result["rows"]] == [("a", 2.0), ("b", 5.0), ("c", 7.0)]
    assert result["machine"]["cores"]


def test_the_recorded_result_that_ships_can_be_read() -> None:
    made_on, rows = record.read()
    assert {"cores", "python", "kernel", "date"} <= made_on.keys()
    assert rows["fanout.random"]["unit"] == "deliveries/s"


def test_the_table_names_what_was_missed() -> None:
    out = io.StringIO()
    rows = [Row("a", "too slow", 7.0, "s", goal=Goal(3.0, better="less"), better="less"), Row("b", "fine", 1.0, "s")]
    show(rows, {"b": {"value": 2.0}}, Console(file=out, width=150))
    lines = out.getvalue().splitlines()
    assert any("too slow" in line and "missed" in line and "7 s" in line for line in lines)
    assert any("fine" in line and "-50%" in line and "missed" not in line for line in lines)
