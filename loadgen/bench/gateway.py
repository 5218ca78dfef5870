"""The gateway under test: the process that `lfmesh gateway` starts, told nothing but who its neighbours are."""

import json
import re
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from loadgen.bench.process import Program, cpu_seconds, free_port, listening, rss_bytes

_sample = re.compile(r"^lfmesh_gateway_(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


class Gateway:
    """A running gateway process."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    @property
    def url(self) -> str:
        """Of its HTTP side."""
        return f"http://127.0.0.1:{self.port}"

    def figures(self) -> dict[str, float]:
        """Its metrics, those with labels added up; asking costs it a millisecond or so."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
            found: dict[str, float] = {}
            for name, value in _sample.findall(answer.read().decode()):
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def cpu_s(self) -> float:
        """Processor time so far."""
        return cpu_seconds(self.pid)

    def rss(self) -> int:
        """Resident memory in bytes."""
        return rss_bytes(self.pid)


def environment(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Configuration as the variables that every command reads."""
    return {
        f"LFMESH_{section.upper()}__{key.upper()}": value if isinstance(value, str) else json.dumps(value)
        for section, keys in sections.items()
        for key, value in keys.items()
    }


@contextmanager
def gateway(peers: Sequence[Mapping[str, Any]], products: Sequence[str], **section: object) -> Iterator[Gateway]:
    """Start one with these neighbours and keys of its section; it is ended at the end.

    Pings and heartbeats are off, because the counting clients answer and tell them apart as little as anything else.
    """
    port = free_port()
    changed = environment(
        {
            "mesh": {"products": list(products), "shards": 1},
            "registry": {"static_peers": list(peers)},
            "gateway": {"port": port, "heartbeat_interval_s": 60, "ping_interval_s": 600, "drain_s": 0.2, **section},
            "log": {"level": "error"},
        }
    )
    with Program([sys.executable, "-m", "lfmesh.cli", "gateway"], changed) as process:
        process.until(lambda: listening(port), "the gateway to listen")
        here = Gateway(process.pid, port)
        process.until(lambda: here.figures().get("shards_attached", 0) == 1, "the gateway to hear its neighbours")
        yield here
