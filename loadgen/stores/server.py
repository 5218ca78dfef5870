"""One store server on this machine: started, waited for until it answers, ended."""

import http.client
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from lfmesh.errors import LfmeshError
from loadgen.stores.process import Process, spawn

ACCESS_KEY, SECRET_KEY, REGION = "lfmesh", "lfmeshsecret", "us-east-1"
"""Of both servers; DynamoDB Local takes any, SeaweedFS these alone."""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a process needs to use them."""

_PORTS = range(20_000, 32_000)
"""Below those that the system gives away by itself: a killed server finds its port free when it is started again."""
_START_S = 90.0
_PAUSE_S = 0.02
_LOG_LINES = 5


class ServerFailed(LfmeshError):
    """A store server that can't be had, or did not start."""


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started: `command` in `folder`, where also its log is; it answers at `url`.

    `ready_url`, if any, must answer 200 before it can do its work. `leavings` are files outside of the folder that it
    may leave behind. `patience_s` is how long it usually needs to end in order.
    """

    name: str
    url: str
    command: Sequence[str]
    folder: Path
    patience_s: float
    environment: dict[str, str] = field(default_factory=dict)
    leavings: Sequence[Path] = ()
    ready_url: str = ""

    def start(self) -> Process:
        """Start it and wait until it answers; ServerFailed."""
        log = self.folder / f"{self.name}.log"
        process = spawn(list(self.command), self.folder, log, self.environment)
        deadline = time.monotonic() + _START_S
        while not self._ready():
            if not process.alive() or time.monotonic() > deadline:
                process.end(0)
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
                raise ServerFailed(f"{self.name} did not start; {log} ends: {' | '.join(lines)}")
            time.sleep(_PAUSE_S)
        return process

    def end(self, process: Process, patience_s: float | None = None) -> None:
        """End it, with time to do so in order (None: what it usually needs), and remove what it leaves elsewhere."""
        process.end(self.patience_s if patience_s is None else patience_s)
        for path in self.leavings:
            path.unlink(missing_ok=True)

    def _ready(self) -> bool:
        return _answer(self.url) is not None and (not self.ready_url or _answer(self.ready_url) == HTTPStatus.OK)


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ServerFailed(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def _answer(url: str) -> int | None:
    """The status of the answer to a request; None if there is none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2.0)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return answer.status
    finally:
        connection.close()
