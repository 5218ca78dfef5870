"""Both servers at once, for development: started, found again by a file, ended.

FOLDER/stores.json     which processes run, and where
FOLDER/stores.toml     configuration that points a mesh at them
FOLDER/dynamodb, s3    their data and logs
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from loadgen.stores.dynamodb import dynamodb_server
from loadgen.stores.process import Process
from loadgen.stores.seaweed import s3_server
from loadgen.stores.server import ENVIRONMENT, REGION, Server, ServerFailed

_PATIENCE_S = 5.0


class Running(msgspec.Struct, frozen=True):
    """A server that was started: where it answers, its process, and what it may leave behind."""

    name: str
    url: str
    process: Process
    leavings: list[str]


class Pair(msgspec.Struct, frozen=True):
    """Both."""

    dynamodb: Running
    s3: Running


def up(folder: Path, *, memory: bool = False) -> Pair:
    """Start both, or find them running; ServerFailed. `memory`: tables are not kept."""
    found = running(folder)
    if found is not None:
        return found
    down(folder)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    servers = (dynamodb_server(folder / "dynamodb", memory=memory), s3_server(folder / "s3"))
    dynamodb, s3 = _started(servers)
    pair = Pair(dynamodb, s3)
    _state(folder).write_bytes(msgspec.json.encode(pair))
    configuration(folder).write_text(config_lines(pair), encoding="utf-8")
    return pair


def down(folder: Path, *, forget: bool = False) -> list[str]:
    """End what runs; the lines say what. `forget`: the data go too."""
    pair = _read(folder)
    said = []
    for server in (pair.dynamodb, pair.s3) if pair else ():
        if server.process.alive():
            said.append(f"{server.name} (pid {server.process.pid}) ended")
        server.process.end(_PATIENCE_S)
        for name in server.leavings:
            Path(name).unlink(missing_ok=True)
    for path in (_state(folder), configuration(folder)):
        path.unlink(missing_ok=True)
    if forget:
        for name in ("dynamodb", "s3"):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder / name)
    return said


def running(folder: Path) -> Pair | None:
    """Both, if both run."""
    pair = _read(folder)
    return pair if pair and pair.dynamodb.process.alive() and pair.s3.process.alive() else None


def configuration(folder: Path) -> Path:
    """The file that points a mesh at them."""
    return folder / "stores.toml"


def config_lines(pair: Pair) -> str:
    """What is in it."""
    return (
        "# The stores that `make stores-up` has started.\n\n"
        "[store]\n"
        'state = "dynamodb"\n'
        'objects = "s3"\n'
        f'dynamodb_endpoint = "{pair.dynamodb.url}"\n'
        f's3_endpoint = "{pair.s3.url}"\n'
        "path_style = true\n"
        f'region = "{REGION}"\n'
        "create = true\n"
    )


def environment_lines() -> str:
    """Shell commands that give a process the credentials."""
    return "".join(f"export {name}={value}\n" for name, value in ENVIRONMENT.items())


def _started(servers: Sequence[Server]) -> list[Running]:
    """Start them at the same time; if one fails, end the others."""
    with ThreadPoolExecutor(len(servers)) as pool:
        starts = [pool.submit(server.start) for server in servers]
    failed = [start.exception() for start in starts]
    for server, start, error in zip(servers, starts, failed, strict=True):
        if any(failed) and error is None:
            server.end(start.result())
    for error in failed:
        if error is not None:
            raise error
    return [
        Running(server.name, server.url, start.result(), [str(path) for path in server.leavings])
        for server, start in zip(servers, starts, strict=True)
    ]


def _read(folder: Path) -> Pair | None:
    path = _state(folder)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pair)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ServerFailed(f"{path} can't be read ({error}): end the servers it told of, and remove it") from error


def _state(folder: Path) -> Path:
    return folder / "stores.json"
