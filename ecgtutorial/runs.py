"""The run store and the result tables.

A run's folder is named by the hash of its configuration: ask for a run and it is loaded if it is
finished, resumed if it was begun, and made if it is new. A result table is a tidy CSV with a row
for every finished cell of an experiment; a cell that stands there is not computed again.
"""

import ast
import contextlib
import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .pretrain import pretrain

COLUMNS = (
    "method", "task", "statement", "leads", "budget", "noise", "seed", "metric", "value", "low",
    "high", "n_records", "n_patients", "protocol", "subset", "config",
)  # fmt: skip


def config_hash(config):
    """A short name for a configuration: twelve hexadecimal digits that do not depend on key order.

    Raises ``TypeError`` for values that JSON cannot hold.
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_folder(name):
    """Where the run of a hash lies: ``ECGTUTORIAL_RUNS``, or ``runs`` in the package's cache."""
    from .cohort import cache_folder

    root = os.environ.get("ECGTUTORIAL_RUNS")
    return (Path(root) if root else cache_folder() / "runs") / name


@dataclass
class Run:
    """A finished pre-training: the trained method, its log and how it came to be."""

    method: torch.nn.Module
    log: pd.DataFrame
    config: dict
    hash: str
    seconds: float
    loaded: bool

    @property
    def encoder(self):
        """The pre-trained encoder, in evaluation mode."""
        return self.method.encoder.eval()


def pretrained(method_class, cohort, *, method=None, seed=0, progress=True, **training):
    """The run of a method on a cohort: loaded, resumed or made.

    `method`: keyword arguments of `method_class`; `training`: those of `pretrain`. Their values and
    the cohort's fingerprint make the run's hash. Works under ``torchrun``, too. Returns a `Run`.
    """
    method = dict(method or {})
    config = {
        "method": f"{method_class.__module__}.{method_class.__qualname__}",
        "arguments": method,
        "training": {**training, "seed": seed},
        "cohort": cohort.name,
        "cohort_fingerprint": cohort.fingerprint,
    }
    name = config_hash(config)
    folder = run_folder(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the starting weights belong to the seed
        module = method_class(fs=cohort.fs, **method)
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "run.json"
    loaded = done.exists()
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    began = time.monotonic()
    first = os.environ.get("RANK", "0") == "0"  # under torchrun one process locks for all
    with open(folder / "lock", "w") as lock:
        if first:  # a second command that wants this run waits for it
            fcntl.flock(lock, fcntl.LOCK_EX)
        log = pretrain(module, cohort, seed=seed, folder=folder, progress=progress, **training)
        seconds = time.monotonic() - began
        if first and not done.exists():
            partial = folder / "run.json.part"
            partial.write_text(json.dumps({"seconds": seconds, **environment()}, indent=1))
            os.replace(partial, done)
    seconds = json.loads(done.read_text())["seconds"] if done.exists() else seconds
    return Run(module, log, config, name, seconds, loaded)


# --- result tables ----------------------------------------------------------------------------


def results_folder():
    """The folder of result tables: ``results`` beside the package, or inside an installed one."""
    package = Path(__file__).parent
    for folder in (package.parent / "results", package / "results"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no results folder beside or inside {package}")


def load_results(cohort, experiment):
    """A published result table: (data frame, provenance).

    Raises ``FileNotFoundError`` naming the tables that are there.
    """
    path = results_folder() / cohort / f"{experiment}.csv"
    if not path.exists():
        there = sorted(str(p.relative_to(results_folder())) for p in path.parent.glob("*.csv"))
        raise FileNotFoundError(f"no result table {path}: found {there or 'none'}")
    return pd.read_csv(path, dtype={"seed": str, "config": str}), load_provenance(path)


def load_provenance(path):
    """How the table at `path` came to be (the JSON beside it); empty if nobody said."""
    path = Path(path).with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else {}


class Table:
    """A tidy CSV of finished cells, safe to append to from several processes.

    Beside ``experiment.csv`` stands ``experiment.npz`` with what each cell answered to the test
    records: of every score its rank among the records, which is all an AUC needs and half the size.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def read(self):
        """All rows so far; an empty frame with the book's columns if there are none."""
        if not self.path.exists():
            return pd.DataFrame(columns=list(COLUMNS))
        return pd.read_csv(self.path, dtype={"seed": str, "config": str})

    def ranks(self):
        """The stored answers: {config hash: uint16 ranks (test record, class)}."""
        return self._arrays(lambda key: ":" not in key)

    def samples(self):
        """The stored bootstrap values: {"config hash:metric": (resample,)}."""
        return self._arrays(lambda key: ":" in key)

    def _arrays(self, wanted):
        path = self.path.with_suffix(".npz")
        if not path.exists():
            return {}
        with np.load(path) as file:
            return {key: file[key] for key in file.files if wanted(key)}

    def add(self, rows, scores=None, samples=None):
        """Append rows (dictionaries with keys from `COLUMNS`), all or none.

        `scores`: {config hash: scores (test record, class)} that belong to them. `samples`:
        {"config hash:metric": values (resample,)} of metrics that ranks do not give.
        """
        frame = pd.DataFrame(rows)
        strange = set(frame.columns) - set(COLUMNS)
        if strange:
            raise ValueError(f"rows have columns {sorted(strange)}: expected some of {COLUMNS}")
        with self._lock():
            arrays = self._arrays(lambda key: True)
            arrays |= {k: _ranks(v) for k, v in (scores or {}).items()}
            arrays |= {k: np.asarray(v, np.float32) for k, v in (samples or {}).items()}
            frame = frame.reindex(columns=list(COLUMNS))
            before = self.read()
            if arrays:  # first the answers, so that no row stands without them
                partial = self.path.with_suffix(f".{os.getpid()}.part.npz")
                np.savez_compressed(partial, **arrays)
                os.replace(partial, self.path.with_suffix(".npz"))
            self._write(pd.concat([before, frame]) if len(before) else frame)

    def replace_summary(self, rows):
        """Put `rows` in the place of all earlier summary rows (those with seed ``all``)."""
        with self._lock():
            cells = self.read()
            cells = cells[cells["seed"] != "all"]
            frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
            order = ["protocol", "method", "budget", "noise", "subset", "seed"]
            self._write(pd.concat([frame, cells.sort_values(order)]))

    def describe(self, **provenance):
        """Write how the table came to be into ``experiment.json``."""
        partial = self.path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps({**provenance, **environment()}, indent=1) + "\n")
        os.replace(partial, self.path.with_suffix(".json"))

    @contextlib.contextmanager
    def _lock(self):
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, frame):
        partial = self.path.with_suffix(f".{os.getpid()}.part")
        frame.to_csv(partial, index=False, float_format="%.6g")
        os.replace(partial, self.path)


