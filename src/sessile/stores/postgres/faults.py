"""What an error of the driver means: whether it may pass, and whether a commit may have happened all the same."""

import asyncpg

_PASSING = (
    "08",  # the connection is gone
    "25006",  # the server is read-only: a standby, or a primary on its way down
    "28",  # it does not let us in now
    "3D",  # the database is not there now
    "40",  # serialization failure, deadlock
    "53",  # out of disk, memory or connections
    "55P03",  # a lock was not to be had in time
    "57",  # it shuts down, starts, or was told to cancel
    "58",  # its disk fails
    "XX",  # it fails inside
)
"""SQLSTATE classes and codes of failures of the database, not of a verb: trying again may help."""
_AT_ONCE = ("40",)
DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""All that the driver raises. Its internal errors are connections that ended while nobody looked."""
BROKEN = (asyncpg.InternalClientError, TimeoutError)
"""After these, nobody knows what a connection is doing."""


def passing(error: BaseException, lost: bool) -> bool:
    """Whether the same verb may succeed later. `lost`: the connection it happened on is closed."""
    if isinstance(error, asyncpg.PostgresError):
        return (getattr(error, "sqlstate", None) or "").startswith(_PASSING)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return False
    return lost or isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def at_once(error: BaseException) -> bool:
    """Whether to try again without a pause: another transaction was in the way, and is through."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_AT_ONCE)


def refused(error: BaseException) -> bool:
    """Whether an error that answers a COMMIT says that nothing was committed. Every other one leaves that open."""
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return isinstance(error, asyncpg.PostgresError) and severity == "ERROR"


def describe(error: BaseException) -> str:
    """The error without anything that a connection string might hold."""
    code = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__
