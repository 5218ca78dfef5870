"""What goes wrong in which round: a deck of (fault, target) that is dealt so that everything comes soon.

    kill restart pause          a process: -9, SIGTERM, SIGSTOP … SIGCONT
    cut delay drop              a link between two processes: silence, latency, whole messages that vanish
    partition                   one half of the mesh hears nothing of the other
    lose duplicate reorder garble cross stall disconnect away refuse limit fail slow hide
                                the exchange: see `loadgen.chaos.venue`

Pure: the same seed gives the same plan. Each draw takes a card that adds most to what has been covered (kinds before
roles, roles before pairs of both, then topologies), and chance decides among equals: 32 rounds see every kind, and
every role killed, restarted and paused.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from lfmesh.errors import ConfigError
from lfmesh.types import Role
from loadgen.chaos.topology import VENUE, Topology, TopologyName, Unit, build, sockets_needed


class Kind(StrEnum):
    """What goes wrong."""

    KILL = "kill"
    RESTART = "restart"
    PAUSE = "pause"
    CUT = "cut"
    DELAY = "delay"
    DROP = "drop"
    PARTITION = "partition"
    LOSE = "lose"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    GARBLE = "garble"
    CROSS = "cross"
    STALL = "stall"
    DISCONNECT = "disconnect"
    AWAY = "away"
    REFUSE = "refuse"
    LIMIT = "limit"
    FAIL = "fail"
    SLOW = "slow"
    HIDE = "hide"


PROCESS_KINDS = (Kind.KILL, Kind.RESTART, Kind.PAUSE)
LINK_KINDS = (Kind.CUT, Kind.DELAY, Kind.DROP)
VENUE_KINDS = tuple(kind for kind in Kind if kind not in (*PROCESS_KINDS, *LINK_KINDS, Kind.PARTITION))

ACTIVE, STANDBY = "active", "standby"
"""Which normalizer of a pair: known only when the time has come."""


class Spell(NamedTuple):
    """Bounds of what is drawn for a kind: how long it lasts, in seconds, and how strong it is (see `Card.amount`)."""

    shortest_s: float
    longest_s: float
    least: float = 0.0
    most: float = 0.0


SPELLS: dict[Kind, Spell] = {
    Kind.KILL: Spell(0.1, 0.6),
    Kind.RESTART: Spell(0.0, 0.3),
    Kind.PAUSE: Spell(0.5, 4.0),
    Kind.CUT: Spell(0.5, 4.0),
    Kind.DELAY: Spell(1.0, 3.0, 0.02, 0.4),
    Kind.DROP: Spell(1.0, 3.0, 0.01, 0.3),
    Kind.PARTITION: Spell(0.5, 4.0),
    Kind.LOSE: Spell(0.5, 3.0, 0.002, 0.05),
    Kind.DUPLICATE: Spell(0.5, 3.0, 0.01, 0.3),
    Kind.REORDER: Spell(0.5, 3.0, 0.01, 0.3),
    Kind.GARBLE: Spell(0.5, 3.0, 0.001, 0.02),
    Kind.CROSS: Spell(0.2, 1.0, 1, 3),
    Kind.STALL: Spell(0.5, 4.0),
    Kind.DISCONNECT: Spell(0.0, 0.0),
    Kind.AWAY: Spell(0.5, 3.0),
    Kind.REFUSE: Spell(0.5, 3.0),
    Kind.LIMIT: Spell(0.5, 2.5, 0.01, 0.05),
    Kind.FAIL: Spell(0.5, 2.5, 0.01, 0.05),
    Kind.SLOW: Spell(0.5, 2.5, 0.1, 1.5),
    Kind.HIDE: Spell(0.5, 2.5, 20, 400),
}


class Card(NamedTuple):
    """One round. `target` is an instance, a link, `active` or `standby`, or the exchange; `roles` are those it touches.

    `seconds`: how long it lasts (of a kill or restart: how long the process is away). `amount`: the share of messages
    or frames, the delay in seconds, or the number of products or trades.
    """

    number: int
    topology: TopologyName
    kind: Kind
    target: str
    roles: frozenset[Role]
    seconds: float
    amount: float
    seed: int


class Target(NamedTuple):
    """What a fault can be aimed at. `label` tells targets of one sort from another: roles, not instances."""

    label: str
    instances: tuple[str, ...]
    roles: frozenset[Role]


def targets_of(kind: Kind, topology: Topology) -> list[Target]:
    """Everything that this kind can be aimed at."""
    if kind in PROCESS_KINDS:
        return list(_processes(topology))
    if kind in LINK_KINDS:
        return [target for target in _links(topology) if kind is not Kind.DROP or VENUE not in target.label]
    if kind is Kind.PARTITION:
        return [Target("halves", ("halves",), frozenset(unit.role for unit in half_of(topology)))]
    return [Target(VENUE, (VENUE,), frozenset())]


def half_of(topology: Topology) -> list[Unit]:
    """The half of the mesh that a partition takes away: the second of everything that there are two of."""
    return [unit for unit in topology.units if unit.name.endswith(("-1", "b", "-B"))]


def _processes(topology: Topology) -> Iterator[Target]:
    for role in Role:
        names = tuple(unit.name for unit in topology.of(role))
        if role is Role.NORMALIZER and topology.name is TopologyName.PAIRS:
            yield Target(f"{role} {ACTIVE}", (ACTIVE,), frozenset((role,)))
            yield Target(f"{role} {STANDBY}", (STANDBY,), frozenset((role,)))
        else:
            yield Target(str(role), names, frozenset((role,)))


def _links(topology: Topology) -> Iterator[Target]:
    roles = {unit.name: unit.role for unit in topology.units}
    found: dict[str, list[str]] = {}
    touched: dict[str, frozenset[Role]] = {}
    for link in topology.links():
        ends = link.split("=")
        label = "=".join(sorted(str(roles.get(end, end)) for end in ends))
        found.setdefault(label, []).append(link)
        touched[label] = frozenset(roles[end] for end in ends if end in roles)
    for label, links in sorted(found.items()):
        yield Target(label, tuple(links), touched[label])


# Dealing --------------------------------------------------------------------------------------------------------

Feature = tuple[str, ...]
_NEW_KIND, _NEW_ROLE, _NEW_PAIR, _NEW_HERE, _NEW_TARGET = 1000, 300, 100, 30, 10


class _Choice(NamedTuple):
    topology: TopologyName
    kind: Kind
    target: Target

    def features(self) -> dict[Feature, int]:
        """What this choice covers, and what each is worth while it is new."""
        found: dict[Feature, int] = {(self.kind,): _NEW_KIND}
        if self.kind in PROCESS_KINDS:
            found |= {("role", role): _NEW_ROLE for role in self.target.roles}
            found |= {("hit", self.kind, role): _NEW_PAIR for role in self.target.roles}
        found[self.topology, self.kind] = _NEW_HERE
        found[self.topology, self.target.label, "process" if self.kind in PROCESS_KINDS else "link"] = _NEW_HERE
        found["aimed", self.kind, self.target.label] = _NEW_TARGET
        return found


def plan(
    rounds: int,
    seed: int,
    topologies: Sequence[TopologyName],
    only: Callable[[Kind, Target], bool] = lambda _kind, _target: True,
) -> list[Card]:
    """The rounds, those of one topology together. ConfigError if `only` leaves nothing."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
    choices = {name: [choice for choice in _choices(name) if only(choice.kind, choice.target)] for name in topologies}
    usable = [name for name in topologies if choices[name]]
    if not usable:
        raise ConfigError("nothing is left to do: no fault of that kind can be aimed at that")
    covered: set[Feature] = set()
    drawn: list[_Choice] = []
    for number in range(rounds):
        choice = _best(choices[usable[number % len(usable)]], covered, chance)
        covered.update(choice.features())
        drawn.append(choice)
    cards = []
    for name in usable:
        here = [choice for choice in drawn if choice.topology is name]
        chance.shuffle(here)
        cards += [_card(choice, chance) for choice in here]
    return [card._replace(number=number) for number, card in enumerate(cards, 1)]


def _choices(name: TopologyName) -> Iterator[_Choice]:
    topology = build(name, (), range(1, sockets_needed(name) + 1))
    for kind in Kind:
        for target in targets_of(kind, topology):
            yield _Choice(name, kind, target)


def _best(choices: Sequence[_Choice], covered: set[Feature], chance: random.Random) -> _Choice:
    def gain(choice: _Choice) -> int:
        return sum(worth for feature, worth in choice.features().items() if feature not in covered)

    most = max(map(gain, choices))
    return chance.choice([choice for choice in choices if gain(choice) == most])


def _card(choice: _Choice, chance: random.Random) -> Card:
    spell = SPELLS[choice.kind]
    amount = chance.uniform(spell.least, spell.most)
    return Card(
        number=0,
        topology=choice.topology,
        kind=choice.kind,
        target=chance.choice(choice.target.instances),
        roles=choice.target.roles,
        seconds=round(chance.uniform(spell.shortest_s, spell.longest_s), 2),
        amount=round(amount) if spell.least >= 1 else round(amount, 4),
        seed=chance.randrange(2**31),
    )
