"""The real stores for tests: DynamoDB Local and an S3 server (SeaweedFS), from `loadgen.stores`.

    endpoint = s3()                     one server for the whole test run, shared by its processes, ended with the last
    with s3(private=True) as endpoint:  one of the test's own, that it may `kill` and `start` again

Tests of the shared servers use tables and buckets of their own: `endpoint.config(tmp_path)` names new ones. Where Java
or the npm package (DynamoDB) or the program (S3) can't be had, the test is skipped with the reason.

    TMP/lfmesh-stores-USER/lock            held while somebody comes or goes
    TMP/lfmesh-stores-USER/RUN/users/PID   processes of a test run; when all are gone its servers are ended
    TMP/lfmesh-stores-USER/RUN/NAME.json   a server that was started, NAME/ its data and log
"""

import atexit
import fcntl
import getpass
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lfmesh.config import Config
from loadgen.stores.dynamodb import dynamodb_server
from loadgen.stores.process import Process, process
from loadgen.stores.seaweed import s3_server
from loadgen.stores.server import ENVIRONMENT, REGION, Server, ServerFailed

_RUNS = Path(tempfile.gettempdir()) / f"lfmesh-stores-{getpass.getuser()}"
_NO_OTHERS = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


class _Started(msgspec.Struct, frozen=True):
    url: str
    process: Process
    leavings: list[str]

    def end(self) -> None:
        self.process.end(0)
        for name in self.leavings:
            Path(name).unlink(missing_ok=True)


class Endpoint:
    """A running server. `environment` is what a process needs to use it, and it has no other credentials."""

    def __init__(self, kind: str, url: str, server: Server | None = None) -> None:
        self.kind = kind
        self.url = url
        self.environment = {**ENVIRONMENT, **_NO_OTHERS}
        self._server = server
        self._started: _Started | None = None

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self.kill()
            shutil.rmtree(self._server.folder, ignore_errors=True)

    def start(self) -> None:
        """Start a private server (again), at its address and with the data it had; returns when it answers."""
        assert self._server is not None, "the shared server is not a test's to start"
        assert self._started is None, "it runs"
        self._started = _start(self._server)

    def kill(self) -> None:
        """Kill a private server, as a crash would; idempotent."""
        assert self._server is not None, "the shared server is not a test's to kill"
        if self._started is not None:
            self._started.end()
            self._started = None

    def store(self) -> dict[str, Any]:
        """Keys of the configuration's section `store` that lead here, with the name of a new table or bucket."""
        name = f"test-{secrets.token_hex(8)}"
        if self.kind == "dynamodb":
            return {"state": "dynamodb", "dynamodb_endpoint": self.url, "table": name, "region": REGION}
        return {"objects": "s3", "s3_endpoint": self.url, "path_style": True, "bucket": name, "region": REGION}

    def config(self, data_dir: Path, **store: object) -> Config:
        """A configuration that uses it; `store` replaces keys of that section."""
        return Config().override({"mesh": {"data_dir": data_dir}, "store": {**self.store(), **store}})


def dynamodb(*, private: bool = False) -> Endpoint:
    """DynamoDB Local; the shared one keeps its tables in memory, a private one on disk."""
    return _private("dynamodb", dynamodb_server) if private else _shared("dynamodb")


def s3(*, private: bool = False) -> Endpoint:
    """An S3 server."""
    return _private("s3", s3_server) if private else _shared("s3")


def use(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, **environment: str) -> None:
    """Let this process use an endpoint, with no credentials but its own; `environment` replaces some of that."""
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    for name, value in (endpoint.environment | environment).items():
        monkeypatch.setenv(name, value)


def release() -> None:
    """This process needs no server any more; the last one of the run ends them. Called when a process ends."""
    if _run_folder.cache_info().currsize:
        folder = _run_folder()
        _run_folder.cache_clear()
        _shared.cache_clear()
        with _locked(_RUNS / "lock"):
            _user(folder).unlink(missing_ok=True)
            _end_if_unused(folder)


# One server a run --------------------------------------------------------------------------------------------------


def _private(kind: str, build: Callable[[Path], Server]) -> Endpoint:
    try:
        server = build(_run_folder() / f"{kind}-{secrets.token_hex(4)}")
        endpoint = Endpoint(kind, server.url, server)
        endpoint.start()
    except ServerFailed as error:
        pytest.skip(str(error))
    return endpoint


@cache
def _shared(kind: str) -> Endpoint:
    folder = _run_folder()
    with _locked(folder / f"{kind}.lock"):  # others of the run wait for it
        known = folder / f"{kind}.json"
        if known.exists():
            return Endpoint(kind, msgspec.json.decode(known.read_bytes(), type=_Started).url)
        try:
            server = dynamodb_server(folder / kind, memory=True) if kind == "dynamodb" else s3_server(folder / kind)
            return Endpoint(kind, _start(server).url)
        except ServerFailed as error:
            pytest.skip(str(error))


def _start(server: Server) -> _Started:
    """Start a server, and note it down so that it is ended whatever becomes of this process."""
    started = _Started(server.url, server.start(), [str(path) for path in server.leavings])
    server.folder.with_suffix(".json").write_bytes(msgspec.json.encode(started))
    return started


@cache
def _run_folder() -> Path:
    """The folder of this test run, of which this process is a user from now on. What killed runs left is ended."""
    _RUNS.mkdir(mode=0o700, exist_ok=True)
    folder = _RUNS / os.environ.get("PYTEST_XDIST_TESTRUNUID", f"pid-{os.getpid()}")
    with _locked(_RUNS / "lock"):
        for left in [path for path in _RUNS.iterdir() if path.is_dir()]:
            _end_if_unused(left)
        own = process(os.getpid())
        _user(folder).parent.mkdir(parents=True, exist_ok=True)
        _user(folder).write_bytes(msgspec.json.encode(own))
    atexit.register(release)
    return folder


def _user(folder: Path) -> Path:
    return folder / "users" / str(os.getpid())


def _end_if_unused(folder: Path) -> None:
    users = [msgspec.json.decode(path.read_bytes(), type=Process) for path in folder.glob("users/*")]
    if any(user.alive() for user in users):
        return
    for path in folder.glob("*.json"):
        msgspec.json.decode(path.read_bytes(), type=_Started).end()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
