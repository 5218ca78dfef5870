"""Logs: structured events on standard error, for people (`console`) or machines (`json`, one object a line).

    log = log.logger(config.log, role="gateway", instance="gateway-0")
    log.warning("gap opened", product="BTC-USD", missing=3)

An event is a constant text, what varies are its fields. Secrets never get out: fields named like one and the user part
of URLs are masked. When nobody reads standard error any more, what is logged is dropped; the service goes on.
"""

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lfmesh.config import LogSection

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SECRET_NAMES = re.compile(r"(?i)(?:^|_)(?:password|passphrase|secret|token|api_?key|authorization|signature)$")
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_MASK = "***"


def logger(section: LogSection, **bound: str | int) -> "FilteringBoundLogger":
    """A logger to standard error with these fields on every line; nothing global is touched."""
    made: FilteringBoundLogger = structlog.wrap_logger(
        _StandardError(),
        processors=[structlog.processors.add_log_level, _mask_secrets, *_rendering(section.format)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[section.level]),
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return made


def capture_standard_logging(log: "FilteringBoundLogger", section: LogSection) -> None:
    """Send what libraries log, and Python's warnings, to `log`: once, for the whole process.

    Some libraries tell of each connection and request at level info; that is left to their own warnings.
    """
    logging.basicConfig(handlers=[_ToStructlog(log)], level=_LEVELS[section.level], force=True)
    logging.captureWarnings(capture=True)
    for noisy in ("websockets", "asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, _LEVELS[section.level]))


class _StandardError:
    """Where lines go. Looked up at each line, so that whoever replaces `sys.stderr` is heard."""

    def msg(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # the reader is gone, the disk is full, or the stream is closed
            return

    debug = info = warning = error = critical = exception = fatal = warn = log = failure = msg


class _ToStructlog(logging.Handler):
    """Hands records of the standard library's logging over, with the logger's name as a field."""

    def __init__(self, log: "FilteringBoundLogger") -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage().strip()
        except (TypeError, ValueError, KeyError):  # the library's text and its arguments do not fit
            text = str(record.msg)
        # Their texts can hold what a peer sent: keep each on its line and free of terminal escapes.
        event = text if text.isprintable() else repr(text)[1:-1]
        level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
        self._log.log(level, event, logger=record.name, exc_info=record.exc_info)


def _mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if _SECRET_NAMES.search(name):
            event[name] = _MASK
        elif isinstance(value, str) and "://" in value and "@" in value:
            event[name] = _URL_USER.sub(_MASK, value)
    return event


def _name_first(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """For people the instance's name says role and shard."""
    for name in ("role", "shard"):
        event.pop(name, None)
    names = (event.pop("instance", ""), event.pop("logger", ""))
    event["logger"] = " ".join(name for name in names if name)
    return event


def _rendering(form: Literal["console", "json"]) -> list[Processor]:
    if form == "json":
        return [
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        _name_first,
        # Plain tracebacks: the pretty ones show local variables, and with them whatever secrets these hold.
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]
