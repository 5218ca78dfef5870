"""Log lines as they come out on standard error."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from lfmesh.config import LogSection
from lfmesh.observe.log import capture_standard_logging, logger

JSON = LogSection(format="json", level="info")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """What `capture_standard_logging` changes for the whole process, put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("websockets", "asyncio")}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, known in levels.items():
        logging.getLogger(name).setLevel(known)


def test_a_json_line_has_the_bound_fields_the_time_and_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    log = logger(JSON, role="normalizer", instance="normalizer-1", shard=1)
    log.warning("gap opened", product="BTC-USD", missing=3)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "role": "normalizer", "instance": "normalizer-1", "shard": 1,
        "event": "gap opened", "level": "warning", "product": "BTC-USD", "missing": 3,
    }  # fmt: skip


def test_a_console_line_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logger(LogSection(), role="normalizer", instance="normalizer-1", shard=1).warning(
        "gap opened", product="BTC-USD", text="a\nb\x1b[2J"
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "[warning  ] gap opened" in line
    assert "[normalizer-1]" in line
    assert "product=BTC-USD" in line
    assert r"text='a\nb\x1b[2J'" in line
    assert "\x1b" not in line
    assert "role=" not in line


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"]), ("error", ["e"])],
)
def test_levels(level: Any, events: list[str], capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN401
    log = logger(LogSection(format="json", level=level))
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line["event"] for line in lines(capsys)] == events


def test_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    logger(JSON, role="ingestor").info(
        "connecting", api_key="k1", CB_ACCESS_PASSPHRASE="k2", token="k3", signature="k4", aws_secret="k5",
        url="wss://user:k6@feed.example/path", tokens=5, product="BTC-USD",
    )  # fmt: skip
    (line,) = lines(capsys)
    text = json.dumps(line)
    assert not [secret for secret in ("k1", "k2", "k3", "k4", "k5", "k6") if secret in text]
    assert line["url"] == "wss://***@feed.example/path"
    assert (line["tokens"], line["product"]) == (5, "BTC-USD")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_does_not_show_local_variables(form: Any, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN401
    hidden = "".join(["hid", "den"])
    try:
        int("broken")
    except ValueError:
        logger(LogSection(format=form)).exception("failed")
    text = capsys.readouterr().err
    assert "ValueError: invalid literal" in text
    assert "test_log.py" in text
    assert hidden not in text


@pytest.mark.usefixtures("restored_logging")
def test_what_libraries_and_python_say_comes_out_alike(capsys: pytest.CaptureFixture[str]) -> None:
    capture_standard_logging(logger(JSON, role="gateway", instance="gateway-0"), JSON)
    logging.getLogger("some.library").warning("odd %s", "x\ny\x1b[2J")
    logging.getLogger("some.library").debug("too much")
    logging.getLogger("websockets.server").info("connection open")
    logging.getLogger("some.library").log(25, "between the levels")
    logging.getLogger("some.library").warning("odd %d", "no number")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        capture_standard_logging(logger(JSON, role="gateway", instance="gateway-0"), JSON)
        warnings.warn("careful", stacklevel=1)
    found = lines(capsys)
    assert all((line["role"], line["instance"]) == ("gateway", "gateway-0") for line in found)
    assert [(line["logger"], line["level"], line["event"]) for line in found[:3]] == [
        ("some.library", "warning", r"odd x\ny\x1b[2J"),
        ("some.library", "info", "between the levels"),
        ("some.library", "warning", "odd %d"),
    ]
    assert found[3]["logger"] == "py.warnings"
    assert "careful" in found[3]["event"]


def test_a_reader_that_is_gone_does_not_stop_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str, /) -> int:
            raise BrokenPipeError

    log = logger(JSON)
    monkeypatch.setattr(sys, "stderr", Gone())
    log.error("nobody hears this")
