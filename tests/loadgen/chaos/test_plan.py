"""The deck: repeatable, and everything comes soon."""

import pytest

from lfmesh.errors import ConfigError
from lfmesh.types import Role
from loadgen.chaos.plan import LINK_KINDS, PROCESS_KINDS, SPELLS, VENUE_KINDS, Card, Kind, plan
from loadgen.chaos.topology import TopologyName

BOTH = list(TopologyName)


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan(40, 7, BOTH) == plan(40, 7, BOTH)
    assert plan(40, 7, BOTH) != plan(40, 8, BOTH)


@pytest.mark.parametrize("seed", range(20))
def test_a_short_run_sees_every_kind_and_every_role_struck_in_every_way(seed: int) -> None:
    cards = plan(32, seed, BOTH)
    assert {card.kind for card in cards} == set(Kind)
    struck = {(card.kind, role) for card in cards if card.kind in PROCESS_KINDS for role in card.roles}
    assert struck == {(kind, role) for kind in PROCESS_KINDS for role in Role}
    assert {card.topology for card in cards} == set(BOTH)
    assert [card.number for card in cards] == list(range(1, 33))


def test_the_rounds_of_a_topology_come_together() -> None:
    names = [card.topology for card in plan(30, 3, BOTH)]
    assert names == sorted(names, key=names.index)


def test_two_hundred_rounds_see_every_kind_of_link_in_every_way() -> None:
    cards = plan(200, 1, BOTH)
    links = {
        (card.kind, *sorted(end.split("-")[0] for end in card.target.split("=")))
        for card in cards
        if "=" in card.target
    }
    assert ("cut", "normalizer", "normalizer") in links
    assert ("drop", "gateway", "snapshotter") in links
    assert ("delay", "ingestor", "venue") in links
    assert not any(kind == "drop" and "venue" in ends for kind, *ends in links)
    assert {"active", "standby"} <= {card.target for card in cards}


def test_what_is_drawn_is_within_its_bounds() -> None:
    for card in plan(200, 5, BOTH):
        spell = SPELLS[card.kind]
        assert spell.shortest_s - 0.01 <= card.seconds <= spell.longest_s + 0.01
        assert spell.least <= card.amount <= spell.most
        assert (card.target == "venue") == (card.kind in VENUE_KINDS)


def test_only_some() -> None:
    def chosen(card: Card) -> bool:
        return card.kind in LINK_KINDS and Role.REGISTRY in card.roles

    cards = plan(10, 1, BOTH, lambda kind, target: kind in LINK_KINDS and Role.REGISTRY in target.roles)
    assert len(cards) == 10
    assert all(map(chosen, cards))
    with pytest.raises(ConfigError, match="nothing is left"):
        plan(10, 1, BOTH, lambda _kind, _target: False)
