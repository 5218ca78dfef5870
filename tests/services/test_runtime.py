"""The runtime, with a small service in this process or, where signals and exit codes count, in one of its own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lfmesh.config import Config
from lfmesh.errors import PortInUse, StoreUnavailable
from lfmesh.messages import ServiceRecord, Telemetry
from lfmesh.observe.log import logger
from lfmesh.ports import Context, Vitals
from lfmesh.services import telemetry
from lfmesh.services.registry import RegistryService
from lfmesh.services.runtime import EXIT_FAILED, EXIT_UNEXPECTED, Running, instance_name, running
from lfmesh.transport import Subscriber, Transport
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.sample import ROOT, SampleService, SampleStatistics

QUICK: dict[str, dict[str, Any]] = {
    "registry": {"endpoints": ("tcp://127.0.0.1:9",)},  # the discard port: nobody answers
    "log": {"format": "json"},
}


def config_of(**sections: dict[str, Any]) -> Config:
    return Config().override({**QUICK, **sections})


def sample(mode: str = "") -> Callable[[Config, Context], SampleService]:
    return lambda config, context: SampleService(config, context, 0, mode)


def service_of(life: Running) -> SampleService:
    assert isinstance(life.service, SampleService)
    return life.service


def record_of(life: Running) -> ServiceRecord:
    assert life.record is not None
    return life.record


# In this process -------------------------------------------------------------------------------------------------


def test_the_record_says_where_everything_is() -> None:
    async def scenario() -> None:
        async with running(sample(), config_of(), Role.SNAPSHOTTER, 0) as life:
            record = record_of(life)
            assert (record.role, record.instance, record.shard) == (Role.SNAPSHOTTER, "snapshotter-0", 0)
            assert record.endpoints.keys() == {"requests", "telemetry"}
            assert all(address.startswith("tcp://127.0.0.1:") for address in record.endpoints.values())
            assert record.pid == os.getpid()
            assert record.incarnation == service_of(life).context.incarnation
            async with httpx.AsyncClient() as client:
                assert (await client.get(record.http + "/health")).status_code == 200

    run(scenario())


def test_readiness_is_told_with_its_reasons() -> None:
    async def scenario() -> None:
        async with running(sample(), config_of(), Role.SNAPSHOTTER, 0) as life, httpx.AsyncClient() as client:
            url = record_of(life).http + "/ready"
            answer = await client.get(url)
            assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
            service_of(life).reasons = ["no normalizer"]
            answer = await client.get(url)
            assert (answer.status_code, answer.json()) == (503, {"ready": False, "reasons": ["no normalizer"]})

    run(scenario())


def test_metrics_are_the_statistics() -> None:
    async def scenario() -> None:
        async with running(sample(), config_of(), Role.SNAPSHOTTER, 0) as life, httpx.AsyncClient() as client:
            answer = await client.get(record_of(life).http + "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        frames = families["lfmesh_snapshotter_frames"]
        assert [(one.value, one.labels) for one in frames.samples] == [(7, {"instance": "snapshotter-0", "shard": "0"})]
        assert families["lfmesh_snapshotter_loop_lag_seconds"].samples[0].value >= 0

    run(scenario())


def test_telemetry_comes_at_once_to_who_subscribes_and_then_each_second() -> None:
    async def scenario() -> None:
        async with running(sample(), config_of(), Role.SNAPSHOTTER, 0) as life:
            service_of(life).reasons = ["no normalizer"]
            heard: list[Telemetry] = []
            with Transport() as transport:
                subscriber = Subscriber(
                    transport, [b"tm."], lambda frames: heard.extend(map(telemetry.unpack, frames)), hwm=10
                )
                subscriber.connect(record_of(life).endpoints["telemetry"])
                await eventually(lambda: len(heard) >= 3)
            first = heard[0]
            assert (first.instance, first.shard, first.pid) == ("snapshotter-0", 0, os.getpid())
            assert (first.messages_in_total, first.messages_out_total, first.queue_messages) == (7, 6, 1)
            assert first.reasons == ["no normalizer"]
            assert first.statistics["rejected_total"]["garbled"] == 2
            assert first.cpu_s > 0
            assert first.rss_bytes > 1_000_000
            assert heard[2].ts > heard[1].ts

    run(scenario())


def test_services_find_each_other_and_a_service_is_told_once_at_the_start(tmp_path: Path) -> None:
    config = config_of(
        registry={
            "bind_requests": f"ipc://{tmp_path}/r",
            "bind_changes": f"ipc://{tmp_path}/c",
            "endpoints": (f"ipc://{tmp_path}/r",),
        }
    )

    async def scenario() -> None:
        async with running(sample(), config, Role.SNAPSHOTTER, 0) as first:
            assert service_of(first).views == [()]
            async with (
                running(RegistryService, config, Role.REGISTRY) as registry,
                running(lambda c, x: SampleService(c, x, 1), config, Role.SNAPSHOTTER, 1) as second,
            ):
                everybody = [record_of(registry), record_of(first), record_of(second)]
                await eventually(lambda: service_of(first).views[-1] == tuple(everybody))
                await eventually(lambda: list(second.peers) == everybody)
                assert list(registry.peers) == [record_of(registry)]

    run(scenario())


def test_static_peers_replace_the_registry(tmp_path: Path) -> None:
    peer = {"role": "normalizer", "instance": "normalizer-0", "shard": 0, "endpoints": {"raw": "tcp://127.0.0.1:9"}}
    config = config_of(registry={"static_peers": (peer,), "endpoints": (f"ipc://{tmp_path}/nobody",)})

    async def scenario() -> None:
        async with running(sample(), config, Role.SNAPSHOTTER, 0) as life:
            (view,) = service_of(life).views
            assert [(found.instance, found.endpoints) for found in view] == [
                ("normalizer-0", {"raw": "tcp://127.0.0.1:9"})
            ]

    run(scenario())


def test_a_wildcard_address_is_announced_under_the_advertised_host(capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(
        mesh={"advertise_host": "127.0.0.1"}, snapshotter={"bind_requests": "tcp://0.0.0.0:0"}, ops={"host": "0.0.0.0"}
    )

    async def scenario() -> None:
        async with running(sample(), config, Role.SNAPSHOTTER, 0) as life:
            assert record_of(life).endpoints["requests"].startswith("tcp://127.0.0.1:")
            assert record_of(life).http.startswith("http://127.0.0.1:")

    run(scenario())
    (warning,) = [line for line in log_lines(capsys.readouterr().err) if line["level"] == "warning"]
    assert warning["sockets"] == ["requests", "http"]
    assert "without authentication" in warning["event"]


def test_a_service_with_a_port_of_its_own_gets_no_ops_port() -> None:
    class Web(SampleService):
        def http_url(self) -> str:
            return "http://127.0.0.1:8000"

    async def scenario() -> None:
        async with running(Web, config_of(ops={"port": taken_port}), Role.SNAPSHOTTER, 0) as life:
            assert record_of(life).http == "http://127.0.0.1:8000"

    with taken() as taken_port:
        run(scenario())


def test_a_moved_endpoint_is_announced_anew(tmp_path: Path) -> None:
    config = config_of(
        registry={
            "bind_requests": f"ipc://{tmp_path}/r",
            "bind_changes": f"ipc://{tmp_path}/c",
            "endpoints": (f"ipc://{tmp_path}/r",),
        }
    )

    class Moving(SampleService):
        port = 1

        def endpoints(self) -> dict[str, str]:
            return {"requests": f"tcp://127.0.0.1:{self.port}"}

    async def scenario() -> None:
        async with (
            running(RegistryService, config, Role.REGISTRY),
            running(sample(), config, Role.SNAPSHOTTER, 0) as watcher,
            running(lambda c, x: Moving(c, x, 1), config, Role.SNAPSHOTTER, 1) as life,
        ):
            await eventually(lambda: len(watcher.peers) == 3)
            assert isinstance(life.service, Moving)
            life.service.port = 2
            await eventually(lambda: watcher.peers[-1].endpoints["requests"] == "tcp://127.0.0.1:2")

    run(scenario())


def test_a_failed_task_is_raised_where_the_service_was_run() -> None:
    async def scenario() -> None:
        async with running(sample("fail as told"), config_of(), Role.SNAPSHOTTER, 0) as life:
            await life.tasks.failed

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        run(scenario())


def test_a_failed_callback_counts_like_a_failed_task() -> None:
    async def scenario() -> None:
        async with running(sample("fail in a callback"), config_of(), Role.SNAPSHOTTER, 0) as life:
            await life.tasks.failed

    with pytest.raises(ZeroDivisionError):
        run(scenario())


def test_what_the_loop_complains_of_beside_callbacks_is_logged_and_ends_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def scenario() -> None:
        async with running(sample(), config_of(), Role.SNAPSHOTTER, 0) as life:
            for _ in range(3):
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many files")}
                )
            assert not life.tasks.failed.done()

    run(scenario())
    (error,) = [line for line in log_lines(capsys.readouterr().err) if line["level"] == "error"]
    assert error["message"] == "socket.accept() out of system resource"
    assert "Too many files" in error["exception"]


def test_while_it_ends_it_says_so_to_probes_and_telemetry() -> None:
    ending, answers = asyncio.Event(), asyncio.Event()

    class Slow(SampleService):
        async def stop(self) -> None:
            self.gone = True
            ending.set()
            await answers.wait()
            await super().stop()

        def statistics(self) -> SampleStatistics:
            assert not hasattr(self, "gone"), "asked after its end began"
            return super().statistics()

    async def scenario() -> None:
        life = Running(Slow, config_of(), Role.SNAPSHOTTER, 0, logger(config_of().log))
        await life.start()
        heard: list[Telemetry] = []
        with Transport() as transport:
            subscriber = Subscriber(
                transport, [b"tm."], lambda frames: heard.extend(map(telemetry.unpack, frames)), hwm=10
            )
            subscriber.connect(record_of(life).endpoints["telemetry"])
            await eventually(lambda: heard)
            stopping = asyncio.ensure_future(life.stop())
            await ending.wait()
            async with httpx.AsyncClient(base_url=record_of(life).http) as client:
                assert (await client.get("/health")).status_code == 200
                assert (await client.get("/ready")).json() == {"ready": False, "reasons": ["stopping"]}
                assert (await client.get("/metrics")).status_code == 503
            await eventually(lambda: heard[-1].reasons == ["stopping"])
        answers.set()
        await stopping

    run(scenario())


def test_no_task_outlives_its_service() -> None:
    ended: list[str] = []

    class Busy(SampleService):
        async def start(self) -> None:
            await super().start()
            self.context.spawn(self.work())

        async def work(self) -> None:
            try:
                await self._idle()
            finally:
                self.context.spawn(self.late())
                ended.append("work")

        async def late(self) -> None:
            ended.append("late")

    async def scenario() -> None:
        async with running(Busy, config_of(), Role.SNAPSHOTTER, 0) as life:
            pass
        assert ended == ["work"]
        assert service_of(life).stopped == 1

    run(scenario())


def test_a_service_that_cannot_start_is_stopped_and_its_error_raised() -> None:
    made: list[SampleService] = []

    def make(config: Config, context: Context) -> SampleService:
        made.append(SampleService(config, context, 0, "refuse"))
        return made[-1]

    async def scenario() -> None:
        async with running(make, config_of(), Role.SNAPSHOTTER, 0):
            pass

    with pytest.raises(PortInUse):
        run(scenario())
    assert made[0].stopped == 1


def test_vitals_without_a_runtime_are_unknown_not_zero() -> None:
    assert Vitals() == Vitals(cpu_s=None, rss_bytes=None, loop_lag_s=None)


@pytest.mark.parametrize(
    ("role", "shard", "name"),
    [
        (Role.REGISTRY, None, "registry-0"),
        (Role.INGESTOR, None, "ingestor-A"),
        (Role.NORMALIZER, 3, "normalizer-3"),
        (Role.GATEWAY, None, "gateway-0"),
    ],
)
def test_a_role_is_named_by_its_section(role: Role, shard: int | None, name: str) -> None:
    assert instance_name(Config(), role, shard) == name


# In a process of its own -----------------------------------------------------------------------------------------


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def taken() -> Iterator[int]:
    """A port that somebody else holds."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


