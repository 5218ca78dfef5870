"""A gateway as its configuration says: this process alone, or the supervisor of `gateway.workers` others."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lfmesh import errors
from lfmesh.cli.crew import sockets
from lfmesh.cli.crew.supervisor import Crew
from lfmesh.config import Config
from lfmesh.core.admission import Admissions
from lfmesh.errors import ConfigError, LfmeshError
from lfmesh.messages import ServiceRecord
from lfmesh.observe import log as logs
from lfmesh.ports import Context, Service
from lfmesh.services.gateway import GatewayService
from lfmesh.services.gateway.crew_member import Member
from lfmesh.services.runtime import EXIT_FAILED, STOP_TIMEOUT_S, instance_name, run_service
from lfmesh.types import Role

_MAX_PORT = 65_535

OnStarted = Callable[[ServiceRecord], None]
OnFailed = Callable[[LfmeshError], None]


def run_gateway(
    config: Config,
    *,
    on_started: OnStarted | None = None,
    on_failed: OnFailed | None = None,
    parent_pid: int | None = None,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> int:
    """Run a gateway in this process until a signal ends it, with `gateway.workers` processes of its own if there are
    to be several; the exit code. Call it without a running loop or threads. The rest is as `run_service` has it, but
    for `on_started`: it is called for each start of each worker."""
    if config.gateway.workers > 1:
        return run_crew(config, on_started, on_failed, parent_pid, stop_timeout_s)
    return run_service(
        GatewayService,
        config,
        Role.GATEWAY,
        on_started=on_started,
        on_failed=on_failed,
        parent_pid=parent_pid,
        stop_timeout_s=stop_timeout_s,
    )


def run_crew(
    config: Config,
    on_started: OnStarted | None,
    on_failed: OnFailed | None,
    parent_pid: int | None,
    stop_timeout_s: float,
) -> int:
    """Supervise the workers of a gateway; see `run_gateway`."""
    name, section = instance_name(config, Role.GATEWAY), config.gateway
    log = logs.logger(config.log, role=str(Role.GATEWAY), instance=name)
    logs.capture_standard_logging(log, config.log)
    with suppress(ImportError):  # where it is, each worker uses it: imported once for all
        import uvloop  # noqa: F401
    supervisor_pid = os.getpid()
    try:
        telemetry = [worker_address(section.bind_telemetry, number) for number in range(1, section.workers + 1)]
        listeners = sockets.listen(section.host, section.port, section.workers)
    except LfmeshError as error:
        log.error("cannot start", error=str(error))  # noqa: TRY400 - a line that explains itself: no traceback
        if on_failed is not None:
            on_failed(error)
        return EXIT_FAILED
    port: int = listeners[0].getsockname()[1]
    names = [f"{name}.{number}" for number in range(1, section.workers + 1)]
    addresses = dict(zip(names, telemetry, strict=True))

    def run_worker(worker: str, member: Member) -> int:
        name_process(worker)
        own = {"instance": worker, "port": port, "bind_telemetry": addresses[worker]}

        def make(config: Config, context: Context) -> Service:
            return GatewayService(config, context, member=member)

        return run_service(
            make,
            config.override({"gateway": own}),
            Role.GATEWAY,
            on_started=member.started,
            on_failed=member.failed,
            parent_pid=supervisor_pid,
            stop_timeout_s=stop_timeout_s,
        )

    crew = Crew(
        name,
        dict(zip(names, listeners, strict=True)),
        Admissions(section.max_clients, section.max_clients_per_address),
        run_worker,
        log,
        on_started or (lambda _: None),
        section.drain_s + stop_timeout_s,
        parent_pid,
    )
    code = crew.run()
    if crew.fault is not None and on_failed is not None:
        on_failed(_error(*crew.fault))
    return code


def worker_address(template: str, number: int) -> str:
    """The address of one worker's socket: its own where the template has {instance} or any port; else the port after
    the one before, or a file with the number at its end. ConfigError if there is no such port."""
    scheme, _, place = template.partition("://")
    if "{instance}" in template:
        return template
    if scheme != "tcp":
        return f"{template}.{number}"
    host, _, port = place.rpartition(":")
    if not port.isdecimal() or int(port) == 0:
        return template
    if int(port) + number - 1 > _MAX_PORT:
        raise ConfigError(f"gateway.bind_telemetry: {template} leaves no ports for further workers")
    return f"tcp://{host}:{int(port) + number - 1}"


def name_process(name: str) -> None:
    """Let `ps -o comm`, top and htop tell processes apart, where there is /proc (its limit is 15 bytes)."""
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(name.encode()[:15])


def _error(kind: str, line: str) -> LfmeshError:
    """A worker's error, as far as its line goes."""
    found = getattr(errors, kind, LfmeshError)
    return found(line) if found in (errors.ConfigError, errors.PortInUse, errors.BadEndpoint) else LfmeshError(line)
