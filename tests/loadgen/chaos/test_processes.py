"""The supervisor: what dies comes back, and nothing is left."""

import os
import signal
import sys
from pathlib import Path

from loadgen.chaos.processes import Supervisor
from tests.aio import eventually, run

SLEEPER = [sys.executable, "-c", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"]


def pids(supervisor: Supervisor) -> list[int]:
    path = supervisor.log_of("one")
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("pid")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_and_restarted_it_comes_back_and_nothing_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(tmp_path)
        await supervisor.start("one", SLEEPER)
        await eventually(lambda: len(pids(supervisor)) == 1)
        await supervisor.kill("one", 0.0)
        await eventually(lambda: len(pids(supervisor)) == 2)
        await supervisor.restart("one", 0.0)
        await eventually(lambda: len(pids(supervisor)) == 3)
        assert supervisor.deaths == []
        await supervisor.end(["one"])
        assert not any(map(alive, pids(supervisor)))

    run(scenario())


def test_a_paused_process_is_woken_to_be_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(tmp_path)
        await supervisor.start("one", SLEEPER)
        await eventually(lambda: pids(supervisor))
        supervisor.pause("one")
        await eventually(lambda: state_of(pids(supervisor)[0]) == "T")
        await supervisor.end(["one"])
        assert not supervisor.running("one")

    run(scenario())


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_dies_by_itself_is_told_and_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(tmp_path)
        await supervisor.start("one", SLEEPER)
        await eventually(lambda: len(pids(supervisor)) == 1)
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        await eventually(lambda: len(pids(supervisor)) == 2)
        assert [(death.name, death.code) for death in supervisor.deaths] == [("one", -signal.SIGKILL)]
        await supervisor.end(["one"])

    run(scenario())
