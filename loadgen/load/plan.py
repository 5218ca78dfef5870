"""Who does what: every client of a run, from the configuration alone, so that processes need not talk about it."""

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from loadgen.load.config import BACKLOGGED, Behaviour, LoadConfig

_ALWAYS_CHECKED = (*BACKLOGGED, Behaviour.FLAPPING)
_TO_COMPARE = 2


class ClientPlan(NamedTuple):
    """One client. `checked`: its positions; `full`: its state, too. `seed` is for what it does by chance."""

    number: int
    behaviour: Behaviour
    products: tuple[str, ...]
    checked: bool
    full: bool
    seed: int
    source: str


def plan(config: LoadConfig, process: int = 0) -> list[ClientPlan]:
    """The clients of one process (from 0), in the order of joining; `config.products` must be known."""
    return [client for client in _all(config) if client.number % config.processes == process]


def _all(config: LoadConfig) -> Iterator[ClientPlan]:
    count = config.clients
    behaviours = _behaviours(config)
    checked = _spread(config.check, count, _TO_COMPARE)
    full = _spread(config.full_check, count)
    zipf = Zipf(len(config.products), config.zipf)
    chance = random.Random(config.seed)  # noqa: S311 - a repeatable choice, no secret
    sources = config.sources or ("",)
    for number, behaviour in enumerate(behaviours):
        seed = chance.getrandbits(32)
        products = tuple(config.products[at] for at in _products(config, zipf, seed))
        watched = number in checked or behaviour in _ALWAYS_CHECKED
        source = sources[number % len(sources)]
        entirely = number in full or behaviour in BACKLOGGED  # these take little, so that costs little
        yield ClientPlan(number, behaviour, products, watched, entirely, seed, source)


def _behaviours(config: LoadConfig) -> list[Behaviour]:
    """What each client does, in an order that mixes them."""
    count = config.clients
    shares = (
        (Behaviour.SLOW, config.slow), (Behaviour.STALLED, config.stalled), (Behaviour.FLAPPING, config.flapping),
    )  # fmt: skip
    some = [behaviour for behaviour, share in shares for _ in range(round(share * count))]
    offences = config.offences
    some += [offences[at % len(offences)] for at in range(round(config.misbehaving * count))]
    if len(some) > count:
        raise ValueError("the shares of slow, stalled, flapping and misbehaving clients come to more than 1")
    some += [Behaviour.GOOD] * (count - len(some))
    random.Random(config.seed).shuffle(some)  # noqa: S311
    return some


def _spread(share: float, count: int, least: int = 1) -> set[int]:
    """So many of `count`, evenly; `least` if any."""
    wanted = min(count, max(least, round(share * count))) if share > 0 else 0
    return {at * count // wanted for at in range(wanted)}


def _products(config: LoadConfig, zipf: "Zipf", seed: int) -> Sequence[int]:
    total = len(config.products)
    each = min(config.products_each, total) or total
    match config.shape:
        case "all":
            return range(total)
        case "same":
            return range(each)
        case "random":
            return zipf.draw(each, random.Random(seed))  # noqa: S311


class Zipf:
    """Draws from 0 .. count-1, where n is drawn with weight 1 / (n + 1) ** exponent."""

    def __init__(self, count: int, exponent: float) -> None:
        self._weights = [1 / (at + 1) ** exponent for at in range(count)]

    def draw(self, count: int, chance: random.Random) -> list[int]:
        """So many different ones, in ascending order; ValueError if there are not so many."""
        if count > len(self._weights):
            raise ValueError(f"{count} different ones of {len(self._weights)}")
        if count * 2 > len(self._weights):
            # Most of them: the smallest of exponential times of their rates, which is the same draw.
            times = [chance.expovariate(weight) for weight in self._weights]
            return sorted(sorted(range(len(times)), key=times.__getitem__)[:count])
        sums = list(accumulate(self._weights))
        drawn: set[int] = set()
        while len(drawn) < count:
            drawn.add(min(bisect(sums, chance.random() * sums[-1]), len(sums) - 1))
        return sorted(drawn)
