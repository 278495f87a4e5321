"""A `python` that need not load its libraries: each command is a process forked off one that has them.

Importing torch, transformers, lmms-eval and Snakemake takes ten seconds of CPU, and a study is a dozen
processes. They are loaded once per environment, since some read it when they are imported; never `dyrate`
itself, which each command takes from its own path. A command has its caller's arguments, environment, folder
and streams, and ends as it would.

This file also runs by its path, and so imports nothing that is slow to load.
"""

import fcntl
import gc
import hashlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from select import select
from types import ModuleType

LIBRARIES = (
    "snakemake.cli",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "pandas",
    "datasets",
    "lmms_eval.tasks",
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llama.modeling_llama",
)
UNREAD = {
    *("PATH", "PYTHONPATH", "PWD", "OLDPWD", "SHLVL", "_", "PYTEST_CURRENT_TEST", "DYRATE_HUB_OFFLINE"),
    *("TEMP", "TEMPDIR", "TMP", "TMPDIR"),
}
"""Variables that none of them reads when it is imported."""
IDLE = 180
"""Seconds after which it is done."""


def make(folder: Path) -> None:
    """Write into a new folder `python`, `dyrate` and `snakemake`, which run as this Python's own do."""
    folder.mkdir()
    for name, module in {"python": "", "dyrate": "-m dyrate.cli", "snakemake": "-m snakemake"}.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {__file__} call {folder} {module} "$@"\n')
        path.chmod(0o755)


def call(folder: str, arguments: list[str]) -> None:
    """Have it run, and end as it ended."""
    if arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"):
        os.execv(sys.executable, [sys.executable, *arguments])
    request = json.dumps([folder, arguments, str(Path.cwd()), dict(os.environ)])
    with _connected(folder) as connection:
        socket.send_fds(connection, [f"{request}\n".encode()], [0, 1, 2])
        status = int(connection.recv(16) or -signal.SIGKILL)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _connected(folder: str) -> socket.socket:
    read = {name: value for name, value in os.environ.items() if name not in UNREAD}
    if read.get("OMP_NUM_THREADS") == "1":  # Snakemake says it to its jobs of one thread in six ways
        read = {
            name: value for name, value in read.items() if not name.endswith("_THREADS") or name[:3] == "OMP"
        }
    address = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
    os.chdir(folder)  # what a socket's address can hold is short
    with Path(f"{address}.lock").open("w") as lock, Path(f"{address}.log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(address)
            return connection
        serve = [sys.executable, __file__, "serve", address]
        ready = subprocess.Popen(serve, env=read, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        assert ready.stdout is not None
        ready.stdout.read()  # which it closes
        connection.connect(address)
        return connection


def serve(address: str) -> None:
    """Load the libraries, then fork for each caller; return in the process that shall run its command."""
    del sys.path[0]  # this file's folder
    for name in LIBRARIES:
        import_module(name)
    assert "dyrate" not in sys.modules
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    Path(address).unlink(missing_ok=True)
    listener.bind(address)
    listener.listen(64)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
    listener.settimeout(IDLE)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if listener.gettimeout() != IDLE:
                sys.exit()
            Path(address).unlink()
            listener.settimeout(1)  # for who has connected meanwhile
            continue
        if os.fork() == 0:
            listener.close()
            return answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Fork once more: one waits, for the command or for its caller to be gone, the other runs it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.setblocking(True)
    text, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 20)
    command = os.fork()
    if command == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return run(*json.loads(text))
    for stream in streams:
        os.close(stream)
    over = os.pidfd_open(command)
    if over not in select([connection, over], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with suppress(BrokenPipeError):
        connection.send(str(status).encode())
    os._exit(0)


def run(folder: str, arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be `python ARGUMENTS`."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = f"{folder}/python"
    kind, *rest = arguments
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if kind == "-m":
        sys.argv, sys.path[:0] = rest, [cwd, *paths]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], ["", *paths]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[:0] = arguments, [str(Path(kind).resolve().parent), *paths]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "call":
        call(sys.argv[2], sys.argv[3:])
    else:
        serve(sys.argv[2])
