"""A cohort: the 12-lead signals of many records, with the table and labels that belong to them.

    cohort = open_cohort("simulated", n_patients=2000, seed=0)
    train, val, test = cohort.split()          # by patient
    few = train.budget(0.10, subset=3)         # the records of a tenth of the patients
    signals = few.millivolts()                 # float32 (record, lead, time)
    y = few.targets("superclass")              # 0/1 (record, class)

A cohort is kept in a store: a folder with ``signals.npy`` (int16 microvolts, memory-mapped),
``table.csv``, ``labels.npy`` and ``cohort.json``. Opening a store reads the two small files only.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from ecgtutorial.leads import LEADS

STORE_VERSION = 1
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
INVALID = np.int16(-32768)  # WFDB's mark for "no sample"; never in a cohort
_CHUNK = 256  # records hashed or written at a time: bounded memory


def open_cohort(name, data=None, **options):
    """Open a cohort: `"simulated"`, `"simulated-vt"`, `"ptb-xl"`, `"wfdb-folder"`, `"challenge"`.

    `data`: folder of the records; without it PTB-XL is downloaded. `options`: the arguments of
    ``ecgtutorial.datasets.<name>.open``, such as ``fs``, ``n_records``, ``strict``.
    Returns a `Cohort`. Raises ``ValueError`` for an unknown name.
    Chapter: *The twelve-lead ECG*.
    """
    if name == "simulated":
        if data is not None:
            raise ValueError(
                f"the simulated cohort is made, not read: leave out data={str(data)!r}"
            )
        from ecgtutorial.datasets import simulated

        return simulated.open(**options)
    if name == "simulated-vt":
        if data is not None:
            raise ValueError(
                f"the simulated-vt cohort is made, not read: leave out data={str(data)!r}"
            )
        from ecgtutorial.datasets import simulated_vt

        return simulated_vt.open(**options)
    if name == "ptb-xl":
        from ecgtutorial.datasets import ptbxl

        return ptbxl.open(data, **options)
    if name == "wfdb-folder":
        from ecgtutorial.datasets import wfdb_folder

        return wfdb_folder.open(data, **options)
    if name == "challenge":
        from ecgtutorial.datasets import challenge

        return challenge.open(data, **options)
    raise ValueError(
        f"unknown cohort {name!r}: choose 'challenge', 'simulated-vt', 'simulated', 'ptb-xl' or "
        "'wfdb-folder'"
    )


class Cohort:
    """Records of one sampling rate and length, with one table row and one label row each.

    `signals`: int16 µV (record, lead, time). `table`: DataFrame with ``record_id``, ``patient_id``,
    ``fold`` (1-10), ``age`` (years), ``sex`` ("female", "male", NaN) and whatever else is known.
    `labels`: DataFrame of 0/1, one column a statement; ``None`` for none. `fs`: Hz.
    Raises ``ValueError`` where these do not fit each other. Chapter: *The twelve-lead ECG*.
    """

    def __init__(self, signals, table, labels, fs, name, leads=LEADS, missing=None):
        labels = pd.DataFrame(index=table.index) if labels is None else labels
        _check(signals, table, labels, leads)
        self._source, self._rows, self._signals = signals, None, None
        self.table = table.reset_index(drop=True)
        self.labels = labels.reset_index(drop=True)
        self.fs, self.name, self.leads = fs, name, tuple(leads)
        self.missing = missing or {"damaged": {}}
        self._folder = self._fingerprint = None

    def __len__(self):
        return len(self.table)

    def __repr__(self):
        patients = self.table["patient_id"].nunique() if "patient_id" in self.table else "unknown"
        text = (
            f"<{self.name}: {len(self):,} records of {patients:,} patients, {len(self.leads)} leads"
            f" x {self._source.shape[2]:,} samples at {self.fs} Hz"
            f", {self.labels.shape[1]} statements"
        )
        if self.missing.get("absent"):
            text += f"; {self.missing['absent']:,} of {self.missing['official']:,} records absent"
        if self.missing["damaged"]:
            text += f"; {len(self.missing['damaged']):,} damaged records left out"
        return text + ">"

    @property
    def signals(self):
        """int16 µV (record, lead, time): memory-mapped whole, or a copy of a selection."""
        if self._rows is None:
            return self._source
        if self._signals is None:
            self._signals = np.asarray(self._source[self._rows])
        return self._signals

    @property
    def fingerprint(self):
        """Twelve hex digits that change with any sample, label or table entry."""
        if self._fingerprint is None and self._rows is not None:
            digest = hashlib.sha256(self._whole.fingerprint.encode())
            digest.update(self._rows.astype("<i8").tobytes())
            self._fingerprint = digest.hexdigest()[:12]
        if self._fingerprint is None:  # made in memory
            digest = hashlib.sha256(_table_text(self.table).encode())
            digest.update(_hash_signals(self._source).encode())
            digest.update(np.ascontiguousarray(self.labels.to_numpy(np.uint8)).tobytes())
            digest.update(json.dumps([self.fs, self.leads, list(self.labels.columns)]).encode())
            self._fingerprint = digest.hexdigest()[:12]
        return self._fingerprint

    def select(self, which):
        """The records chosen by `which`: a mask (record,), positions or a slice. Keeps their order.

        Raises ``ValueError`` for a mask of another length, a position out of range or no record.
        """
        rows = _positions(which, len(self))
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        part = Cohort.__new__(Cohort)
        part.__dict__.update(self.__dict__)
        part._rows = rows if self._rows is None else self._rows[rows]
        part._whole = self if self._rows is None else self._whole
        part._signals = part._fingerprint = None
        part.table = self.table.iloc[rows].reset_index(drop=True)
        part.labels = self.labels.iloc[rows].reset_index(drop=True)
        return part

    def __getstate__(self):
        """What a pickle holds: of a store its folder, not its samples; all that lies in memory."""
        if self._rows is not None:
            return {"_whole": self._whole, "_rows": self._rows}
        if self._folder is not None:
            return {"_folder": self._folder.absolute(), "_fingerprint": self._fingerprint}
        return self.__dict__

    def __setstate__(self, state):
        if "_rows" in state and state["_rows"] is not None:
            state = state["_whole"].select(state["_rows"]).__dict__
        elif state["_folder"] is not None:
            folder, expected = state["_folder"], state["_fingerprint"]
            state = open_store(folder).__dict__
            if state["_fingerprint"] != expected:
                raise ValueError(
                    f"{folder} now holds a cohort with fingerprint {state['_fingerprint']}, "
                    f"expected {expected}: it was made anew since, or this machine has another one"
                )
        self.__dict__.update(state)

    def split(self):
        """Train, validation and test cohorts: folds 1-8, 9 and 10.

        Raises ``ValueError`` without a fold column, for a fold outside 1-10, for a patient with
        records in two parts and for an empty part. Source: PTB-XL's recommended folds.
        """
        if "fold" not in self.table or "patient_id" not in self.table:
            raise ValueError(
                f"cohort {self.name!r} cannot be split: its table needs the columns 'fold' and "
                f"'patient_id', found {', '.join(self.table.columns)}"
            )
        fold = self.table["fold"]
        if not fold.isin(range(1, 11)).all():
            raise ValueError(f"folds must be 1-10, found {sorted(set(fold) - set(range(1, 11)))}")
        part = np.select([fold <= 8, fold == 9], [0, 1], 2)
        parts = pd.Series(part).groupby(self.table["patient_id"]).nunique()
        if (parts > 1).any():
            raise ValueError(
                f"{(parts > 1).sum()} patients have records in two parts of the split, such as "
                f"patient {parts.idxmax()!r}: give every record of a patient the same fold"
            )
        for number, which in enumerate(("train (folds 1-8)", "validation (9)", "test (10)")):
            if not (part == number).any():
                raise ValueError(
                    f"the part {which} is empty: {len(self):,} records of {len(parts):,} patients "
                    "lie in folds " + ", ".join(map(str, sorted(set(fold.astype(int)))))
                )
        return tuple(self.select(part == number) for number in range(3))

    def budget(self, fraction, subset=0):
        """The records of a random `fraction` of the patients (at least one patient).

        `fraction`: in (0, 1]. `subset`: number of the random draw, 0, 1, 2 ...; within one draw a
        smaller budget is contained in a larger one. Chapter: *Label efficiency*.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], found {fraction!r}")
        if int(subset) != subset or subset < 0:
            raise ValueError(f"subset must be a whole number from 0 up, found {subset!r}")
        patients = np.sort(self.table["patient_id"].unique())
        order = np.random.default_rng(int(subset)).permutation(len(patients))
        chosen = patients[order[: max(1, round(fraction * len(patients)))]]
        return self.select(self.table["patient_id"].isin(chosen))

    def targets(self, task="superclass"):
        """0/1 targets (record, class) as a DataFrame of uint8.

        `task`: ``"superclass"`` (NORM, MI, STTC, CD, HYP), ``"subclass"`` (23), ``"diagnostic"``
        (44), ``"form"`` (19), ``"rhythm"`` (12), ``"challenge"`` (26, see `datasets.challenge.
        targets`), ``"challenge-2020"`` (24 of these) or ``"all"``, every statement the cohort has.
        A statement counts at any likelihood. Raises ``ValueError`` without labels.
        Source: Strodthoff et al. 2021. Chapter: *Label efficiency*.
        """
        from ecgtutorial.datasets import challenge
        from ecgtutorial.datasets.ptbxl import STATEMENTS, classes

        if not self.labels.shape[1]:
            raise ValueError(f"cohort {self.name!r} has no labels: pre-train on it, or add a table")
        if task == "all":
            return self.labels.copy()
        if task == "challenge":
            return challenge.targets(self)
        if task == "challenge-2020":
            return challenge.targets(self)[list(challenge.CLASSES_2020)]
        members = classes(task)  # class -> its statements
        known = [code for code in self.labels if code in STATEMENTS]
        if not known or challenge.is_own(self.labels):  # the two share names, such as PAC
            raise ValueError(
                f"cohort {self.name!r} has no PTB-XL statement to make {task!r} of, only "
                f"{', '.join(map(str, self.labels.columns[:5]))} ...: use targets('all')"
            )
        values = self.labels[known].to_numpy(np.uint8)  # (record, statement)
        columns = {
            name: values[:, [code in codes for code in known]].max(axis=1, initial=0)
            for name, codes in members.items()
        }
        return pd.DataFrame(columns, dtype=np.uint8)

    def millivolts(self, index=None):
        """float32 mV (record, lead, time) of all records, or of those at `index`."""
        if index is None:
            chosen = self.signals
        elif self._rows is None or self._signals is not None:
            chosen = self.signals[np.asarray(index) if not isinstance(index, slice) else index]
        else:  # a selection never read whole: take only what is asked for
            chosen = self._source[self._rows[index]]
        return chosen * np.float32(1e-3)

    def verify(self):
        """Recompute the store's checksums; ``ValueError`` names a file that has changed."""
        if self._folder is None:
            return
        expected = json.loads((self._folder / "cohort.json").read_text())["sha256"]
        for file, found in (
            ("signals.npy", _hash_signals(np.load(self._folder / "signals.npy", mmap_mode="r"))),
            ("labels.npy", _hash_file(self._folder / "labels.npy")),
            ("table.csv", _hash_file(self._folder / "table.csv")),
        ):
            if found != expected[file]:
                raise ValueError(
                    f"{self._folder / file} has changed: sha256 {found[:12]}..., expected "
                    f"{expected[file][:12]}...; delete {self._folder} and open the cohort again"
                )


