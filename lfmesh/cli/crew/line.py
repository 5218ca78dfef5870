"""The supervisor's end of the line to one worker: a socket that never makes it wait."""

import socket

from lfmesh.services.gateway.crew_messages import FromWorker, Lines, ToWorker, decode_from_worker, line

_READ_BYTES = 256 * 1024
MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""A worker that reads nothing can hardly have so many requests waiting; past it what it is to be told is dropped."""


class LineEnd:
    """See the module's docstring; `socket` is to be watched, for writing too while `unsent`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.open = True
        self._lines = Lines()
        self._unsent = bytearray()

    @property
    def unsent(self) -> int:
        """Bytes that wait until the worker reads."""
        return len(self._unsent)

    def send(self, message: ToWorker) -> bool:
        """Tell the worker, now or as soon as it reads; False if too much waits already."""
        if len(self._unsent) >= MAX_UNSENT_BYTES:
            return False
        self._unsent += line(message)
        self.flush()
        return True

    def flush(self) -> None:
        """Give away what the socket takes."""
        try:
            while self._unsent:
                sent = self.socket.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:  # the worker is gone, or about to be; its death is noticed by itself
            self._unsent.clear()

    def receive(self) -> list[FromWorker]:
        """What the worker has said; `open` is False once it has closed its end."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.open = False
        return [decode_from_worker(text) for text in self._lines.feed(data)]

    def close(self) -> None:
        """Let go of the socket."""
        self.open = False
        self.socket.close()
