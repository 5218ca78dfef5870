from lfmesh.core.fence import Fence


def test_the_first_term_is_new_and_then_the_same() -> None:
    fence = Fence()
    assert [fence.admit(5), fence.admit(5)] == ["newer", "same"]
    assert fence.highest == 5


def test_a_lower_term_is_stale_and_changes_nothing() -> None:
    fence = Fence(9)
    assert fence.admit(8) == "stale"
    assert fence.highest == 9
    assert fence.admit(9, 5) == "same", "whose term it is shows with its first message"
    assert fence.admit(10) == "newer"
    assert fence.admit(9) == "stale"


def test_of_two_with_one_term_the_higher_instance_is_in_force() -> None:
    fence = Fence()
    assert [fence.admit(5, 3), fence.admit(5, 2), fence.admit(5, 3)] == ["newer", "stale", "same"]
    assert fence.admit(5) == "same", "an answer that does not say whose it is"
    assert [fence.admit(5, 4), fence.admit(5, 3), fence.admit(6, 1)] == ["newer", "stale", "newer"]
    assert (fence.highest, fence.instance) == (6, 1)
