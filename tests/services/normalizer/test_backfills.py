from lfmesh.core.hold import Missing
from lfmesh.services.normalizer.backfills import MOST_IDS, MOST_RANGES, Ask, Backfills

SECOND = 1_000_000_000
GAP = [Missing(11, 20, 0)]


def test_a_range_is_asked_for_once_at_a_time() -> None:
    backfills = Backfills()
    assert backfills.due(0, "A", GAP, [1, 2]) == [Ask("A", 11, 20, [1, 2])]
    assert backfills.due(SECOND, "A", GAP, [1, 2]) == []
    assert backfills.due(SECOND, "A", [Missing(13, 14, 0), Missing(16, 17, 0)], [1, 2]) == [], "parts of it came"
    assert backfills.due(SECOND, "A", [*GAP, Missing(30, 31, 0)], [1, 2]) == [Ask("A", 30, 31, [1, 2])]


def test_what_pages_leave_open_is_asked_for_again_ever_more_rarely_and_by_turns() -> None:
    backfills = Backfills()
    now, asked = 0, []
    while now < 9 * SECOND:
        for ask in backfills.due(now, "A", [Missing(15, 16, 0)], [1, 2]):
            asked.append((now // 100_000_000, ask.ingestors))
            backfills.came("A", 15, 16, now, complete=True)
        now += SECOND // 10
    assert asked == [(0, [1, 2]), (5, [2, 1]), (15, [1, 2]), (35, [2, 1]), (75, [1, 2])]


def test_a_request_of_which_nothing_comes_is_taken_for_lost() -> None:
    backfills = Backfills()
    backfills.due(0, "A", GAP, [1, 2])
    backfills.came("A", 11, 20, 2 * SECOND, complete=False)
    assert backfills.due(4 * SECOND, "A", [Missing(18, 20, 0)], [1, 2]) == [], "a page has come meanwhile"
    assert backfills.due(5 * SECOND, "A", [Missing(18, 20, 0)], [1, 2]) == [Ask("A", 18, 20, [2, 1])]


def test_requests_are_bounded_and_the_rest_follows() -> None:
    backfills = Backfills()
    long = [Missing(1, 3 * MOST_IDS, 0)]
    assert backfills.due(0, "A", long, [1]) == [Ask("A", 1, MOST_IDS, [1])]
    backfills.came("A", 1, MOST_IDS, SECOND, complete=True)
    rest = [Missing(MOST_IDS + 1, 3 * MOST_IDS, 0)]
    assert backfills.due(SECOND, "A", rest, [1]) == [Ask("A", MOST_IDS + 1, 2 * MOST_IDS, [1])]
    many = [Missing(number, number, 0) for number in range(0, 200, 2)]
    assert len(backfills.due(0, "B", many, [1])) == MOST_RANGES


def test_a_product_that_is_whole_is_forgotten() -> None:
    backfills = Backfills()
    backfills.want("A")
    backfills.due(0, "A", GAP, [1])
    backfills.settle("A")
    assert backfills.products == set()
    assert backfills.due(SECOND, "A", GAP, [1]) == [Ask("A", 11, 20, [1])]


def test_without_anybody_to_ask_nobody_is_asked() -> None:
    backfills = Backfills()
    assert backfills.due(0, "A", GAP, []) == []
    assert backfills.due(1, "A", GAP, [3]) == [Ask("A", 11, 20, [3])]