class Process:
    """The sample service as a process; what it still is at the end of the test is killed."""

    def __init__(self, mode: str = "", *, config: Config | None = None, parent_pid: int | None = None) -> None:
        arguments = [mode, (config or config_of()).model_dump_json(), *([str(parent_pid)] if parent_pid else [])]
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.services.sample", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()

    def started(self) -> ServiceRecord:
        assert self.popen.stdout is not None
        return msgspec.json.decode(self.popen.stdout.readline(), type=ServiceRecord)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait_for(self, event: str) -> None:
        """Read the log up to an event."""
        assert self.popen.stderr is not None
        while json.loads(self.popen.stderr.readline())["event"] != event:
            pass

    def end(self, timeout: float = 15.0) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and log (what was not read yet), once it has ended by itself."""
        _, errors = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, log_lines(errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with Process() as process:
        record = process.started()
        assert record.pid == process.popen.pid
        assert httpx.get(record.http + "/ready").json() == {"ready": True, "reasons": []}
        process.signal(number)
        code, log = process.end()
    assert code == 0
    assert [line["event"] for line in log] == ["started", "stopping", "sample stopped", "stopped"]
    assert log[1]["reason"] == number.name
    assert all((line["role"], line["instance"], line["shard"]) == ("snapshotter", "snapshotter-0", 0) for line in log)


def test_a_signal_while_it_starts_ends_it_in_order_too() -> None:
    with Process("slow start") as process:
        wait_for_handlers(process.popen.pid)
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == 0
    assert [line["event"] for line in log][-2:] == ["sample stopped", "stopped"]


def wait_for_handlers(pid: int) -> None:
    """Until the process catches SIGTERM itself (SigCgt of proc_pid_status(5))."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:") and int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                return
        time.sleep(0.005)
    raise AssertionError("the process does not catch SIGTERM")


