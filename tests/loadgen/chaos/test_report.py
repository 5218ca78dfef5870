"""The table and its verdict."""

from io import StringIO

from rich.console import Console

from loadgen.chaos.report import Report, line, rendered, summed
from loadgen.chaos.rounds import Result


def result(number: int = 1, whole_s: float | None = 1.0, **figures: int) -> Result:
    names = ("lost", "undeclared", "repeated", "violations", "books", "tickers", "declared")
    counts = dict.fromkeys(names, 0) | figures
    return Result(
        number=number, at="12:00:00.000", topology="single", fault="kill", target="gateway-0", fault_s=0.5,
        amount=0.0, whole_s=whole_s, pause_s=0.1, lag_s=0.0, rungs={"retransmit": 2},
        held_up=["gateway-0 is not ready"], words=[], **counts,
    )  # fmt: skip


def test_a_clean_run() -> None:
    found = summed([result(1, 1.0), result(2, 2.0), result(3, 4.0)], 1, 5000)
    assert (found.failed, found.whole_median_s, found.whole_worst_s, found.in_time) == (0, 2.0, 4.0, True)


def test_anything_wrong_is_a_failure() -> None:
    for name in ("lost", "undeclared", "repeated", "violations", "books", "tickers"):
        assert not result(**{name: 1}).clean, name
        assert summed([result(), result(**{name: 1})], 1, 5000).failed == 1
    assert not result(whole_s=None).clean


def test_late_is_told() -> None:
    assert not summed([result(whole_s=5.1)], 1, 5000).in_time
    assert not summed([result(whole_s=2.1)], 1, 5000).in_time
    assert summed([result(whole_s=None)], 1, 5000).never_whole == 1


def test_the_table_has_it_all() -> None:
    results = [result(1), result(2, None, lost=3)]
    out = StringIO()
    Console(file=out, width=200).print(rendered(Report(summed(results, 7, 5000), results)))
    text = out.getvalue()
    for expected in ("kill", "gateway-0", "never", "retransmit 2", "3 trades lost", "FAILED: 1 of 2", "seed 7"):
        assert expected in text
    assert "never" in line(results[1], 2)
    assert "FAILED" in line(results[1], 2)
