"""What tells a process to end: Ctrl-C and other signals, and output that nobody reads any more."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a process to end: SIGINT, SIGTERM and, unless `nohup` has it ignored, SIGHUP."""
    asked = (signal.SIGINT, signal.SIGTERM)
    return asked if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*asked, signal.SIGHUP)


@contextmanager
def stop_event() -> Iterator[asyncio.Event]:
    """An event that the ending signals set, inside a running loop; a second signal ends the process at once.

    Afterwards these signals are ignored: the process is on its way out.
    """
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    numbers = ending_signals()

    def asked() -> None:
        event.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        loop.add_signal_handler(number, asked)
    try:
        yield event
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def discard_output() -> None:
    """Whoever read our output has gone: what is still buffered, and what comes, must not complain at exit."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(sink, stream.fileno())
    os.close(sink)
