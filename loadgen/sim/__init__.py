"""The exchange simulator: Coinbase Exchange's WebSocket feed and REST API on one port, from a market model or a tape.

    async with serve(SimConfig(product_count=20, rate_msgs_s=5000)) as sim:
        ...  # connect to sim.ws_url, ask sim.rest_url, compare with sim.truth("BTC-USD")

Its parts: `market` (the model), `model_feed` and `tape_feed` (what plays), `desk`, `session` and `outlet` (who
listens), `rest`, `control`, `faults` with `impair` and `faultboard`, and `server` that puts them together.
"""

from loadgen.sim.audience import VenueChannel
from loadgen.sim.catalog import products
from loadgen.sim.config import SimConfig
from loadgen.sim.faults import FAULT_KINDS, Fault, FaultKind
from loadgen.sim.feed import Truth
from loadgen.sim.inject import BAD_FRAMES
from loadgen.sim.server import Simulator, run, serve

__all__ = [
    "BAD_FRAMES",
    "FAULT_KINDS",
    "Fault",
    "FaultKind",
    "SimConfig",
    "Simulator",
    "Truth",
    "VenueChannel",
    "products",
    "run",
    "serve",
]
