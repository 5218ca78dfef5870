import json

import pytest

from loadgen.sim.trades import TradeLog


def log_of(ids: range, limit_rows: int = 1000) -> TradeLog:
    log = TradeLog(limit_rows)
    for trade_id in ids:
        log.add(trade_id, "10.5", "2", "buy", "2024-01-01T00:00:00.000000Z")
    return log


@pytest.mark.parametrize(
    ("limit", "after", "before", "expected"),
    [
        (3, None, None, [20, 19, 18]),
        (3, 18, None, [17, 16, 15]),
        (3, 12, None, [11]),
        (3, 11, None, []),
        (100, 100, None, list(range(20, 10, -1))),
        (3, None, 18, [20, 19]),
        (3, None, 12, [20, 19, 18]),
        (3, None, 20, []),
        (100, 18, 13, [17, 16, 15, 14]),
    ],
)
def test_pages_are_newest_first_and_both_cursors_exclusive(
    limit: int, after: int | None, before: int | None, expected: list[int]
) -> None:
    page = log_of(range(11, 21)).page(limit, after, before)
    assert [json.loads(row)["trade_id"] for row in page.rows] == expected
    assert (page.newest_id, page.oldest_id) == ((expected[0], expected[-1]) if expected else (None, None))


def test_the_newest_trades_can_be_left_out() -> None:
    log = log_of(range(11, 21))
    for hidden, after, expected in (
        (3, None, [17, 16]),
        (3, 13, [12, 11]),
        (9, None, [11]),
        (10, None, []),
        (99, 15, []),
    ):
        page = log.page(2, after, None, hidden)
        assert [json.loads(row)["trade_id"] for row in page.rows] == expected


def test_following_after_visits_every_trade_once() -> None:
    log, visited, after = log_of(range(1, 1001)), [], None
    while (page := log.page(7, after)).rows:
        visited += [json.loads(row)["trade_id"] for row in page.rows]
        after = page.oldest_id
    assert visited == list(range(1000, 0, -1))


def test_the_history_keeps_the_newest_rows_and_the_hash_covers_all() -> None:
    short, long = log_of(range(1, 501), limit_rows=10), log_of(range(1, 501))
    page = short.page(1000)
    assert (page.newest_id, page.oldest_id, len(page.rows)) == (500, 491, 10)
    assert short.count == 500
    assert short.hexdigest() == long.hexdigest()


def test_a_trade_from_before_the_run_is_listed_but_not_counted() -> None:
    log = TradeLog(10)
    log.list_only(7, "1.0", "2", "sell", "2024-01-01T00:00:00.000000Z")
    log.list_only(7, "1.0", "2", "sell", "2024-01-01T00:00:00.000000Z")
    assert (log.count, log.last_trade_id, len(log.page(10).rows)) == (0, 7, 1)
    assert log.hexdigest() == TradeLog(10).hexdigest()
    log.add(8, "1.0", "2", "sell", "2024-01-01T00:00:00.000000Z")
    assert json.loads(log.page(1).rows[0]) == {
        "trade_id": 8,
        "side": "sell",
        "size": "2",
        "price": "1.0",
        "time": "2024-01-01T00:00:00.000000Z",
    }