def _check(signals, table, labels, leads):
    if getattr(signals, "ndim", None) != 3 or signals.dtype != np.int16:
        found = f"{getattr(signals, 'dtype', type(signals))} {getattr(signals, 'shape', '')}"
        raise ValueError(f"signals must be int16 µV (record, lead, time), found {found}")
    if not len(signals):
        raise ValueError("a cohort needs at least one record, found none")
    if signals.shape[1] != len(leads):
        raise ValueError(f"signals have {signals.shape[1]} leads, expected {', '.join(leads)}")
    if not len(signals) == len(table) == len(labels):
        raise ValueError(
            f"signals, table and labels must have a row a record, found {len(signals)}, "
            f"{len(table)} and {len(labels)} rows"
        )


def _positions(which, n):
    """A mask, positions or a slice as an array of positions in 0 ... n - 1."""
    if isinstance(which, slice):
        rows = np.arange(n)[which]
    else:
        which = np.atleast_1d(np.asarray(which))
        if which.dtype == bool:
            if which.shape != (n,):
                raise ValueError(f"the mask has shape {which.shape}, expected ({n},)")
            rows = np.flatnonzero(which)
        elif which.size and not np.issubdtype(which.dtype, np.integer):
            raise ValueError(f"select needs a mask or whole numbers, found {which.dtype}")
        else:
            rows = which.astype(np.int64).reshape(-1)
            if rows.size and (rows.min() < -n or rows.max() >= n):
                raise ValueError(f"position out of range: the cohort has {n} records")
            rows = rows % n
    if not len(rows):
        raise ValueError(f"the selection is empty: none of {n} records is in it")
    return rows