def test_one_signal_of_each_kind_is_one_wish_but_the_same_twice_ends_it_at_once() -> None:
    with Process("hang at stop") as process:
        process.started()
        process.signal(signal.SIGINT)
        process.wait_for("stopping")
        process.signal(signal.SIGTERM)
        process.wait_for("ending already")
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == 128 + signal.SIGTERM
    assert [(line["event"], line["reason"]) for line in log] == [("ending at once", "second SIGTERM")]


def test_a_start_that_hangs_and_cannot_be_cancelled_is_ended_by_force() -> None:
    with Process("hang at start") as process:
        process.wait_for("hanging")
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == EXIT_FAILED
    assert log[-1]["event"] == "hangs while it ends; ended by force"


def test_a_service_that_hangs_at_its_end_is_ended_within_the_bound() -> None:
    with Process("hang at stop") as process:
        process.started()
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == EXIT_FAILED
    assert log[-1]["event"].startswith("did not end in time")


def test_a_service_that_blocks_the_loop_at_its_end_is_ended_by_force() -> None:
    with Process("block at stop") as process:
        process.started()
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == EXIT_FAILED
    assert log[-1]["event"] == "hangs while it ends; ended by force"


@pytest.mark.parametrize("mode", ["fail in a task", "fail in a callback", "crash at start"])
def test_what_nobody_expected_ends_it_loudly(mode: str) -> None:
    with Process(mode) as process:
        code, log = process.end()
    assert code == EXIT_UNEXPECTED
    (error,) = [line for line in log if line["level"] == "error"]
    assert "ZeroDivisionError" in error["exception"]
    assert "sample.py" in error["exception"]


