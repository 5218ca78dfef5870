"""Topics of the mesh. Each part ends with a delimiter: `md.1.` is no prefix of `md.10.`, nor `BTC-USD.` of `BTC-USDT.`.

md.<shard>.<product>.<channel>.    market data of one stream
bc.<shard>.                        beacons of the shard's publisher
tm.                                a service's telemetry
rg.                                changes of a registry replica's view
"""

from lfmesh.errors import BadMeshFrame
from lfmesh.types import Channel, StreamKey

TELEMETRY = b"tm."
REGISTRY_CHANGES = b"rg."

_CHANNELS = {str(channel): channel for channel in Channel}


def market_data(shard: int, stream: StreamKey) -> bytes:
    """Topic of one stream."""
    return f"md.{shard}.{stream.product}.{stream.channel}.".encode("ascii")


def market_data_prefix(shard: int) -> bytes:
    """Subscription to every stream of a shard."""
    return f"md.{shard}.".encode("ascii")


def beacon(shard: int) -> bytes:
    """Topic of a shard's beacons, and the subscription to it."""
    return f"bc.{shard}.".encode("ascii")


def parse_market_data(topic: bytes) -> tuple[int, StreamKey]:
    """Shard and stream of a market-data topic; BadMeshFrame if it is none."""
    try:
        kind, shard, product, channel, rest = topic.decode("ascii").split(".")
        if kind == "md" and not rest and product:
            return int(shard), StreamKey(product, _CHANNELS[channel])
    except (ValueError, KeyError):
        pass
    raise BadMeshFrame(f"not a market-data topic: {topic[:80]!r}")
