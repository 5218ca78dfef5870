"""What the roles say of themselves, as their /metrics give it: who is whole, and which rungs were needed."""

import asyncio
import http.client
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from lfmesh.types import Role
from loadgen.chaos.topology import Unit

Samples = Mapping[str, float]
"""Value by name without the role's prefix and the labels instance and shard: `recoveries_total{rung="retransmit"}`."""

_TIMEOUT_S = 1.0
_LINE = re.compile(r"lfmesh_([a-z]+)_([a-z0-9_]+)(?:\{(.*)\})? (\S+)")
_OWN_LABELS = re.compile(r'(?:instance|shard)="[^"]*",?')

OPEN: Mapping[Role, tuple[str, ...]] = {
    Role.NORMALIZER: (
        "streams_recovering",
        "products_stale",
        "raw_held",
        "trades_held",
        "holds_open",
        "backfills_open",
    ),
    Role.SNAPSHOTTER: ("streams_gapped", "streams_waiting"),
    Role.GATEWAY: ("streams_gapped",),
}
"""Figures that are above zero while something is not whole."""

RUNGS: Mapping[str, str] = {
    "recoveries_total": "",
    "resumes_total": "resume",
    "replay_requests_total": "replay",
    "resync_requests_total": "resync",
    "backfilled_total": "backfill",
    "backfill_requests_total": "backfill",
    "trades_filled_total": "fill",
    "line_changes_total": "line",
    "takeovers_total": "takeover",
    "stepdowns_total": "stepdown",
    "links_rebuilt_total": "rebuilt",
    "reconnects_total": "reconnect",
    "watchdog_trips_total": "watchdog",
}
"""Counters of the ladder's rungs, and the word for each; of labelled ones the label's value is said, too."""


def parse(text: str) -> dict[str, float]:
    """The samples of one role's /metrics."""
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            labels = _OWN_LABELS.sub("", match[3] or "").strip(",")
            found[f"{match[2]}{{{labels}}}" if labels else match[2]] = float(match[4])
    return found


def scrape(unit: Unit) -> dict[str, float] | None:
    """A role's samples now; None while it does not answer. Blocks."""
    parts = urlsplit(unit.http)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return parse(body.decode()) if answer.status == http.client.OK else None


async def scrape_all(units: Iterable[Unit]) -> dict[str, dict[str, float] | None]:
    """Every unit's samples, by its name."""
    units = list(units)
    found = await asyncio.gather(*(asyncio.to_thread(scrape, unit) for unit in units))
    return {unit.name: samples for unit, samples in zip(units, found, strict=True)}


def unwhole(unit: Unit, samples: Samples | None) -> list[str]:
    """Why a role is not whole, by its own figures."""
    if samples is None:
        return [f"{unit.name} does not answer"]
    found = [] if samples.get("ready", 1.0) else [f"{unit.name} is not ready"]
    still = [name for name in OPEN.get(unit.role, ()) if samples.get(name, 0.0) > 0]
    return found + [f"{unit.name}: {name} {samples[name]:g}" for name in still]


def rungs(before: Mapping[str, Samples | None], after: Mapping[str, Samples | None]) -> Counter[str]:
    """How often each rung was needed between two scrapes of all roles. A counter that fell is a new process's."""
    found: Counter[str] = Counter()
    for name, now in after.items():
        earlier = before.get(name) or {}
        for sample, value in (now or {}).items():
            word = _rung(sample)
            if word is None:
                continue
            was = earlier.get(sample, 0.0)
            more = value - was if value >= was else value
            if more > 0:
                found[word] += int(more)
    return found


def _rung(sample: str) -> str | None:
    name, _, labels = sample.partition("{")
    if name not in RUNGS:
        return None
    value = labels.partition('="')[2].partition('"')[0]
    return " ".join(word for word in (RUNGS[name], value) if word)


def active_normalizer(units: Iterable[Unit], samples: Mapping[str, Samples | None]) -> Unit | None:
    """Which normalizer of a pair publishes now: the one that says so, of two the one with the higher term."""
    claims = [(unit, samples[unit.name] or {}) for unit in units if unit.role is Role.NORMALIZER]
    active = [(unit, found) for unit, found in claims if found.get("active", 1.0 if "term" in found else 0.0)]
    return max(active, key=lambda claim: claim[1].get("term", 0.0))[0] if active else None
