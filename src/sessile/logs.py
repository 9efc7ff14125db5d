"""Structured logs: one JSON object a line on standard error, or coloured text when a person is watching."""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sessile.domain import overrides
from sessile.wire import codec


def configure(level: str, worker: int | None = None) -> None:
    """Set up all logging of the process, that of libraries too. Every line of one of several workers has its number."""
    number = getattr(logging, level.upper())

    def name_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return event if worker is None else {**event, "worker": worker}

    shared: list[Processor] = [
        name_worker,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _mask,
    ]
    if sys.stderr.isatty():
        structlog.configure(
            processors=[*shared, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)],
            wrapper_class=structlog.make_filtering_bound_logger(number),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            processors=[*shared, _render],
            wrapper_class=structlog.make_filtering_bound_logger(number),
            logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
            cache_logger_on_first_use=True,
        )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_ToStructlog()], force=True)


def leave_to_application() -> None:
    """For a library: log through the standard library's loggers, unless the application has configured structlog."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            _mask,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def _mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """No secret of the tool call that runs, whatever its tool raises."""
    secrets = overrides.IN_USE.get()
    return {key: overrides.masked(_plain(value), secrets) for key, value in event.items()} if secrets else event


def _render(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    return codec.encode({key: _plain(value) for key, value in event.items()})


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
