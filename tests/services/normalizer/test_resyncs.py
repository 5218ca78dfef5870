from lfmesh.services.normalizer.resyncs import Resyncs

SECOND = 1_000_000_000


def test_asks_at_once_and_then_ever_more_rarely() -> None:
    resyncs = Resyncs()
    assert resyncs.due(0) == []
    resyncs.want("A")
    asked = [second for second in range(100) if resyncs.due((1000 + second) * SECOND)]
    assert asked == [0, 1, 3, 7, 15, 31, 61, 91]


def test_a_snapshot_ends_the_asking_but_not_the_pause() -> None:
    resyncs = Resyncs()
    resyncs.want("A")
    start = 1000 * SECOND
    assert resyncs.due(start) == ["A"]
    resyncs.settle("A")
    assert resyncs.wanted == 0
    assert resyncs.due(start + 60 * SECOND) == []
    resyncs.want("A")
    assert resyncs.wanted == 1
    assert resyncs.due(start + SECOND - 1) == [], "crossed again at once: not asked again at once"
    resyncs.want("B")
    assert resyncs.due(start + SECOND) == ["A", "B"]


def test_the_pause_is_short_again_after_a_long_good_time() -> None:
    resyncs = Resyncs()
    for second in range(100):
        resyncs.want("A")
        resyncs.due((1000 + second) * SECOND)
    resyncs.settle("A")
    resyncs.want("A")
    assert resyncs.due(1300 * SECOND) == ["A"]
    assert resyncs.due(1301 * SECOND) == ["A"]
