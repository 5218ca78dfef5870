"""compose.yaml and what belongs to it: pinned, on loopback, watched, and what configs/compose.toml points at."""

import re
import tomllib
from pathlib import Path

from lfmesh.config import load

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(line for line in (ROOT / "compose.yaml").read_text().splitlines() if not line.lstrip().startswith("#"))
SERVICES = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", TEXT.split("\nvolumes:\n")[0] + "\n", re.MULTILINE))


def test_there_is_what_a_mesh_needs() -> None:
    assert list(SERVICES) == ["dynamodb", "minio", "prometheus", "grafana"]


def test_each_image_is_pinned_and_each_service_watched_and_kept() -> None:
    for name, service in SERVICES.items():
        (image,) = re.findall(r"^    image: (\S+)$", service, re.MULTILINE)
        assert re.search(r":(v?\d+\.\d+\.\d+|RELEASE\.[0-9TZ-]+)$", image), image
        assert "    healthcheck:\n      test: [" in service, name
        assert re.search(rf"^\s*(- |volumes: \[\"){name}:/", service, re.MULTILINE), f"{name} has no volume"
        assert f"\n  {name}:" in TEXT.split("\nvolumes:")[1]


def test_nothing_listens_beyond_this_machine() -> None:
    for name, service in SERVICES.items():
        if "network_mode: host" in service:
            assert re.search(r"listen-address=127\.0\.0\.1:|HTTP_ADDR: 127\.0\.0\.1", service), name
        else:
            (ports,) = re.findall(r"^    ports: \[(.*)\]$", service, re.MULTILINE)
            assert all(port.strip().startswith('"127.0.0.1:') for port in ports.split(",")), name


def test_the_configuration_points_at_its_stores() -> None:
    store = load(ROOT / "configs" / "compose.toml").store
    assert (store.state, store.objects, store.create) == ("dynamodb", "s3", True)
    assert f'"{store.dynamodb_endpoint.removeprefix("http://")}:8000"' in SERVICES["dynamodb"]
    assert f'"{store.s3_endpoint.removeprefix("http://")}:9000"' in SERVICES["minio"]
    written = tomllib.loads((ROOT / "configs" / "compose.toml").read_text())
    assert set(written) == {"mesh", "store"}


def test_the_credentials_that_are_told_are_the_servers() -> None:
    (user,) = re.findall(r"MINIO_ROOT_USER: (\w+)", SERVICES["minio"])
    (password,) = re.findall(r"MINIO_ROOT_PASSWORD: (\w+)", SERVICES["minio"])
    told = f"export AWS_ACCESS_KEY_ID={user} AWS_SECRET_ACCESS_KEY={password}"
    assert told in (ROOT / "configs" / "compose.toml").read_text()
    assert told in (ROOT / "Makefile").read_text()


def test_files_that_are_mounted_are_there() -> None:
    for path in re.findall(r"^      - (\./configs/\S+?):", TEXT, re.MULTILINE):
        assert (ROOT / path).is_file(), path
    assert "http://127.0.0.1:9090" in (ROOT / "configs" / "compose" / "grafana-datasources.yml").read_text()
    assert "/etc/prometheus/targets/*.json" in (ROOT / "configs" / "compose" / "prometheus.yml").read_text()
