"""The log: structured events as JSON lines."""

import sys

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("acclimate")


def configure_logging() -> None:
    """Write log events as JSON lines to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