def test_a_failure_of_the_meshs_own_kind_is_one_line() -> None:
    with Process("fail as told") as process:
        code, log = process.end()
    assert code == EXIT_FAILED
    (error,) = [line for line in log if line["level"] == "error"]
    assert (error["event"], error["error"]) == ("service failed", "the disk is full")
    assert "exception" not in error


def test_a_crash_at_the_end_is_told() -> None:
    with Process("crash at stop") as process:
        process.started()
        process.signal(signal.SIGTERM)
        code, log = process.end()
    assert code == EXIT_UNEXPECTED
    assert "ZeroDivisionError" in log[-1]["exception"]


@pytest.mark.parametrize("section", ["snapshotter", "ops"])
def test_a_port_in_use_is_one_line(section: str) -> None:
    with taken() as port:
        where = {"bind_requests": f"tcp://127.0.0.1:{port}"} if section == "snapshotter" else {"port": port}
        with Process(config=config_of(**{section: where})) as process:
            code, log = process.end()
    assert code == EXIT_FAILED
    (error,) = [line for line in log if line["level"] == "error"]
    assert error["event"] == "cannot start"
    assert f"127.0.0.1:{port} is in use by another process" in error["error"]
    assert "exception" not in error


def test_it_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    # A parent that starts the service, says who it is, and is then killed.
    script = (
        "import os, subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-m', 'tests.services.sample', '', sys.argv[1], str(os.getpid())],"
        " stderr=open(sys.argv[2], 'w'));"
        "child.wait()"
    )
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", script, config_of().model_dump_json(), str(log)], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert msgspec.json.decode(parent.stdout.readline(), type=ServiceRecord).instance == "snapshotter-0"
        parent.kill()
        deadline = time.monotonic() + 15
        while not log.read_text().endswith("\n") or '"stopped"' not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        lines = log_lines(log.read_text())
    assert [line["event"] for line in lines] == ["started", "stopping", "sample stopped", "stopped"]
    assert lines[1]["reason"] == "the supervisor is gone"
