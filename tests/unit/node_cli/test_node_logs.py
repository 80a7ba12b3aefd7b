"""Structured logs: one line per event, fields inside their quotes, no secret."""

import io
import json
import logging

import pytest

from consensus.errors import LocalFault
from node.config import LogConfig
from node.keyfile import Secret
from node.limits import LOG_FIELD_CHARS
from node.logs import setup_logging


@pytest.fixture
def logged():
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    root.handlers.clear()
    stream = io.StringIO()

    def begin(**options):
        setup_logging(LogConfig(**options), stream)
        return logging.getLogger("wattd.test"), stream

    yield begin
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_text(logged):
    log, stream = logged()
    log.info("block %s", "connected", extra={"height": 7, "hash": b"\xab", "who": 'a "b" = c', "empty": ""})
    line = stream.getvalue()
    assert line.endswith('info  wattd.test: block connected height=7 hash=ab who="a \\"b\\" = c" empty=""\n')
    assert line[10] == "T"
    assert line.split()[0].endswith("Z")


def test_a_peer_cannot_forge_a_line(logged):
    log, stream = logged()
    log.warning("from %s", "x\nFAKE", extra={"agent": "a\r\n2026 FAKE\x1b[2J"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    log, stream = logged(format="json")
    log.warning("from", extra={"agent": "a\nb"})
    assert stream.getvalue().count("\n") == 2


def test_json(logged):
    log, stream = logged(format="json", level="debug")
    log.debug("hello", extra={"height": 7, "ratio": 0.5, "ok": True, "none": None, "long": "x" * 5000})
    event = json.loads(stream.getvalue())
    assert (event["level"], event["logger"], event["message"]) == ("debug", "wattd.test", "hello")
    assert (event["height"], event["ratio"], event["ok"], event["none"]) == (7, 0.5, True, None)
    assert len(event["long"]) == LOG_FIELD_CHARS


@pytest.mark.parametrize("form", ["text", "json"])
def test_tracebacks_and_secrets(logged, form):
    log, stream = logged(format=form)
    secret = Secret(b"\x5a" * 32)
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("a bug with %s", secret, extra={"key": secret})
    text = stream.getvalue()
    assert "ValueError: inner" in text
    assert "5a5a" not in text
    assert "hidden" in text


def test_levels(logged):
    log, stream = logged(level="warning")
    log.info("quiet")
    logging.getLogger("asyncio").info("quiet")
    assert stream.getvalue() == ""
    log.warning("loud")
    assert " warn " in stream.getvalue()


def test_files(logged, tmp_path):
    log, _ = logged(file=tmp_path / "log.txt")
    log.info("into a file")
    assert "into a file" in (tmp_path / "log.txt").read_text()
    with pytest.raises(LocalFault) as caught:
        logged(file=tmp_path / "no" / "log.txt")
    assert caught.value.code == "log-unwritable"
