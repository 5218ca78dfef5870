"""`lfmesh config check`: what is right is printed so that it can be read back, what is wrong is named."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from lfmesh.cli.root import cli
from lfmesh.cli.toml import to_toml
from lfmesh.config import Config, load


def check(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["config", "check", *arguments], env=env, standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result.stdout, result.stderr


def test_prints_the_effective_configuration(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[mesh]\nproducts = ["BTC-USD", "SOL-EUR"]\nshards = 3\n')
    code, out, err = check("--config", str(file), env={"LFMESH_GATEWAY__PORT": "9001"})
    assert code == 0
    printed = tomllib.loads(out)
    assert printed["mesh"] == {
        "products": ["BTC-USD", "SOL-EUR"], "shards": 3, "data_dir": ".lfmesh", "advertise_host": "",
    }  # fmt: skip
    assert printed["gateway"]["port"] == 9001
    assert "valid; 2 products on 3 shards" in err


def test_names_each_fault_on_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[mesh]\nshards = 0\nsharts = 2\n[gateway]\nport = "x"\n[nope]\na = 1\n')
    code, out, err = check("--config", str(file))
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"lfmesh: {file}: ") for line in lines)
    for part in ("mesh.shards: ", "mesh.sharts: unknown key", "gateway.port: ", "nope: unknown key"):
        assert sum(part in line for line in lines) == 1, part


@pytest.mark.parametrize(
    ("content", "said"),
    [("[mesh\n", "is not TOML"), (None, "cannot read the configuration"), ("[mesh]\nproducts = []\n", "mesh.products")],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "mesh.toml"
    if content is not None:
        file.write_text(content)
    code, _, err = check("--config", str(file))
    assert code == 1
    assert said in err
    assert err.count("\n") == 1


def test_a_list_in_a_variable_that_is_no_json_is_one_line() -> None:
    code, _, err = check(env={"LFMESH_MESH__PRODUCTS": "BTC-USD"})
    assert code == 1
    assert "written as JSON" in err
    assert err.count("\n") == 1


def test_toml_reads_back_to_the_same_configuration(tmp_path: Path) -> None:
    peers = [{"role": "normalizer", "instance": 'n"0"\\', "shard": 0, "endpoints": {"raw": "tcp://10.0.0.1:7"}}]
    config = Config().override(
        {"registry": {"static_peers": peers}, "mesh": {"data_dir": tmp_path / "ünï cødé"}, "gateway": {"drain_s": 0.25}}
    )
    file = tmp_path / "written.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert load(file) == config
