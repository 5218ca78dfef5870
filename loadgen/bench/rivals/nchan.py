"""nginx with the nchan module: WebSocket subscribers of one channel, one publisher that POSTs.

A worker process for each core (two of them carry more than twice as much as one), no logs, nothing stored, no pings.
The publisher keeps one connection and sends up to 16 requests at once on it, so that it is never waited for.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from loadgen.bench.audience import Audience, Party, upgrade
from loadgen.bench.process import Program, Worker, free_port, listening
from loadgen.bench.rivals.rival import NotInstalled, Rival, Seats, publish

NAME = "nginx nchan"
WINDOW = 256
FRAME_HEADER_BYTES = 4
_BURST = 16
_MODULES = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")
_RESPONSE_BYTES = 1 << 16

_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes auto;
pid {folder}/pid;
error_log /dev/null crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 128M;
    server {{
        listen 127.0.0.1:{port};
        location = /pub {{ nchan_publisher http; nchan_channel_id ticker; nchan_store_messages off; }}
        location = /sub {{ nchan_subscriber websocket; nchan_channel_id ticker; nchan_websocket_ping_interval 0; }}
    }}
}}
"""


@contextmanager
def nchan(audience: Audience, seats: Seats, folder: Path) -> Iterator[Rival]:
    """Start it, with its clients subscribed; NotInstalled."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    modules = [Path(where) / "ngx_nchan_module.so" for where in _MODULES]
    module = next((path for path in modules if path.exists()), None)
    if program is None or module is None:
        raise NotInstalled("nginx with nchan")
    port = free_port()
    home = folder / "nginx"
    home.mkdir(mode=0o755)
    settings = home / "nginx.conf"
    settings.write_text(_CONFIGURATION.format(module=module, folder=home, port=port), encoding="ascii")
    with Program([program, "-p", str(home), "-c", str(settings), "-e", "stderr"]) as server:
        server.until(lambda: listening(port), "nginx to listen")
        hello = upgrade("/sub", port)
        audience.join(Party(port, seats.slots.start, hello, (b"",) * seats.clients))
        each = FRAME_HEADER_BYTES + len(seats.message)
        with Worker(_publish, seats, port, each) as publisher:
            yield Rival(NAME, seats, each, publisher, server.pid)


def _publish(control: Connection, seats: Seats, port: int, each: int) -> None:
    head = f"POST /pub HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(seats.message)}\r\n\r\n"
    request = head.encode() + seats.message
    with socket.create_connection(("127.0.0.1", port)) as server:

        def send(count: int) -> None:
            server.sendall(request * count)
            answered, got = 0, b""
            while answered < count:
                piece = server.recv(_RESPONSE_BYTES)
                if not piece:
                    raise ConnectionError("nginx has cut the publisher's connection")
                got += piece
                answered = got.count(b"\r\n\r\n")

        publish(control, seats, each, WINDOW, _BURST, send)
