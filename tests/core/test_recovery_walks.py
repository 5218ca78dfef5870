"""Random walks through the same mesh as `test_recovery_mesh`: no shrinking, but a thousand times as many histories.

A failure names its seed. `make soak` walks farther.
"""

import random

import pytest

from tests.core.model_mesh import KEYS, Fate, Mesh, Mode

PUBLISHERS = 6
ROUNDS = 8
ACTIONS = {
    "publish": 8, "beacon": 3, "deliver late": 3, "ask": 4, "serve": 4, "answer": 4, "wait": 3,
    "anybody publishes": 3, "serve badly": 2, "answer badly": 2,
    "open epoch": 1, "take over": 1, "partition": 1, "store": 1, "restart": 1, "settle": 1,
}  # fmt: skip
NETWORKS: tuple[tuple[Fate, ...], ...] = (
    ("arrive", "arrive", "arrive", "arrive", "arrive", "arrive", "arrive", "lose", "wait", "twice"),
    ("arrive", "arrive", "arrive", "lose", "lose", "lose", "wait", "wait", "twice"),
    ("arrive", "wait", "wait"),
)
MODES: tuple[Mode, ...] = ("continue", "continue", "open", "unaware")


def act(mesh: Mesh, action: str, dice: random.Random, network: tuple[Fate, ...]) -> None:  # noqa: C901, PLR0912 - a table
    publisher, key = dice.randrange(len(mesh.publishers)), dice.choice(KEYS)
    speaker = mesh.publishers[publisher]
    fates = dice.choice(network), dice.choice(network)
    match action:
        case "publish":
            mesh.send(mesh.publishers.index(mesh.active), mesh.active.publish(key, dice.randint(1, 3)), fates)
        case "anybody publishes":
            mesh.send(publisher, speaker.publish(key, dice.randint(0, 3)), fates)
        case "open epoch":
            mesh.send(publisher, speaker.open(key, dice.randint(0, 2)), fates)
        case "beacon":
            mesh.send(publisher, speaker.beacon(full=dice.random() < 0.5), fates)
        case "deliver late":
            mesh.deliver(publisher, dice.randrange(2), dice.randrange(4))
        case "take over" if len(mesh.publishers) < PUBLISHERS:
            mesh.take_over(
                publisher, (dice.choice(MODES), dice.choice(MODES)), dice.randrange(5),
                with_ring=dice.random() < 0.5, same_term=dice.random() < 0.25, instance=dice.randint(1, 9),
            )  # fmt: skip
        case "partition":
            pairs = [(one, consumer) for one in range(len(mesh.publishers)) for consumer in (0, 1)]
            mesh.cut = {pair for pair in pairs if dice.random() < dice.choice((0, 0.6))}
        case "ask":
            mesh.ask(dice.randrange(2))
        case "serve":
            mesh.serve()
        case "serve badly":
            mesh.serve(dice.randrange(9), lose=dice.random() < 0.5)
        case "answer":
            mesh.answer(dice.randrange(4))
        case "answer badly":
            lose = dice.random() < 0.5
            mesh.answer(lose=lose, keep=not lose)
        case "wait":
            mesh.tick(dice.choice((1, 3, 6, 20)) * 100_000_000)
        case "store":
            mesh.consumers[0].store()
        case "restart":
            mesh.consumers[dice.randrange(2)].restart()
        case "settle":
            mesh.settle(ROUNDS)
        case _:
            assert action == "take over", "there are enough"


def walk(seed: int, steps: int) -> Mesh:
    dice = random.Random(seed)
    mesh = Mesh(dice.choice((3, 12, 1000)))
    network = dice.choice(NETWORKS)
    rare = [action for action, weight in ACTIONS.items() if weight <= 3]
    left_out = {action for action in rare if dice.random() < 0.4}  # else no history is long without each of them
    actions = [action for action, weight in ACTIONS.items() if action not in left_out for _ in range(weight)]
    for _ in range(steps):
        act(mesh, dice.choice(actions), dice, network)
    mesh.settle(ROUNDS)
    return mesh


def walk_all(seeds: range, steps: int) -> None:
    counted = dict.fromkeys(("late", "retransmit", "snapshot", "takeover", "replaced", "overflow", "stale term"), 0)
    for seed in seeds:
        try:
            mesh = walk(seed, steps)
        except AssertionError as error:
            raise AssertionError(f"walk {seed} of {steps} steps") from error
        for what in counted:
            counted[what] += sum(consumer.counted[what] for consumer in mesh.consumers)
    assert min(counted.values()) > len(seeds) / 20, f"walks that leave out what they are for: {counted}"


def test_wherever_it_walks_the_history_is_gapless_and_the_end_is_the_publishers() -> None:
    walk_all(range(1000), 60)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_same_for_long() -> None:
    walk_all(range(1_000_000, 1_060_000), 100)
