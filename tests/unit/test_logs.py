"""What a program logs while a tool call runs."""

import subprocess
import sys

import pytest

START = """
import logging
import structlog
from sessile import logs
from sessile.domain import overrides
logs.configure("warning")
overrides.IN_USE.set(frozenset({"s3cret"}))
"""


@pytest.mark.parametrize(
    "line",
    [
        "logging.getLogger('tool').warning('asked with %s', 's3cret')",
        "structlog.get_logger().warning('asked', key='s3cret')",
    ],
)
def test_what_a_tool_logs_itself_holds_no_secret_of_its_call(line: str) -> None:
    done = subprocess.run([sys.executable, "-c", START + line], capture_output=True, text=True, check=True)
    assert "asked" in done.stderr
    assert "***" in done.stderr
    assert "s3cret" not in done.stderr
