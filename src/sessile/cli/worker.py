"""One of several workers, started by `sessile.cli.supervisor`, which tells it on stdin what to do."""

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import msgspec
import typer

from sessile.cli import faults, serving
from sessile.cli.supervisor import Start
from sessile.compose.serving import Share


def main() -> None:
    """Run until SIGTERM, or until whoever started us is gone: then drain as well. What is wrong is told as always."""
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    os.set_inheritable(start.report, False)
    sockets = [socket.socket(fileno=descriptor) for descriptor in start.sockets]
    for shared in sockets:
        shared.set_inheritable(False)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(told: serving.Told) -> None:
        os.write(start.report, msgspec.json.encode(told))
        os.close(start.report)

    share = Share(start.number, sockets, Path(start.meeting))
    with faults.handled({}):
        serving.serve(start.config, start.config_file, start.sample, tell, share)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as exit:
        sys.exit(exit.exit_code)
