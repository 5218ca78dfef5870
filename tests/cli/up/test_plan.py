"""From options to what is run, and the private addresses."""

from pathlib import Path
from typing import Any

import click
import pytest

from lfmesh.cli.up.command import COINBASE_PRODUCTS, make_plan, parse_source
from lfmesh.cli.up.plan import Plan, with_private_addresses
from lfmesh.cli.up.unit import SIMULATOR
from lfmesh.config import Config
from lfmesh.errors import BadTape, ConfigError
from lfmesh.types import Role
from loadgen.sim import products
from loadgen.tape import Writer

DEFAULTS: dict[str, Any] = {
    "source": ("sim", None), "speed": 1.0, "tape_start": "client", "rate": 200, "products": None, "shards": None,
    "lines": "A", "standby": False, "gateways": 1, "registries": None, "gateway_port": None, "workers": None,
    "data_dir": None, "config_path": None, "log_format": None, "log_level": None,
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


def names_of(plan: Plan, *kinds: Role) -> list[str]:
    return [unit.name for unit in plan.units() if unit.kind in kinds]


def config_of(plan: Plan, name: str) -> Config:
    """What the process of a unit runs with."""
    (unit,) = [unit for unit in plan.units() if unit.name == name]
    return plan.config.override(unit.changes)


def test_two_lines_are_two_ingestors_of_the_same_products_that_share_the_venues_limits() -> None:
    plan = plan_of(lines="AB", products="3")
    assert names_of(plan, Role.INGESTOR) == ["ingestor-A", "ingestor-B"]
    for line in ("A", "B"):
        config = config_of(plan, f"ingestor-{line}")
        assert (config.ingestor.instance, config.ingestor.line) == (f"ingestor-{line}", line)
        assert config.ingestor.products == ()
        assert config.venue.ingestors_per_address == 2
    assert plan_of().config.venue.ingestors_per_address == 1


def test_one_line_is_the_one_that_the_configuration_says(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[ingestor]\ninstance = "feed-B"\nline = "B"\n')
    assert names_of(plan_of(config_path=file), Role.INGESTOR) == ["feed-B"]
    assert config_of(plan_of(config_path=file), "feed-B").ingestor.line == "B"
    assert names_of(plan_of(config_path=file, lines="AB"), Role.INGESTOR) == ["feed-A", "feed-B"]


def test_pairs_are_named_after_their_first_and_start_after_it() -> None:
    plan = plan_of(standby=True, shards=2)
    for role in (Role.NORMALIZER, Role.SNAPSHOTTER):
        assert names_of(plan, role) == [f"{role}-0", f"{role}-0-b", f"{role}-1", f"{role}-1-b"]
    units = {unit.name: unit for unit in plan.units()}
    assert (units["normalizer-1"].after, units["normalizer-1-b"].after) == ("", "normalizer-1")
    assert (units["normalizer-1-b"].shard, units["snapshotter-0-b"].shard) == (1, 0)
    assert config_of(plan, "normalizer-1-b").normalizer.instance == "normalizer-1-b"
    assert units["normalizer-1"].order == units["normalizer-1-b"].order, "they end together: none takes over"


def test_several_gateways_have_ports_that_follow() -> None:
    plan = plan_of(gateways=3, gateway_port=9000)
    assert names_of(plan, Role.GATEWAY) == ["gateway-0", "gateway-1", "gateway-2"]
    units = {unit.name: unit for unit in plan.units()}
    assert [config_of(plan, f"gateway-{number}").gateway.port for number in range(3)] == [9000, 9001, 9002]
    assert units["gateway-0"].fallback is None, "the port that was asked for, or none"
    assert units["gateway-1"].fallback == {"gateway": {"port": 0}}
    free = plan_of(gateways=2, gateway_port=0)
    assert [config_of(free, f"gateway-{number}").gateway.port for number in range(2)] == [0, 0]
    assert config_of(plan_of(gateways=2, gateway_port=65535), "gateway-1").gateway.port == 0


def test_pairs_bring_a_second_registry_unless_a_number_is_said() -> None:
    assert names_of(plan_of(), Role.REGISTRY) == ["registry-0"]
    assert names_of(plan_of(standby=True), Role.REGISTRY) == ["registry-0", "registry-1"]
    assert names_of(plan_of(standby=True, registries=1), Role.REGISTRY) == ["registry-0"]
    assert len(names_of(plan_of(registries=3), Role.REGISTRY)) == 3


def test_names_that_end_in_no_number_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[gateway]\ninstance = "edge"\n[registry]\ninstance = "names-0"\n')
    plan = plan_of(config_path=file, gateways=2, registries=2)
    assert names_of(plan, Role.GATEWAY, Role.REGISTRY) == ["names-0", "names-1", "edge", "edge-1"]


def test_every_process_has_private_addresses_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[ops]\nport = 9000\n[gateway]\ndrain_s = 30.0\n")
    public = plan_of(config_path=file, lines="AB", standby=True, gateways=2, registries=2)
    private = with_private_addresses(public, Path("/tmp/lfmesh-x"))
    bound = []
    for unit in private.units():
        if unit.kind == SIMULATOR:
            continue
        config = private.config.override(unit.changes)
        section = getattr(config, unit.kind).model_dump()
        bound += [value for key, value in section.items() if key.startswith("bind_")]
        assert (config.ops.port, config.gateway.drain_s) == (0, 0.8)
        assert config.registry.endpoints == tuple(
            f"ipc:///tmp/lfmesh-x/registry-{number}.requests" for number in range(2)
        )
        if unit.kind == Role.REGISTRY:
            assert config.registry.bind_requests in config.registry.endpoints
    assert len(bound) == 2 * 3 + 2 * 2 + 4 * 4 + 4 * 2 + 2
    assert len(set(bound)) == len(bound)
    assert all(address.startswith("ipc:///tmp/lfmesh-x/") and "{" not in address for address in bound)


@pytest.mark.parametrize("wrong", ["/tmp/" + "x" * 90, "/tmp/a b"])
def test_a_folder_that_can_hold_no_sockets_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="set TMPDIR"):
        with_private_addresses(plan_of(), Path(wrong))
