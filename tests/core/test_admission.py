import random
from collections import Counter

import pytest

from lfmesh.core.admission import Admissions, party_of


def test_past_the_total_everybody_is_refused_until_somebody_leaves() -> None:
    admissions = Admissions(2, 5)
    assert [admissions.admit(address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3")] == ["", "", "full"]
    admissions.leave("192.0.2.1")
    assert [admissions.admit("192.0.2.3"), admissions.admit("192.0.2.4")] == ["", "full"]
    assert admissions.clients == 2


def test_one_address_can_t_take_more_than_its_share() -> None:
    admissions = Admissions(10, 2)
    assert [admissions.admit("192.0.2.1") for _ in range(4)] == ["", "", "address", "address"]
    assert admissions.admit("192.0.2.2") == ""
    assert admissions.clients == 3
    admissions.leave("192.0.2.1")
    assert [admissions.admit("192.0.2.1") for _ in range(2)] == ["", "address"]


def test_a_refused_address_takes_no_place_of_the_total() -> None:
    admissions = Admissions(2, 1)
    assert [admissions.admit("192.0.2.1") for _ in range(3)] == ["", "address", "address"]
    assert admissions.admit("192.0.2.2") == ""


def test_without_a_bound_for_one_address_it_may_take_all() -> None:
    admissions = Admissions(100)
    assert {admissions.admit("192.0.2.1") for _ in range(100)} == {""}
    assert admissions.admit("192.0.2.1") == "full"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:c000:201", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::1", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("a:b", "a:c", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (party_of(one) == party_of(other)) is same
    admissions = Admissions(10, 1)
    assert admissions.admit(one) == ""
    assert admissions.admit(other) == ("address" if same else "")


def test_bounds_hold_and_nothing_is_left_over_whatever_comes_and_goes() -> None:
    draw = random.Random(7)
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"]
    admissions = Admissions(7, 3)
    inside: list[str] = []
    for _ in range(3000):
        if inside and draw.random() < 0.45:
            admissions.leave(inside.pop(draw.randrange(len(inside))))
            continue
        address = draw.choice(addresses)
        of_party = Counter(map(party_of, inside))[party_of(address)]
        expected = "full" if len(inside) == 7 else "address" if of_party == 3 else ""
        assert admissions.admit(address) == expected
        if not expected:
            inside.append(address)
        assert admissions.clients == len(inside)
    for address in inside:
        admissions.leave(address)
    assert admissions.clients == 0
    assert [admissions.admit(address) for address in addresses[:3] * 2] == [""] * 6
