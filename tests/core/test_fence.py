from lfmesh.core.fence import Fence


def test_the_first_term_is_new_and_then_the_same() -> None:
    fence = Fence()
    assert [fence.admit(5), fence.admit(5)] == ["newer", "same"]
    assert fence.highest == 5


def test_a_lower_term_is_stale_and_changes_nothing() -> None:
    fence = Fence(9)
    assert fence.admit(8) == "stale"
    assert fence.highest == 9
    assert fence.admit(10) == "newer"
    assert fence.admit(9) == "stale"
