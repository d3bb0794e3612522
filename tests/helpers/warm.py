"""Pythons that start warm: a server imports the slow packages once, and forks itself for every command.

Most of a tiny job is the start of Python and its imports. A forked command begins after them. The server
imports nothing of Crossdiff: each command finds the library of its own checkout. Each command ends as a
process of its own, with its exit functions and its exit code.

As a script, ``warm.py serve FOLDER KIND`` is a server. ``warm.py run FOLDER ...`` is a client: it asks a
server to run a command as Python takes it (``-m module``, ``-c code`` or a file), and ends as that command
does. Commands find this client as their Python, so what they start is warm too.
"""

import array
import json
import os
import signal
import socket
import struct
import sys

# What each kind of server imports: "snakemake" plans and audits, "torch" runs the scripts of jobs.
PACKAGES = {
    "snakemake": """
        snakemake.cli snakemake.api snakemake.script nbformat smart_open sqlalchemy yaml pydantic requests
    """,
    "torch": """
        snakemake.script yaml pydantic.main pydantic.types requests pandas pandas.io.formats.csvs
        pyarrow.parquet pyarrow.dataset pyarrow.pandas_compat h5py hdf5plugin matplotlib.pyplot
        matplotlib.backends.backend_svg matplotlib.backends.backend_pdf matplotlib.backends.backend_agg
        fontTools.subset jinja2 scipy.stats sklearn.decomposition sklearn.metrics
        sklearn.feature_extraction.text tokenizers safetensors.torch torch
        transformers transformers.models.auto.modeling_auto
        transformers.models.llama.modeling_llama transformers.models.llama.tokenization_llama
    """,
}
# Packages read these variables when they are imported. A command that needs other values can't start warm.
READ_AT_IMPORT = tuple("HF_ TRANSFORMERS_ OMP_ MKL_ OPENBLAS_ TORCH_ CUDA_ MPL ARROW_ LD_".split())


def read_at_import(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(READ_AT_IMPORT)}


# The client.


class Command:
    """A command that runs in a fork of a server, with these files as its input, output and error output."""

    def __init__(
        self,
        folder: str,
        arguments: list[str],
        cwd: str,
        variables: dict[str, str],
        descriptors: tuple[int, int, int],
        timeout: float | None,
    ) -> None:
        kind = "snakemake" if arguments[0] in ("-m", "-c") else "torch"
        body = json.dumps([arguments, cwd, variables]).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self.server = socket.socket(socket.AF_UNIX)
        self.server.settimeout(timeout)
        self.server.connect(os.path.join(folder, kind))
        self.server.sendmsg([struct.pack("I", len(body))], [rights])
        self.server.sendall(body)

    def wait(self) -> int:
        """Wait for the command's exit code, negative after a signal.

        Raises TimeoutError after the time that was given; the command is killed then.
        """
        with self.server:
            answer = self.server.recv(4)
        if len(answer) < 4:
            raise ConnectionError("the server of warm Pythons is gone")
        return struct.unpack("i", answer)[0]


# The server.


