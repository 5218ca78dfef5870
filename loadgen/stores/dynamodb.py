"""DynamoDB Local, the real one, from the npm package `amplify-dynamodb-simulator` (AWS's own); needs Java 17.

The package is fetched once, by `npm pack`, into the user's cache folder.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadgen.stores.server import Server, ServerFailed, free_ports

PACKAGE = "amplify-dynamodb-simulator"
VERSION = "2.9.30"
"""Holds DynamoDB Local 1.25."""
_SHA512 = (
    "c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c52804398"
    "36665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1"
)
_FETCH_S = 300.0
_LAUNCHER = Path(__file__).with_name("Loopback.java")
_QUICK = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Starts in half the time; it is there for tests."""


def dynamodb_server(folder: Path, *, memory: bool = False) -> Server:
    """A server that keeps its tables in `folder`, or in memory alone; ServerFailed where it can't be had."""
    java = _required("java", "Java 17 or newer")
    home = fetched()
    launcher = _compiled(java, home)
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    command = [
        java, *_QUICK, f"-Djava.library.path={home / 'DynamoDBLocal_lib'}", "-cp", f"{launcher}:{_class_path(home)}",
        "Loopback", "-sharedDb", "-disableTelemetry", "-port", str(port),
        *(["-inMemory"] if memory else ["-dbPath", str(folder)]),
    ]  # fmt: skip
    return Server("dynamodb", f"http://127.0.0.1:{port}", command, folder, 5.0, {"DDB_LOCAL_TELEMETRY": "0"})


def fetched() -> Path:
    """The folder that holds DynamoDB Local, fetched if need be; ServerFailed."""
    home = _cache() / f"dynamodb-local-{VERSION}"
    if home.is_dir():
        return home
    npm = _required("npm", f"npm, to fetch DynamoDB Local (the package {PACKAGE})")
    with _alone(), tempfile.TemporaryDirectory(dir=_cache()) as scratch:
        if not home.is_dir():
            package = _pack(npm, Path(scratch))
            with tarfile.open(package) as archive:
                archive.extractall(scratch, filter="data")
            (Path(scratch) / "package" / "emulator").rename(home)
    return home


def _pack(npm: str, scratch: Path) -> Path:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"],
            cwd=scratch, capture_output=True, text=True, timeout=_FETCH_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"npm did not fetch {PACKAGE} within {_FETCH_S:g} s") from error
    packages = list(scratch.glob("*.tgz"))
    if done.returncode or not packages:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServerFailed(f"npm can't fetch {PACKAGE}@{VERSION}: {last}")
    with packages[0].open("rb") as body:
        digest = hashlib.file_digest(body, "sha512").hexdigest()
    if digest != _SHA512:
        raise ServerFailed(f"what npm brought as {PACKAGE}@{VERSION} is not what it should be (SHA-512 {digest})")
    return packages[0]


def _compiled(java: str, home: Path) -> Path:
    """The folder of the compiled launcher; compiled once for each version of its text."""
    text = _LAUNCHER.read_bytes()
    place = _cache() / f"launcher-{VERSION}-{hashlib.sha256(text).hexdigest()[:16]}"
    if place.is_dir():
        return place
    with _alone(), tempfile.TemporaryDirectory(dir=_cache()) as scratch:
        if not place.is_dir():
            made = Path(scratch) / "made"
            done = subprocess.run(  # noqa: S603 - our own command
                [java, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-proc:none", "--release", "17",
                 "-cp", _class_path(home), "-d", str(made), str(_LAUNCHER)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                last = ((done.stderr or done.stdout).strip().splitlines() or ["no reason given"])[0]
                raise ServerFailed(f"{_LAUNCHER.name} can't be compiled (a JDK 17 or newer is needed): {last}")
            made.rename(place)
    return place


def _class_path(home: Path) -> str:
    return f"{home / 'DynamoDBLocal.jar'}:{home / 'DynamoDBLocal_lib' / '*'}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "lfmesh"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time, of those that would fetch or compile."""
    with (_cache() / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _required(program: str, what: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise ServerFailed(f"{what} is not installed")
    return found
