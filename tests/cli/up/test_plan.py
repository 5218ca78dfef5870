"""From options to what is run, and the private addresses."""

from pathlib import Path
from typing import Any

import click
import pytest

from lfmesh.cli.up.command import COINBASE_PRODUCTS, make_plan, parse_source
from lfmesh.cli.up.plan import Plan, with_private_addresses
from lfmesh.config import Config
from lfmesh.errors import BadTape, ConfigError
from loadgen.sim import products
from loadgen.tape import Writer

DEFAULTS: dict[str, Any] = {
    "source": ("sim", None), "speed": 1.0, "tape_start": "client", "rate": 200, "products": None, "shards": None,
    "gateway_port": None, "data_dir": None, "config_path": None, "log_format": None, "log_level": None,
}  # fmt: skip


def plan_of(**options: object) -> Plan:
    return make_plan(DEFAULTS | options)


def test_sources() -> None:
    assert parse_source("sim") == ("sim", None)
    assert parse_source("coinbase") == ("coinbase", None)
    assert parse_source("tape:a:b.tape") == ("tape", Path("a:b.tape"))
    for wrong in ("", "tape", "tape:", "sim:x", "binance", "Tape:x"):
        with pytest.raises(click.BadParameter, match="is no source: it is sim, coinbase, or tape:FILE"):
            parse_source(wrong)


def test_defaults_are_ten_simulated_products_two_shards_port_8000_and_warnings_only() -> None:
    plan = plan_of()
    assert plan.config.mesh.products == products(10)
    assert plan.simulator is not None
    assert plan.simulator.products == products(10)
    assert (plan.simulator.rate_msgs_s, plan.simulator.port, plan.tape_start) == (200, 0, None)
    assert (plan.config.mesh.shards, plan.config.gateway.port, plan.config.log.level) == (2, 8000, "warning")
    assert [unit.name for unit in plan.units()] == [
        "registry-0", "simulator", "ingestor-A", "normalizer-0", "normalizer-1", "snapshotter-0", "snapshotter-1",
        "gateway-0",
    ]  # fmt: skip


def test_gateways_end_first_and_the_registry_last() -> None:
    by_end = sorted(plan_of().units(), key=lambda unit: unit.order)
    kinds = list(dict.fromkeys(str(unit.kind) for unit in by_end))
    assert kinds == ["gateway", "normalizer", "ingestor", "snapshotter", "simulator", "registry"]


def test_options_go_before_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[mesh]\nproducts = ["SOL-EUR"]\nshards = 3\n[log]\nlevel = "info"\n')
    plan = plan_of(config_path=file)
    assert (plan.config.mesh.products, plan.config.mesh.shards, plan.config.log.level) == (("SOL-EUR",), 3, "info")
    plan = plan_of(config_path=file, products="btc-usd, ETH-USD", shards=1, log_level="error", gateway_port=0)
    assert (plan.config.mesh.products, plan.config.mesh.shards) == (("BTC-USD", "ETH-USD"), 1)
    assert (plan.config.log.level, plan.config.gateway.port) == ("error", 0)
    assert plan_of(products="3").config.mesh.products == products(3)


def test_coinbase_has_no_simulator() -> None:
    plan = plan_of(source=("coinbase", None))
    assert plan.simulator is None
    assert plan.config.mesh.products == COINBASE_PRODUCTS
    assert plan.config.mesh.data_dir == plan.home == Path(".lfmesh")
    simulated = plan_of()
    assert (simulated.home, simulated.config.mesh.data_dir) == (Path(".lfmesh"), Path(".lfmesh/simulated"))
    assert "simulator" not in [unit.name for unit in plan.units()]


def test_a_tape_brings_its_products_and_waits(tmp_path: Path) -> None:
    tape = tmp_path / "x.tape"
    with Writer(tape) as writer:
        for number, product in enumerate(("ETH-USD", "BTC-USD", "ETH-USD")):
            writer.write(number, b'{"type":"heartbeat","product_id":"%s"}' % product.encode())
    plan = plan_of(source=("tape", tape), speed="max")
    assert plan.config.mesh.products == ("ETH-USD", "BTC-USD")
    assert plan.simulator is not None
    assert (plan.simulator.tape, plan.simulator.tape_speed, plan.simulator.tape_start) == (tape, "max", "control")
    assert plan.tape_start == "client"
    assert plan_of(source=("tape", tape), products="BTC-USD").config.mesh.products == ("BTC-USD",)
    with pytest.raises(click.UsageError, match="has no SOL-USD; it has ETH-USD, BTC-USD"):
        plan_of(source=("tape", tape), products="SOL-USD")
    tape.write_text("hello\n")
    with pytest.raises(BadTape, match="line 1"):
        plan_of(source=("tape", tape))


def test_two_processes_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[normalizer]\ninstance = "normalizer"\n')
    with pytest.raises(ConfigError, match="two processes would be named normalizer"):
        plan_of(config_path=file)


def test_private_addresses_replace_every_shared_one() -> None:
    config = Config().override({"ops": {"port": 9000}, "gateway": {"drain_s": 30}})
    private = with_private_addresses(config, Path("/tmp/lfmesh-x"))
    shared = [
        f"{section}.{key}"
        for section, keys in private.model_dump().items()
        for key, value in keys.items()
        if "bind" in key and not str(value).startswith("ipc:///tmp/lfmesh-x/")
    ]
    assert shared == []
    assert private.registry.endpoints == ("ipc:///tmp/lfmesh-x/registry.requests",)
    assert (private.ops.port, private.gateway.drain_s) == (0, 1.0)
    addresses = [value for keys in private.model_dump().values() for key, value in keys.items() if "bind" in key]
    assert len(set(addresses)) == len(addresses)
    for wrong in (Path("/tmp/" + "x" * 90), Path("/tmp/a b")):
        with pytest.raises(ConfigError, match="set TMPDIR"):
            with_private_addresses(config, wrong)
