"""The fault bench itself, in a tiny form: a few rounds at a low rate, and the plan printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def chaos(*arguments: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadgen.chaos", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("topology", "only", "network"),
    [
        pytest.param("single", "kill/normalizer", "auto", marks=pytest.mark.soak),
        ("pairs", "kill/ingestor", "loopback"),
        ("single", "cut/gateway", "auto"),
    ],
)
def test_nothing_is_lost_in_a_round_of_a_small_mesh(topology: str, only: str, network: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = chaos(
        "--rounds", "1", "--rate", "200", "--products", "3", "--topology", topology, "--only", only,
        "--json", str(report), "--network", network,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    summary = found["summary"]
    assert (summary["rounds"], summary["failed"], summary["lost"], summary["books"]) == (1, 0, 0, 0)
    assert found["rounds"][0]["whole_s"] is not None
    assert "OK: nothing lost" in done.stdout


def test_the_plan_can_be_printed() -> None:
    done = chaos("--list", "--rounds", "5", "--seed", "3")
    assert done.returncode == 0
    assert done.stdout == chaos("--list", "--rounds", "5", "--seed", "3").stdout
    assert "single" in done.stdout
    assert "pairs" in done.stdout


def test_a_target_that_there_is_not_is_told() -> None:
    done = chaos("--only", "kill/nobody")
    assert done.returncode == 1
    assert "nothing is left to do" in done.stderr