class Server:
    """Forks itself for each command and tells the client how it ended. Ends when its standard input does."""

    def __init__(self, folder: str, kind: str) -> None:
        self.kind, self.loaded = kind, False
        self.python = os.path.join(folder, "python")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(folder, kind))
        self.listener.listen(64)
        self.base = sys.path[1:]  # without the folder of this file

    def serve(self) -> None:
        import select

        # Descriptor of the process -> its number, and the client that waits for it.
        clients: dict[int, tuple[int, socket.socket]] = {}
        waiting: dict[int, int] = {}  # descriptor of the client -> that of its process
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        poll.register(self.listener, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == 0:
                    return
                if descriptor == self.listener.fileno():
                    client, _ = self.listener.accept()
                    if process := self.start(client, [*clients, *waiting]):
                        ended = os.pidfd_open(process)
                        clients[ended], waiting[client.fileno()] = (process, client), ended
                        poll.register(ended, select.POLLIN)
                        poll.register(client, select.POLLHUP)
                elif descriptor in clients:
                    process, client = clients.pop(descriptor)
                    _, status = os.waitpid(process, 0)
                    poll.unregister(descriptor)
                    os.close(descriptor)
                    if waiting.pop(client.fileno(), None) is not None:
                        poll.unregister(client)
                        try:
                            client.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))
                        except OSError:
                            pass
                    client.close()
                elif descriptor in waiting:  # the client was killed, so is the command
                    poll.unregister(descriptor)
                    process, _ = clients[waiting.pop(descriptor)]
                    os.killpg(process, signal.SIGKILL)

    def start(self, client: socket.socket, others: list[int]) -> int | None:
        """Fork a process for a client's command and give its number; None if the client left too early."""
        head, descriptors, _, _ = socket.recv_fds(client, 4, 3)
        if len(head) < 4:
            client.close()
            return None
        length = struct.unpack("I", head)[0]
        body = client.recv(length, socket.MSG_WAITALL)
        if len(body) == length:
            self.load()
        process = os.fork() if len(body) == length else None
        if process == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                self.listener.close()
                client.close()
                for other in others:
                    os.close(other)
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                code = command(*json.loads(body), self.base, self.python)
            finally:
                os._exit(code)
        for descriptor in descriptors:
            os.close(descriptor)
        if process:
            try:
                os.setpgid(process, process)
            except OSError:
                pass
        else:
            client.close()
        return process

    def load(self) -> None:
        """Import the packages when the first command comes."""
        if not self.loaded:
            import gc
            import importlib
            import runpy  # noqa: F401
            import threading  # noqa: F401

            for name in PACKAGES[self.kind].split():
                importlib.import_module(name)
            loaded = [name for name in sys.modules if name.split(".")[0] == "crossdiff"]
            assert not loaded, loaded
            if self.kind == "snakemake":
                sys.modules["snakemake.cli"].get_argument_parser()  # finds its plugins
            gc.collect()
            gc.freeze()  # so that commands do not copy what they only read
            self.loaded = True


def command(arguments: list[str], cwd: str, variables: dict[str, str], base: list[str], python: str) -> int:
    """Run a command in this process as Python would have; give its exit code."""
    import atexit
    import importlib
    import runpy
    import threading
    import types

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    paths = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first, *rest = arguments
    what, rest = (rest[0], rest[1:]) if first in ("-m", "-c") else (first, rest)
    sys.path[:] = [{"-m": cwd, "-c": ""}.get(first, os.path.dirname(os.path.abspath(what))), *paths, *base]
    sys.argv[:] = [first if first in ("-m", "-c") else what, *rest]
    sys.executable = python
    importlib.invalidate_caches()
    code: object = 0
    try:
        if any(os.path.exists(os.path.join(path, "sitecustomize.py")) for path in paths):
            sys.modules.pop("sitecustomize", None)
            importlib.import_module("sitecustomize")
        if first == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif first == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), main.__dict__)
        else:
            runpy.run_path(what, run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is None or isinstance(code, int):
        code = code or 0
    else:
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # waits for its threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code & 0xFF


def start(folder: str) -> list:
    """Start servers of all kinds, with their sockets in an empty folder.

    They import nothing before the first command comes.
    """
    import subprocess
    import time

    python = os.path.join(folder, "python")
    with open(python, "w") as file:
        file.write(
            f'#!/bin/sh\nexec "{sys.executable}" -I -S "{os.path.abspath(__file__)}" run "{folder}" "$@"\n'
        )
    os.chmod(python, 0o755)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # as the rules set it for jobs
    command = [sys.executable, os.path.abspath(__file__), "serve", folder]
    servers = [subprocess.Popen([*command, kind], env=variables, stdin=subprocess.PIPE) for kind in PACKAGES]
    while len(os.listdir(folder)) < 1 + len(servers):
        assert not any(server.poll() for server in servers)
        time.sleep(0.01)
    return servers


def stop(servers: list) -> None:
    for server in servers:
        server.stdin.close()
        server.wait()


if __name__ == "__main__":
    mode, folder, *rest = sys.argv[1:]
    if mode == "serve":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Server(folder, *rest).serve()
    else:
        ended = Command(folder, rest, os.getcwd(), dict(os.environ), (0, 1, 2), None).wait()
        if ended < 0:
            signal.signal(-ended, signal.SIG_DFL)
            os.kill(os.getpid(), -ended)
        sys.exit(ended)
