from lfmesh.core.repeat import MINUTE_NS, Repeats


def test_a_key_is_admitted_once_a_minute_and_tells_what_was_held_back() -> None:
    repeats = Repeats()
    assert repeats.admit("bad price", 0) == 0
    assert [repeats.admit("bad price", at) for at in (1, 2, MINUTE_NS - 1)] == [None, None, None]
    assert repeats.admit("bad price", MINUTE_NS) == 3
    assert repeats.admit("bad price", MINUTE_NS + 1) is None
    assert repeats.admit("bad price", 2 * MINUTE_NS) == 1


def test_keys_do_not_hold_each_other_back() -> None:
    repeats = Repeats()
    assert repeats.admit("a", 0) == 0
    assert repeats.admit("b", 0) == 0


def test_memory_is_bounded_and_the_longest_quiet_key_is_forgotten() -> None:
    repeats = Repeats(interval_ns=1000, max_keys=2)
    repeats.admit("a", 0)
    repeats.admit("b", 1)
    repeats.admit("a", 2)  # held back, and so the more recent one
    repeats.admit("c", 3)
    assert repeats.admit("a", 4) is None
    assert repeats.admit("b", 5) == 0


def test_a_clock_that_is_set_back_does_not_silence_a_key() -> None:
    repeats = Repeats()
    repeats.admit("a", 10 * MINUTE_NS)
    assert repeats.admit("a", 0) == 0