# ---------------------------------------------------------------------------------- the store


def cache_folder():
    """Where stores and downloads are kept: ``ECGTUTORIAL_CACHE``, else ~/.cache/ecgtutorial."""
    return Path(os.environ.get("ECGTUTORIAL_CACHE") or Path.home() / ".cache" / "ecgtutorial")


def write_store(folder, signals, table, labels, fs, leads, name, source, missing=None):
    """Write a store to `folder` and open it. All or nothing: a half store never appears there.

    `signals`: int16 µV, an array (record, lead, time) or an iterable of such chunks, written as
    they come. `table`, `labels`, `missing`: as in `Cohort`, or functions giving them, called after
    the last chunk (a reader knows only then which records were damaged). `source`: text that
    says what the store was made from; `open_store` compares it.
    Raises ``OSError`` (disk full ...) and leaves nothing behind.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        shape, sha = _write_signals(work / "signals.npy", signals)
        table, labels, missing = (v() if callable(v) else v for v in (table, labels, missing))
        labels = pd.DataFrame(index=table.index) if labels is None else labels
        _check(np.broadcast_to(np.int16(0), shape), table, labels, leads)
        np.save(work / "labels.npy", np.ascontiguousarray(labels.to_numpy(np.uint8)))
        (work / "table.csv").write_text(_table_text(table), encoding="utf-8", newline="")
        files = [work / f for f in ("signals.npy", "labels.npy", "table.csv")]
        about = {
            "version": STORE_VERSION,
            "name": name,
            "fs": fs,
            "leads": list(leads),
            "statements": list(labels.columns),
            "dtypes": {c: _dtype_name(table[c]) for c in table},
            "source": source,
            "missing": missing or {"damaged": {}},
            "sizes": {f.name: f.stat().st_size for f in files},
            "sha256": {files[0].name: sha} | {f.name: _hash_file(f) for f in files[1:]},
        }
        (work / "cohort.json").write_text(json.dumps(about, indent=1, default=_plain))
        _put_in_place(work, folder, source)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_store(folder)


def open_store(folder, source=None):
    """Open the store in `folder` as a `Cohort`: milliseconds, and no signal is read.

    `source`: if given, what the store must have been made from. Raises ``FileNotFoundError`` where
    there is no store and ``ValueError`` for a store that is incomplete, of another version or of
    another source. `Cohort.verify` checks every byte.
    """
    folder = Path(folder)
    if not (folder / "cohort.json").is_file():
        raise FileNotFoundError(f"no cohort store in {folder}: found no cohort.json there")
    about = json.loads((folder / "cohort.json").read_text())
    if about.get("version") != STORE_VERSION:
        raise ValueError(
            f"{folder} is a store of version {about.get('version')}, expected {STORE_VERSION}: "
            "delete it and open the cohort again"
        )
    if source is not None and about["source"] != source:
        raise ValueError(f"{folder} was made from {about['source']!r}, expected {source!r}")
    for file, size in about["sizes"].items():
        found = (folder / file).stat().st_size if (folder / file).is_file() else 0
        if found != size:
            raise ValueError(
                f"{folder / file} has {found:,} bytes, expected {size:,}: delete {folder} and open "
                "the cohort again"
            )
    table = pd.read_csv(
        folder / "table.csv", dtype=about["dtypes"], keep_default_na=False, na_values=[""]
    )
    labels = pd.DataFrame(np.load(folder / "labels.npy"), columns=about["statements"])
    signals = np.load(folder / "signals.npy", mmap_mode="r")
    cohort = Cohort(
        signals, table, labels, about["fs"], about["name"], about["leads"], about["missing"]
    )
    content = json.dumps([about["sha256"], about["fs"], about["leads"], about["statements"]])
    cohort._fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
    cohort._folder = folder
    return cohort


def open_or_write(folder, source, write):
    """Open the store in `folder` if it was made from `source`; else call `write(folder)`."""
    try:
        return open_store(folder, source)
    except (FileNotFoundError, ValueError):  # none yet, damaged, or made from something else
        return write(folder)


def left_out(cohort, strict):
    """Say which records were damaged: a warning, or with `strict` a ``ValueError``."""
    damaged = cohort.missing["damaged"]
    if damaged:
        names = cohort.table.get("recording", cohort.table["record_id"])  # not its pieces
        total = names.nunique() + len(damaged)
        message = left_out_message(damaged, f"{len(damaged):,} of {total:,} records are")
        if strict:
            raise ValueError(message)
        warnings.warn(message + " They are left out.", stacklevel=4)
    return cohort


def left_out_message(damaged, start):
    """One sentence naming up to five damaged records and what is wrong with each."""
    first = "; ".join(f"{record}: {reason}" for record, reason in list(damaged.items())[:5])
    more = f"; and {len(damaged) - 5:,} more (see cohort.missing)" if len(damaged) > 5 else ""
    return f"{start} damaged: {first}{more}."


def _write_signals(path, signals):
    """Write chunks as one .npy file; returns its shape and the sha256 of its samples."""
    chunks = [signals] if isinstance(signals, np.ndarray) else signals
    digest, n, shape = hashlib.sha256(), 0, None
    with open(path, "wb") as file:
        for chunk in chunks:
            if chunk.dtype != np.int16 or chunk.ndim != 3 or shape not in (None, chunk.shape[1:]):
                raise ValueError(
                    f"a chunk must be int16 µV (record, {shape or 'lead, time'}), "
                    f"found {chunk.dtype} {chunk.shape}"
                )
            if shape is None:
                shape = chunk.shape[1:]
                _npy_header(file, (0, *shape))
                start = file.tell()
            block = np.ascontiguousarray(chunk, dtype="<i2")
            file.write(block)
            digest.update(block)
            n += len(block)
        if not n:
            raise ValueError("a cohort needs at least one record, found none")
        file.seek(0)
        _npy_header(file, (n, *shape))  # same length: numpy pads it so that the first axis can grow
        if file.tell() != start:
            raise ValueError(f"{path}: the .npy header changed its length")
    return (n, *shape), digest.hexdigest()


def _npy_header(file, shape):
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _put_in_place(work, folder, source):
    """Rename `work` to `folder`. Of two processes that make the same store, the first one wins."""
    for _ in range(5):
        try:
            os.replace(work, folder)
            return
        except OSError:  # something stands there
            try:
                open_store(folder, source)
                return  # another process made it meanwhile
            except (FileNotFoundError, ValueError):
                old = f".{folder.name}.{os.getpid()}.{time.monotonic_ns()}.tmp"
                try:
                    os.replace(folder, folder.parent / old)
                except FileNotFoundError:
                    continue  # another process moved it away
                shutil.rmtree(folder.parent / old, ignore_errors=True)
    os.replace(work, folder)


def _sweep(folder):
    """Remove what killed processes left of this store more than a day ago."""
    for old in folder.parent.glob(f".{folder.name}.*.tmp"):
        if time.time() - old.stat().st_mtime > 86400:
            shutil.rmtree(old, ignore_errors=True)


def _hash_signals(signals):
    digest = hashlib.sha256()
    for start in range(0, len(signals), _CHUNK):
        digest.update(np.ascontiguousarray(signals[start : start + _CHUNK], dtype="<i2"))
    return digest.hexdigest()


def _hash_file(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table_text(table):
    return table.to_csv(index=False, lineterminator="\n")


def _dtype_name(column):
    text = pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)
    return "str" if text else str(column.dtype)


def _plain(value):
    return value.item() if hasattr(value, "item") else str(value)
