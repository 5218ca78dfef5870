from lfmesh.services.normalizer.resyncs import Resyncs

SECOND = 1_000_000_000


def test_asks_at_once_and_then_ever_more_rarely() -> None:
    resyncs = Resyncs()
    assert resyncs.due(0) == []
    resyncs.want("A", 1)
    asked = [second for second in range(32) if resyncs.due((1000 + second) * SECOND)]
    assert asked == [0, 1, 3, 7, 15, 23, 31]


def test_a_snapshot_ends_the_asking_but_not_the_pause() -> None:
    resyncs = Resyncs()
    resyncs.want("A", 1)
    start = 1000 * SECOND
    assert resyncs.due(start) == [("A", 1)]
    resyncs.settle("A", 1)
    assert resyncs.wanted == 0
    assert resyncs.due(start + 60 * SECOND) == []
    resyncs.want("A", 1)
    assert resyncs.wanted == 1
    assert resyncs.due(start + SECOND - 1) == [], "crossed again at once: not asked again at once"
    resyncs.want("B", 1)
    assert resyncs.due(start + SECOND) == [("A", 1), ("B", 1)]


def test_the_pause_is_short_again_after_an_answer() -> None:
    resyncs = Resyncs()
    for second in range(100):
        resyncs.want("A", 1)
        resyncs.due((1000 + second) * SECOND)
    resyncs.settle("A", 1)
    resyncs.want("A", 1)
    assert resyncs.due(1100 * SECOND) == [("A", 1)]
    assert resyncs.due(1101 * SECOND) == [("A", 1)]
    assert resyncs.due(1102 * SECOND) == []


def test_lines_are_asked_each_for_itself_and_a_found_one_answers_for_nobody_in_particular() -> None:
    resyncs = Resyncs()
    resyncs.want("A", None)
    resyncs.want("A", 2)
    assert resyncs.due(1000 * SECOND) == [("A", None), ("A", 2)]
    resyncs.settle("A", 1)
    assert resyncs.wanted == 1
    assert resyncs.due(1001 * SECOND) == [("A", 2)]