def _ranks(scores):
    """Dense ranks of each column, ties level: (record, class) uint16."""
    columns = [np.unique(column, return_inverse=True)[1] for column in np.asarray(scores).T]
    return np.stack(columns, axis=1).astype(np.uint16)


def environment():
    """Versions and machine of this process, for a result's provenance."""
    names = ("ecgtutorial", "torch", "numpy", "pandas", "scipy", "wfdb", "lightning-fabric")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{platform.machine()} processor, {os.cpu_count()} cores"
    return {"versions": versions, "device": device}


def definitions(*modules):
    """Short hashes of what the modules define, for a result's provenance: {name: hash}.

    One entry a function, class or constant at the top of a module, such as
    ``"augment.time_mask"``. Comments, docstrings and layout do not count, so a hash changes with
    what the code does, and new definitions leave the others alone: see `changed_definitions`.
    """
    found = {}
    for module in modules:
        name = module.__spec__.name.removeprefix("ecgtutorial.")  # also where it is __main__
        found |= _definitions(inspect.getsource(module), name)
    return found


def _definitions(source, module):
    """As `definitions`, of a module's source text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            names = [n.id for n in stored if isinstance(n.ctx, ast.Store)]
        else:
            names = [node.name] if hasattr(node, "name") else []
        text = hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:8]
        found |= {f"{module}.{name}": text for name in names}
    return found


def changed_definitions(provenance):
    """Names of the definitions that have changed, or gone, since a table was made.

    `provenance`: of `load_provenance`, whose ``code`` is from `definitions`. A definition stands in
    its ``reviewed``, with the hash it has now, where somebody has found that the change moves no
    number. Such a one is not named.
    """
    then, modules = provenance["code"], {}
    for name in then:
        module = name.rpartition(".")[0]
        if module not in modules:
            path = Path(__file__).parent / (module.replace(".", "/") + ".py")
            modules[module] = _definitions(path.read_text(), module) if path.exists() else {}
    now = {name: modules[name.rpartition(".")[0]].get(name) for name in then}
    fine = provenance.get("reviewed", {})
    return sorted(n for n in then if now[n] != then[n] and fine.get(n, "") != (now[n] or "gone"))
