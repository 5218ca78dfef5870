"""Processes are found again, and ended, by id and time of start."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen.stores.process import Process, process, spawn

STUBBORN = """
import signal, pathlib
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("asked").touch())
pathlib.Path("ready").touch()
while True:
    signal.pause()
"""
TELLS = "import os, pathlib; pathlib.Path('said').write_text(repr(sorted(n for n in os.environ if 'TEST' in n)))"


def run(folder: Path, text: str, environment: dict[str, str] | None = None) -> Process:
    return spawn([sys.executable, "-c", text], folder, folder / "log", environment or {})


def wait(condition: Callable[[], object]) -> None:
    """Until it is true; the test's own time limit ends it otherwise."""
    while not condition():
        os.sched_yield()


def test_a_process_is_ended_in_order_or_killed(tmp_path: Path) -> None:
    obliging = run(tmp_path, "import signal; signal.pause()")
    assert obliging.alive()
    assert process(obliging.pid) == obliging
    obliging.end(60)
    assert not obliging.alive()
    stubborn = run(tmp_path, STUBBORN)
    wait((tmp_path / "ready").exists)
    stubborn.end(0.05)
    assert not stubborn.alive()
    assert (tmp_path / "asked").exists()
    stubborn.end(0.05)


def test_another_process_of_the_same_id_is_left_alone() -> None:
    own = process(os.getpid())
    assert own is not None
    assert own.alive()
    other = Process(own.pid, f"{own.started}0")
    assert not other.alive()
    other.end(0)


def test_a_process_that_ended_is_not_alive(tmp_path: Path) -> None:
    ended = run(tmp_path, "")
    wait(lambda: not ended.alive())
    assert process(ended.pid) is None
    assert not Process(ended.pid, "").alive()
    ended.end(0)


def test_what_tells_of_aws_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_TEST", "1")
    monkeypatch.setenv("OTHER_TEST", "1")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    for name in [name for name in os.environ if "TEST" in name and name not in ("AWS_TEST", "OTHER_TEST")]:
        monkeypatch.delenv(name)
    told = run(tmp_path, TELLS, {"OUR_TEST": "1"})
    wait(lambda: not told.alive())
    assert (tmp_path / "said").read_text() == "['OTHER_TEST', 'OUR_TEST']"
