"""The whole run: for each topology a mesh, the auditing clients, and the rounds that the plan has for it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from loadgen.chaos.clients import Clients, kinds_of
from loadgen.chaos.mesh import Mesh, Spec
from loadgen.chaos.plan import Card
from loadgen.chaos.rounds import Player, Result

_READY_S = 30.0
_WARM_S = 2.0
"""The market plays so long before the first round, so that every stream has begun."""

Say = Callable[[str], None]
Done = Callable[[Result], None]


async def run(cards: Sequence[Card], spec: Spec, folder: Path, say: Say, done: Done) -> None:
    """Play the cards; `done` gets each round's result as soon as it is there. LfmeshError where a mesh can't start.

    Each topology that the cards name has a mesh of its own, as `spec` says otherwise.
    """
    for topology, here in groupby(cards, key=lambda card: card.topology):
        place = folder / topology
        place.mkdir(parents=True, exist_ok=True)
        spec = replace(spec, topology=topology)
        async with Mesh(spec, place) as mesh:
            say(f"{topology}: {len(mesh.topology.units)} processes, {spec.rate:,} messages/s, {mesh.network}; {place}")
            await mesh.venue.start()
            await mesh.ready(_READY_S)
            async with Clients(kinds_of(mesh.gateways, mesh.topology.products, spec.seed)) as clients:
                player = Player(mesh, clients)
                try:
                    await asyncio.sleep(_WARM_S)
                    await player.settle(_READY_S)
                    for card in here:
                        done(await player.play(card))
                finally:
                    player.end()
