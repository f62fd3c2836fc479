"""Run the cells of a submission apart from the grader's files: bubblewrap and grade_worker.py.

A submission sees the system's libraries, Python and the package, read-only, and an empty folder of
its own. It has no network, and limits on time and memory. A test's source goes to it when the test
is due and not before; what comes back counts only with the random token that went with it.
"""

import ast
import importlib.util
import json
import os
import random
import re
import secrets
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKER = Path(__file__).with_name("grade_worker.py")
MEMORY = 4 << 30  # bytes
ANSWER, TEST = 1 / 4, 1 / 6  # of the notebook's time, for one cell


def protected():
    """Whether bubblewrap is there and may do its work."""
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--cap-drop", "ALL", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def readable():
    """Return what a submission may read: the system's libraries, Python and the package."""
    found = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin"]
    found += [f"/etc/{n}" for n in ("ld.so.cache", "alternatives", "fonts", "localtime", "passwd")]
    found += [sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parents[1])]
    spec = importlib.util.find_spec("ecgtutorial")
    if spec is not None:
        package = Path(spec.origin).parent
        found += [str(package), str(package.parent / "results")]
    return [path for path in dict.fromkeys(found) if os.path.exists(path)]


def command(isolated, folder, memory, cpu):
    """Return the command that starts a worker, and its environment."""
    import matplotlib

    fonts = matplotlib.get_cachedir()
    home = "/tmp" if isolated else str(folder)
    environment = {
        "HOME": home, "TMPDIR": home, "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8", "MPLBACKEND": "agg", "ECGTUTORIAL_CACHE": f"{home}/cache",
        "MPLCONFIGDIR": f"{home}/mpl" if isolated else fonts, "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    environment |= {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL")}
    python = [sys.executable, "-P", "-s", "-c", WORKER.read_text(encoding="utf-8")]
    python += [str(memory), str(cpu)]
    if not isolated:
        return python, environment
    wrap = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    wrap += ["--proc", "/proc", "--dev", "/dev", "--size", str(1 << 30), "--tmpfs", "/tmp"]
    for path in readable():
        wrap += ["--ro-bind", path, path]
    for path in Path(fonts).glob("fontlist-*.json"):
        wrap += ["--ro-bind", str(path), f"/tmp/mpl/{path.name}"]
    return [*wrap, "--chdir", "/tmp", *python], environment


class Sandbox:
    """A worker process for one submission. It takes requests until its time is over."""

    def __init__(self, seconds, isolated, memory=MEMORY):
        self.end = time.monotonic() + seconds
        self.folder = tempfile.mkdtemp(prefix="grade-")
        line, environment = command(isolated, self.folder, memory, int(seconds) + 60)
        self.process = subprocess.Popen(
            line, env=environment, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
        )  # fmt: skip
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, code, seconds, **request):
        """Send one request; return the outcome. It is believed only with the request's token."""
        token = secrets.token_hex(16)
        left = self.end - time.monotonic()
        if left < 1:
            return {"ok": False, "died": "not reached"}
        body = json.dumps(request | {"token": token}).encode()
        seconds = max(1, int(min(seconds, left)))
        try:
            self.process.stdin.write(struct.pack("!cII", code, seconds, len(body)) + body)
        except OSError:
            return {"ok": False, "died": "not reached"}
        while (line := self.line(seconds + 10)) is not None:
            try:
                outcome = json.loads(line)
            except ValueError:
                continue
            if isinstance(outcome, dict) and outcome.get("token") == token:
                return outcome
            if isinstance(outcome, dict) and "died" in outcome:
                return {"ok": False, "died": str(outcome["died"])[:20]}
        self.end = 0  # silent or gone: there is no state left to go on from
        return {"ok": False, "died": "not reached"}

    def line(self, seconds):
        end = min(time.monotonic() + seconds, self.end + 5)
        while b"\n" not in self.buffer:
            wait = end - time.monotonic()
            if wait <= 0 or not select.select([self.process.stdout], [], [], wait)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part or len(self.buffer) > 1 << 20:
                return None
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line


def imported(texts):
    """Return the modules that these sources import."""
    names = []
    for text in texts:
        try:
            nodes = list(ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", text, flags=re.M))))
        except SyntaxError:  # magics inside a block, as in the set-up cell
            names += re.findall(r"^(?:import|from)\s+([\w.]+)", text, flags=re.M)
            continue
        names += [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    return list(dict.fromkeys(names))


def run(steps, seconds, isolated, free=(), memory=MEMORY):
    """Run the steps in a sandbox; return an outcome for each, and whether a verdict was faked.

    Before each test goes one that must fail. If it passes, the verdicts mean nothing.
    """
    outcomes, faked = [], False
    texts = [step["source"] for step in steps if step["kind"] != "answer"]
    with Sandbox(seconds, isolated, memory) as sandbox:
        if not sandbox.ask(b"P", 120, modules=imported(texts))["ok"]:
            raise RuntimeError("the sandbox did not start")
        for step in steps:
            body = {"source": step["source"], "kind": step["kind"]}
            if step["kind"] == "test":
                low = random.random()
                trap = f"answer = {low}\nassert answer > {low + random.random() + 0.1}"
                faked |= sandbox.ask(b"T", 20, source=trap)["ok"]
                outcomes.append(sandbox.ask(b"T", TEST * seconds, **body))
            else:
                outcomes.append(sandbox.ask(b"R", ANSWER * seconds, free=list(free), **body))
    return outcomes, faked
