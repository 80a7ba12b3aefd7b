"""Structured logs: one event per line, as JSON or as text, with fields beside the message.

``log.info("block connected", extra={"height": 7})``. Values are shortened, line breaks and control
characters are escaped, so that what a peer sends stays inside its field.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from consensus.errors import LocalFault
from node.config import LogConfig
from node.keyfile import Secret
from node.limits import LOG_FIELD_CHARS

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_LEVELS = {"WARNING": "warn", "CRITICAL": "fatal"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed in ``extra``."""
    return {key: _plain(value) for key, value in vars(record).items() if key not in _STANDARD}


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return "hidden"
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= LOG_FIELD_CHARS else text[: LOG_FIELD_CHARS - 3] + "..."


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelname, record.levelname.lower())


def _trace(record: logging.LogRecord) -> str | None:
    return "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the fields, and ``trace`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        event = {
            "time": _time(record),
            "level": _level(record),
            "logger": record.name,
            "message": _plain(record.getMessage()),
            **_fields(record),
        }
        trace = _trace(record)
        if trace is not None:
            event["trace"] = trace
        return json.dumps(event, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """``time level logger: message key=value ...``, a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        line = f"{_time(record)} {_level(record):5} {record.name}: {_escape(_plain(record.getMessage()))}"
        for key, value in _fields(record).items():
            line += f" {key}={_quote(value)}"
        trace = _trace(record)
        return line if trace is None else f"{line}\n{trace.rstrip()}"


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quote(value: Any) -> str:
    text = _escape(str(value))
    if text and not any(char in ' "=' for char in text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def setup_logging(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send all logging of the process to standard error, ``stream`` or the configured file.

    Raises LocalFault ``log-unwritable``.
    """
    handler: logging.Handler
    if config.file is None:
        handler = logging.StreamHandler(stream or sys.stderr)
    else:
        try:
            handler = logging.FileHandler(config.file, encoding="utf-8")
        except OSError as error:
            raise LocalFault("log-unwritable", f"{config.file}: {error.strerror}") from None
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
    logging.raiseExceptions = False
