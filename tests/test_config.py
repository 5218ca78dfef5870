from pathlib import Path

import pytest

from lfmesh.config import Config, endpoint, is_loopback, load
from lfmesh.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return path


def test_a_file_overrides_the_defaults_and_the_environment_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, '[gateway]\nport = 9001\nhost = "::1"\n')
    assert load(path).gateway.port == 9001
    monkeypatch.setenv("LFMESH_GATEWAY__PORT", "9002")
    config = load(path)
    assert (config.gateway.port, config.gateway.host) == (9002, "::1")
    assert config.override({"gateway": {"port": 9003}}).gateway.port == 9003


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gateway]\nprot = 1\n", "gateway.prot: unknown key"),
        ("[gatewy]\nport = 1\n", "gatewy: unknown key"),
        ("[gateway]\nport = 70000\n", "gateway.port: .*less than or equal to 65535.*70000"),
        ("[gateway]\nport = 'x'\n", "gateway.port: .*integer"),
        ("[mesh]\nproducts = []\n", "mesh.products: .*at least 1"),
        ("[mesh]\nproducts = ['btc usd']\n", "mesh.products.0: .*pattern"),
        ("[mesh]\nproducts = ['A-B', 'A-B']\n", "repeated: A-B"),
        ("[ingestor]\nproducts = ['X-Y']\n", "ingestor.products names products that mesh.products lacks: X-Y"),
        ("[registry]\nannounce_interval_s = 2.0\n", "at most half of lease_ttl_s"),
        ("[normalizer]\nbind_raw = 'http://x'\n", "normalizer.bind_raw"),
        ("[venue]\nws_url = 'ws://x:99999'\n", "venue.ws_url: .*Port out of range.*ws://x:99999"),
        ("[venue]\nws_url = 'ws://:80'\n", "venue.ws_url: .*needs a host"),
        ("[venue]\nrest_url = 'https://a..b'\n", "venue.rest_url"),
        ("[store]\nstate = 'dynamodb'\ncreate = true\n", "create is for local stores, and without dynamodb_endpoint"),
        ("[gateway\n", "is not TOML"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway.prot.*log.level"):
        load(written(tmp_path, "[gateway]\nprot = 1\n[log]\nlevel = 'loud'\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent.toml"):
        load(tmp_path / "absent.toml")


def test_an_override_is_validated_too() -> None:
    with pytest.raises(ConfigError, match=r"command line: mesh\.shards"):
        Config().override({"mesh": {"shards": 0}})


def test_endpoints_are_filled_in() -> None:
    assert endpoint("ipc:///run/n-{shard}.raw", shard=3) == "ipc:///run/n-3.raw"


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                                ("0.0.0.0", False), ("example", False)])  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", ["LFMESH_GATWAY__PORT", "LFMESH_GATEWAY__PROT"])
def test_a_variable_that_names_no_key_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"environment: {name}: no such section or key"):
        load()
