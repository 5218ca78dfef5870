"""Where the roles of a running mesh serve their metrics, as Prometheus reads it from a file.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from urllib.parse import urlsplit

import msgspec


class _Role(msgspec.Struct):
    role: str
    instance: str
    shard: int | None = None
    http: str | None = None


class _Top(msgspec.Struct):
    roles: list[_Role]


class Target(msgspec.Struct, frozen=True):
    """One entry of the file."""

    targets: list[str]
    labels: dict[str, str]


def targets(top: bytes) -> list[Target]:
    """Of what `lfmesh top --json` prints; msgspec.DecodeError for anything else."""
    found = []
    seen = set()
    for role in msgspec.json.decode(top, type=_Top).roles:
        # The workers of a gateway share an address, and each of them answers for all.
        if role.http and role.http not in seen:
            seen.add(role.http)
            labels = {"role": role.role, "service": role.instance}
            if role.shard is not None:
                labels["shard"] = str(role.shard)
            found.append(Target([urlsplit(role.http).netloc], labels))
    return found
