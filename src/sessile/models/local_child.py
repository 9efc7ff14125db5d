"""The process of an offline model: llama.cpp, serving one model file over HTTP on loopback until its stdin closes.

Run as `python -m sessile.models.local_child FILE TOKENS SLOTS`. Once it answers, it prints one JSON line: `base_url`,
`key`, `context_window`. It cannot outlive the server that started it: the other end of stdin closes with that process.
"""

import http.client
import json
import os
import secrets
import signal
import sys

import xllamacpp

HOST = "127.0.0.1"
MAX_THREADS = 8
"""More do not help a small model; they only take the machine from others."""
HTTP_THREADS = 32
"""Each request that waits or runs holds one."""
_LOG_WARNINGS = 2


def main() -> None:
    """Serve until stdin closes. Whoever started this process decides when it ends: signals to its group are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # llama.cpp may print; the answer gets a descriptor of its own.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    file, tokens, slots = sys.argv[1:]
    key = secrets.token_urlsafe(32)
    server = xllamacpp.Server(_parameters(file, int(tokens), int(slots), key))
    port = int(server.listening_address.rpartition(":")[2])
    ready = {"base_url": f"http://{HOST}:{port}/v1", "key": key, "context_window": _slot_size(port, key)}
    os.write(answers, json.dumps(ready).encode() + b"\n")
    sys.stdin.buffer.read()
    # Not a clean end: it would wait for a call that runs, and nobody reads that answer any more.
    os._exit(0)


def _parameters(file: str, tokens: int, slots: int, key: str) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx = tokens * slots
    parameters.n_parallel = slots
    parameters.hostnames = [HOST]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.cors_origins = parameters.cors_methods = parameters.cors_headers = ""
    parameters.cors_credentials = False
    parameters.ui = False
    parameters.endpoint_slots = True
    parameters.use_jinja = True
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_threads_http = HTTP_THREADS
    parameters.verbosity = _LOG_WARNINGS
    for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
        cpu.n_threads = _threads()
        # Waiting by spinning would slow down everybody else on a busy machine, and gains nothing here.
        cpu.poll = 0
    return parameters


def _threads() -> int:
    """One core is left to the server: threads that wait for one without a core make the model several times slower."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MAX_THREADS, (allowed or 1) - 1))


def _slot_size(port: int, key: str) -> int:
    """The tokens that one call really has: a model may have been trained on fewer than were asked for."""
    connection = http.client.HTTPConnection(HOST, port)
    connection.request("GET", "/slots", headers={"Authorization": f"Bearer {key}"})
    slots = json.load(connection.getresponse())
    connection.close()
    return min(int(slot["n_ctx"]) for slot in slots)


if __name__ == "__main__":
    main()
