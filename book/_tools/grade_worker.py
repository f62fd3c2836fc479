"""What grade.py runs inside the sandbox: the cells of one submission, one request at a time.

Every cell runs in a forked child. The child of an answer lives on and takes the next request, while
its parent waits with the state from before: if the child is killed, for time or for memory, the
parent goes on without that cell. The child of a test reports and ends, so nothing that a test
brings with it is left for the student's next cells to find. The request itself is read only after
the fork, for the same reason.
"""

import builtins
import json
import os
import resource
import select
import signal
import struct
import sys
import threading
import types
from importlib import import_module

MEMORY = 9  # exit status of a child that ran out of memory


def limit(memory, cpu):
    """Limit what every process may use: bytes, seconds. Not to be raised again."""
    for what, value in (
        (resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 256 << 20), (resource.RLIMIT_NPROC, 4096),
    ):  # fmt: skip
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def make_shell():
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            pass  # %matplotlib asks for it

        def showtraceback(self, *args, **kwargs):
            pass

        showsyntaxerror = showindentationerror = showtraceback

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    return Shell.instance(config=config)


def read_exactly(fd, size):
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            return None
        data += part
    return data


def message(error):
    try:
        return "" if error is None else str(error)[:300]
    except BaseException:
        return ""


class Worker:
    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies
        self.shell = make_shell()
        self.given = {}  # what the locked cells defined
        self.saved = []  # (module or class, its functions) as they were before any answer ran

    def reply(self, **what):
        os.write(self.replies, json.dumps(what).encode() + b"\n")

    def prepare(self, modules):
        """Import what the locked cells import, and remember it before a student can change it."""
        for name in modules:
            try:
                import_module(name)
            except ImportError:
                pass
        tops = {name.split(".")[0] for name in modules} | {"builtins", "json", "os", "sys"}
        seen = set()
        for module in [m for n, m in list(sys.modules.items()) if n.split(".")[0] in tops]:
            classes = [v for v in vars(module).values() if isinstance(v, type)]
            for owner in (module, *classes):
                if id(owner) not in seen:
                    seen.add(id(owner))
                    parts = {k: v for k, v in vars(owner).items() if callable(v)}
                    self.saved.append((owner, parts))

    def restore(self):
        """Put back what was replaced in the libraries; return the names."""
        names = []
        for owner, parts in self.saved:
            now = vars(owner)
            for name, value in parts.items():
                if now.get(name) is not value:
                    try:
                        setattr(owner, name, value)
                    except (AttributeError, TypeError):
                        continue
                    if not name.startswith("_"):
                        names.append(f"{owner.__name__}.{name}")
        return names

    def run(self, request):
        """Run an answer or a given cell; its names are remembered if it is a given one."""
        namespace = self.shell.user_ns
        before = dict(namespace)
        result = self.shell.run_cell(request["source"], store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, MemoryError) or "can't allocate memory" in message(error):
            os._exit(MEMORY)  # goes back to the state before this cell, with its memory
        if request["kind"] == "given":
            names = [n for n in namespace if namespace[n] is not before.get(n, self)]
            self.given |= {n: namespace[n] for n in names if n not in request["free"]}
        name = "" if error is None else type(error).__name__
        return {"ok": error is None, "error": name, "message": message(error)}

    def namespace(self):
        """The student's names for a test, less those that hide a builtin or a given name."""
        clean = {k: v for k, v in self.shell.user_ns.items() if not hasattr(builtins, k)}
        clean["__builtins__"] = builtins
        for name, value in self.given.items():
            if isinstance(value, types.FunctionType) and value.__globals__ is self.shell.user_ns:
                keywords = value.__kwdefaults__
                value = types.FunctionType(
                    value.__code__, clean, name, value.__defaults__, value.__closure__
                )
                value.__kwdefaults__ = keywords
            clean[name] = value
        return clean

    def test(self, request):
        """Run a test as plain Python, out of reach of what was hooked into IPython."""
        sys.settrace(None)
        sys.setprofile(None)
        threading.settrace(None)
        replaced, error = self.restore(), None
        try:
            exec(compile(request["source"], "<test>", "exec"), self.namespace())
        except BaseException as caught:  # a student's function may raise anything, even SystemExit
            error = caught
        name = "" if error is None else type(error).__name__
        outcome = {"ok": error is None, "error": name, "message": message(error)}
        return outcome | {"replaced": replaced[:10]}

    def child(self, kind, seconds, done):
        """Handle one request in a forked child; return whether this child lives on."""
        size = struct.unpack("!I", read_exactly(self.requests, 4))[0]
        request = json.loads(read_exactly(self.requests, size))
        if kind == b"T":  # no pipe of the student's leads out of here
            done = os.dup2(done, 202, inheritable=False)
            os.closerange(3, 200)
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            if kind == b"P":
                outcome = self.prepare(request["modules"]) or {"ok": True}
            else:
                outcome = self.test(request) if kind == b"T" else self.run(request)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.reply(token=request["token"], **outcome)
        os.write(done, b"1")
        os.close(done)
        return kind != b"T"

    def serve(self):
        while True:
            header = read_exactly(self.requests, 5)
            if header is None:
                os._exit(0)
            kind, seconds = struct.unpack("!cI", header)
            alive, done = os.pipe()
            pid = os.fork()
            if pid == 0:
                lives_on = False
                try:
                    os.close(alive)
                    lives_on = self.child(kind, seconds, done)
                finally:
                    if not lives_on:
                        os._exit(1)
                continue
            os.close(done)
            ready = select.select([alive], [], [], seconds + 2)[0]
            finished = bool(ready) and os.read(alive, 1) == b"1"
            os.close(alive)
            if not finished:
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            if finished and kind != b"T":
                os._exit(0)  # its child was the worker since then, and has ended
            if not finished:
                memory = os.waitstatus_to_exitcode(status) == MEMORY
                self.reply(died="memory" if memory else "crash" if ready else "time")


def interrupt(number, frame):
    raise KeyboardInterrupt("time limit")


def main():
    limit(int(sys.argv[1]), int(sys.argv[2]))
    requests, replies = os.dup(0), os.dup(1)
    requests, replies = [os.dup2(fd, 200 + fd, inheritable=False) for fd in (requests, replies)]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 200)
    Worker(requests, replies).serve()


main()
