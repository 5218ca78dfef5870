"""A data folder as a mesh leaves it: segments in the folder store, the last messages in a journal."""

from pathlib import Path

from lfmesh.config import Config
from lfmesh.store.opening import open_objects
from lfmesh.types import CHANNELS, StreamKey
from tests.archive.market import Market, Step
from tests.archive.shelf import Shelf, journal, upload

STEPS = [Step("inc", 100 * (pick % 7), pick) for pick in range(60)]


def markets(*products: str) -> dict[StreamKey, Market]:
    """Each product's three streams, an epoch and a hole in each."""
    found = {}
    for product in products:
        for channel in CHANNELS:
            market = Market(channel, product)
            market.play([*STEPS[:30], Step("epoch", 0, 0), *STEPS[30:50], Step("lose", 0, 1), *STEPS[50:]])
            found[market.stream] = market
    return found


def keep(data_dir: Path, known: dict[StreamKey, Market]) -> None:
    """Put what was published into the folder."""
    shelf = Shelf()
    for stream, market in known.items():
        upload(shelf, stream, market.entries[:40])
        journal(data_dir, market.entries[35:])
    objects = open_objects(Config().override({"mesh": {"data_dir": data_dir}}))
    for key, body in shelf.objects.items():
        objects.put(key, body)
    objects.close()
