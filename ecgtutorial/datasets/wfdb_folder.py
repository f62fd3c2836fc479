"""Any folder of 12-lead WFDB records: your own ECGs, at any rate, gain and length.

    cohort = ecg.open_cohort("wfdb-folder", data="my-records", fs=100, table="patients.csv")

Also the reader that PTB-XL uses. Plain 16-bit files are read directly, which takes a fraction of a
millisecond a record; every other format goes through the `wfdb` package.
Source: the WFDB header format, https://physionet.org/physiotools/wag/header-5.htm.
"""

import hashlib
import io
import json
import os
import re
from collections import namedtuple
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ecgtutorial.cohort import (
    INVALID,
    cache_folder,
    left_out,
    left_out_message,
    open_or_write,
    write_store,
)
from ecgtutorial.leads import LEADS, canonical

_MICROVOLTS = {"nv": 1e-3, "uv": 1.0, "µv": 1.0, "μv": 1.0, "mv": 1e3, "v": 1e6}


class DamagedRecord(ValueError):
    """A record that cannot be used; the message says what was found and expected."""


# ---------------------------------------------------------------------------- reading a record

# What the header of a plain record says; see `_plain_header`.
_Header = namedtuple("_Header", "fs n_samples file gains checksums names")


def read_microvolts(path, mapping=None):
    """Read one WFDB record as int16 µV (lead, time), leads in `LEADS` order.

    `path`: of the record, without suffix. `mapping`: own lead names to standard ones, such as
    ``{"MLII": "II"}``. Returns the signals and the sampling rate in Hz. A sample that WFDB marks
    as missing, or beyond ±32.767 mV, is `INVALID`.
    Raises `DamagedRecord`. Chapter: *The twelve-lead ECG*.
    """
    try:
        with io.open(path + ".hea", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise DamagedRecord(f"no readable header {path}.hea ({error.strerror})") from None
    header = _plain_header(text)
    if header is None:
        return _read_by_wfdb(path, mapping or {})
    order = _lead_order(header.names, tuple((mapping or {}).items()))
    file = os.path.join(os.path.dirname(path), header.file)
    try:
        samples = np.fromfile(file, dtype="<i2")
    except OSError as error:
        raise DamagedRecord(f"no readable signal file {file} ({error.strerror})") from None
    n_leads = len(header.names)
    n_samples = header.n_samples or len(samples) // n_leads
    if len(samples) != n_samples * n_leads:
        raise DamagedRecord(
            f"{header.file} has {2 * len(samples):,} bytes, expected {2 * n_samples * n_leads:,}"
        )
    if not n_samples:
        raise DamagedRecord(f"{header.file} has no samples")
    samples = samples.reshape(n_samples, n_leads)  # (time, lead)
    _check_sums(samples.sum(axis=0, dtype=np.int64), header.checksums, header.names)
    return _to_microvolts(samples.T[order], [header.gains[i] for i in order]), header.fs


def reject_invalid(signals):
    """Raise `DamagedRecord` if a sample of `signals`, int16 µV (lead, time), is `INVALID`."""
    if signals.min() == INVALID:
        bad = signals == INVALID
        names = ", ".join(LEADS[i] for i in np.flatnonzero(bad.any(axis=1)))
        raise DamagedRecord(f"{bad.sum():,} samples missing or beyond ±32.767 mV in {names}")


def _plain_header(text):
    """The header of a record in one multiplexed file of plain 16-bit samples, else ``None``."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    first = lines[0].split() if lines else []
    if len(first) < 3 or "/" in first[0] or not first[1].isdigit():
        return None
    signals = [line.split(maxsplit=8) for line in lines[1 : 1 + int(first[1])]]
    if len(signals) != int(first[1]) or not signals:
        return None
    file = signals[0][0]
    if any(len(s) != 9 or s[0] != file or s[1] != "16" for s in signals):
        return None
    try:
        return _Header(
            fs=float(re.split(r"[/(]", first[2])[0]),
            n_samples=int(first[3]) if len(first) > 3 else 0,
            file=file,
            gains=[_gain(s[2], s[4]) for s in signals],
            checksums=[int(s[6]) for s in signals],
            names=tuple(s[8].strip() for s in signals),
        )
    except ValueError:  # unusual: let wfdb read it
        return None


@lru_cache(maxsize=1024)
def _gain(text, zero):
    """``"200.0(-5)/mV"`` as steps per unit, baseline, unit; the rules of the WFDB header."""
    match = re.fullmatch(r"([-+.\deE]+)(?:\((-?\d+)\))?(?:/(\S+))?", text)
    if match is None:
        raise ValueError(text)
    gain, baseline, unit = match.groups()
    # Gain 0 means uncalibrated: 200 by convention. Without a baseline the ADC zero stands for it.
    return float(gain) or 200.0, int(zero) if baseline is None else int(baseline), unit or "mV"


@lru_cache(maxsize=1024)
def _lead_order(names, mapping):
    """Where each of `LEADS` stands among the header's `names`."""
    own = {name.strip().upper(): standard for name, standard in mapping}
    found = {}
    for position, name in enumerate(names):
        try:
            lead = canonical(own.get(name.strip().upper(), name))
        except ValueError:
            continue  # a lead beyond the twelve, such as a Frank lead
        if lead in found:
            raise DamagedRecord(f"lead {lead} appears twice")
        found[lead] = position
    absent = [lead for lead in LEADS if lead not in found]
    if absent:
        raise DamagedRecord(f"lacks {', '.join(absent)}; has {', '.join(map(str, names))}")
    return [found[lead] for lead in LEADS]


def _check_sums(found, expected, names):
    """Compare 16-bit sums of the digital samples with the header's, per signal."""
    wrong = [n for n, a, b in zip(names, found.tolist(), expected) if (a - b) & 0xFFFF]
    if wrong:
        raise DamagedRecord(f"checksum of {', '.join(wrong)} differs from the header's")


def _to_microvolts(digital, gains):
    """Digital samples (lead, time) as int16 µV; what does not fit becomes `INVALID`."""
    scales = [_MICROVOLTS.get(unit.lower()) for _, _, unit in gains]
    if None in scales:
        units = ", ".join(sorted({unit for _, _, unit in gains if unit.lower() not in _MICROVOLTS}))
        raise DamagedRecord(f"unit {units} is no voltage: expected mV, uV or V")
    as_is = all(scale == gain and not base for scale, (gain, base, _) in zip(scales, gains))
    if as_is and digital.dtype == np.int16:
        return digital  # 1 µV a step already
    gain, base = (np.array([g[i] for g in gains], dtype=float)[:, None] for i in (0, 1))
    microvolts = np.rint((digital - base) / gain * np.array(scales)[:, None])
    return _to_int16(np.where(digital == INVALID, np.nan, microvolts))


def _to_int16(microvolts):
    valid = np.abs(microvolts) <= 32767  # False for NaN too
    return np.where(valid, microvolts, INVALID).astype(np.int16)


def _read_by_wfdb(path, mapping):
    """As `read_microvolts`, for any format that the wfdb package reads."""
    import wfdb

    try:
        header = wfdb.rdheader(path)
        order = _lead_order(_names(header, path), tuple(mapping.items()))
        if isinstance(header, wfdb.MultiRecord) or set(header.samps_per_frame) != {1}:
            record = wfdb.rdrecord(path)
            physical = record.p_signal
        else:
            record = wfdb.rdrecord(path, physical=False)
            if record.checksum and None not in record.checksum:
                found = np.array(record.calc_checksum(), dtype=np.int64)
                _check_sums(found, record.checksum, record.sig_name)
            physical = record.dac(return_res=64)
    except DamagedRecord:
        raise
    except Exception as error:  # wfdb raises whatever its parser stumbles on
        raise DamagedRecord(f"wfdb cannot read it ({type(error).__name__}: {error})") from error
    units = [record.units[i] for i in order]
    gains = [(1.0, 0, unit) for unit in units]
    signals = physical.T[order]  # (lead, time)
    if header.sig_len and signals.shape[1] != header.sig_len:
        raise DamagedRecord(f"{signals.shape[1]} samples, expected {header.sig_len}")
    return _to_microvolts(signals, gains), float(record.fs)


def _names(header, path):
    """Lead names; a multi-segment header leaves them to its first segment's header."""
    names = getattr(header, "sig_name", None)
    if not names:
        import wfdb

        full = wfdb.rdheader(path, rd_segments=True)
        names = full.get_sig_name()
    return tuple(str(name) for name in names)


# ------------------------------------------------------------------------------------ a folder


def open(data, fs=100, seconds=10, table=None, leads=None, strict=False):
    """Open a folder of WFDB records as a cohort of pieces of `seconds` at `fs` Hz.

    `data`: folder with a ``RECORDS`` file, or any ``*.hea`` below it. Other rates are resampled.
    Longer records are cut into pieces that keep their record and patient (``start``: s); shorter
    ones and those that lack one of the 12 leads are left out with a summary, or raise if `strict`.
    `leads`: own lead names to standard ones, such as ``{"MLII": "II"}``.
    `table`: CSV with ``record_id`` and, if known, ``patient_id``, ``fold`` (1-10), ``age`` (years),
    ``sex`` (female, male). Its other columns that hold only 0 and 1 become labels. Where there are
    none, ``region``, the name of the place where a beat begins, becomes one label a region;
    ``site_x``, ``site_y``, ``site_z`` (mm) say more precisely where. Without
    ``patient_id`` a record is a patient; without ``fold`` patients are dealt to folds 1-10.
    Raises ``FileNotFoundError``, ``ValueError``. Chapter: *The twelve-lead ECG*.
    """
    if data is None:
        raise ValueError("wfdb-folder needs data=, the folder that holds your records")
    folder = Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: data= must be a folder of WFDB records")
    if not (fs > 0 and seconds > 0 and float(seconds * fs).is_integer()):
        raise ValueError(f"seconds x fs must be a whole number of samples, found {seconds} x {fs}")
    files, state = _walk(folder)
    names = _record_names(folder, files)
    options = json.dumps([fs, seconds, sorted((leads or {}).items())])
    digest = hashlib.sha256(state.encode())
    if table is not None:
        if not Path(table).is_file():
            raise FileNotFoundError(f"no table {table}: table= must be a CSV file")
        digest.update(Path(table).read_bytes())
    source = f"wfdb-folder {options} sha256:{digest.hexdigest()}"
    key = hashlib.sha256(f"{folder.resolve()} {options} {table}".encode()).hexdigest()[:12]
    store = cache_folder() / "stores" / f"wfdb-folder-{key}"

    def write(store):
        found = [name for name in names if f"{name}.hea" in files]
        rows, labels, missing = _describe(found, table)
        missing |= {"official": len(names), "absent": len(names) - len(found)}
        return _write(store, folder, rows, labels, missing, fs, seconds, leads or {}, source)

    return left_out(open_or_write(store, source, write), strict)


def _walk(folder):
    """Every file below `folder`, relative, and a text that changes when the set of files does."""
    files, state = set(), []
    for at, below, names in os.walk(folder):
        below.sort()
        at_relative = os.path.relpath(at, folder).replace(os.sep, "/")
        prefix = "" if at_relative == "." else at_relative + "/"
        files.update(prefix + name for name in names)
        # A file that replaces one of the same name shows in the folder's time.
        state += [prefix, *sorted(names), str(os.stat(at).st_mtime_ns)]
    return files, "\n".join(state)


def _record_names(folder, files):
    """Names of the records, relative to `folder`, in the order of ``RECORDS`` or of the names."""
    if "RECORDS" in files:
        listed = (folder / "RECORDS").read_text().split()
        if listed and not any(name.endswith("/") for name in listed):
            return list(dict.fromkeys(listed))
    names = sorted(name[:-4] for name in files if name.endswith(".hea"))
    if not names:
        raise FileNotFoundError(
            f"no WFDB record in {folder}: looked for RECORDS and *.hea, found "
            + (", ".join(sorted(files)[:8]) or "nothing")
        )
    segments = set()
    for name in names:
        lines = (folder / f"{name}.hea").read_text(errors="replace").splitlines()
        lines = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if lines and "/" in lines[0][0]:  # a record of several segments, which are not records
            segments.update(f"{os.path.dirname(name)}/{line[0]}".lstrip("/") for line in lines[1:])
    return [name for name in names if name not in segments]


def _describe(names, table):
    """Table, labels (or ``None``) and missing, a row a record, from names and the optional CSV."""
    missing = {"damaged": {}}
    labels = None
    rows = pd.DataFrame({"record_id": names}, dtype="str")
    if table is not None:
        own = _read_table(table)
        last = {name: name.rsplit("/", 1)[-1] for name in names}  # "1002603" matches too
        keys = {name: key for name in names for key in (last[name], name) if key in own.index}
        if not keys:
            raise ValueError(
                f"{table} describes none of the {len(names):,} records: its record_id "
                f"{own.index[0]!r} should look like {names[0]!r} or {last[names[0]]!r}"
            )
        reason = f"has no row in {Path(table).name}"
        missing["damaged"] = {name: reason for name in names if name not in keys}
        missing["rows_without_record"] = len(own) - len(set(keys.values()))
        own = own.loc[list(keys.values())].reset_index(drop=True)
        binary = [c for c in own if c not in _RESERVED and own[c].isin([0, 1]).all()]
        labels = own[binary].astype(np.uint8) if binary else _regions(own, list(keys), table)
        rows = own.drop(columns=binary).assign(record_id=list(keys))
    if "patient_id" not in rows:
        rows["patient_id"] = rows["record_id"]
    rows["patient_id"] = rows["patient_id"].fillna(rows["record_id"])
    if "fold" not in rows:
        rows["fold"] = _folds(rows["patient_id"])
    for column in ("age", "sex"):
        if column not in rows:
            rows[column] = np.nan
    first = ["record_id", "patient_id", "fold", "age", "sex"]
    return rows[first + [c for c in rows if c not in first]], labels, missing


_NUMBERS = ("age", "site_x", "site_y", "site_z")
_RESERVED = ("patient_id", "fold", "sex", "region", *_NUMBERS)
_SEX = {"female": "female", "f": "female", "male": "male", "m": "male"}


def _read_table(path):
    table = pd.read_csv(path, dtype={"record_id": "str", "patient_id": "str", "sex": "str",
                                     "region": "str"})  # fmt: skip
    if "record_id" not in table:
        raise ValueError(f"{path} needs the column 'record_id', found {', '.join(table)}")
    if not len(table):
        raise ValueError(f"{path} has no rows")
    twice = table["record_id"][table["record_id"].duplicated()]
    if len(twice):
        raise ValueError(f"{path} has two rows of record {twice.iloc[0]!r}, expected one")
    if "fold" in table:
        if not table["fold"].isin(range(1, 11)).all():
            raise ValueError(f"{path}: fold must be 1-10 in every row")
        table["fold"] = table["fold"].astype("int64")
    for column in table.columns.intersection(_NUMBERS):
        table[column] = pd.to_numeric(table[column], errors="raise").astype(float)
    if "region" in table:
        table["region"] = table["region"].str.strip().replace("", np.nan)
    if "sex" in table:
        sex = table["sex"].str.strip().str.lower().map(_SEX)
        unknown = table["sex"][sex.isna() & table["sex"].notna()]
        if len(unknown):
            raise ValueError(
                f"{path}: sex must be female, male or empty, found {unknown.iloc[0]!r}"
            )
        table["sex"] = sex
    return table.set_index("record_id")


def _regions(own, names, path):
    """Labels of 0/1 from the column ``region``, one a region; ``None`` without that column."""
    from ecgtutorial.heart.ventricles import SEGMENTS

    if "region" not in own:
        return None
    absent = np.flatnonzero(own["region"].isna())
    if len(absent):
        raise ValueError(
            f"{path}: {len(absent)} of {len(own)} records have no region, such as "
            f"{names[absent[0]]!r}: name it in every row, or leave out the rows without"
        )
    labels = pd.get_dummies(own["region"], dtype=np.uint8)  # in the order of the alphabet
    standard = [name for name in SEGMENTS if name in labels]
    return labels[standard] if len(standard) == labels.shape[1] else labels


def _folds(patients):
    """Folds 1-10, dealt to patients in a fixed random order: the same patients, the same folds."""
    names = np.sort(patients.unique())
    order = np.random.default_rng(0).permutation(len(names))
    # Training, validation and test are served first, so that few patients can be split too.
    deal = np.resize([1, 9, 10, 2, 3, 4, 5, 6, 7, 8], len(names))
    return patients.map(dict(zip(names[order], deal.tolist()))).astype("int64")


def _write(store, folder, rows, labels, missing, fs, seconds, mapping, source):
    kept, starts = [], []

    def chunks():
        block = []
        for row, name in enumerate(rows["record_id"]):
            try:
                for start, piece in _pieces(str(folder / name), mapping, fs, seconds):
                    if isinstance(piece, DamagedRecord):
                        missing["damaged"][f"{name} at {start:g} s"] = str(piece)
                        continue
                    block.append(piece)
                    kept.append(row)
                    starts.append(start)
                    if len(block) == 64:
                        yield np.stack(block)  # (record, lead, time)
                        block.clear()
            except DamagedRecord as error:
                missing["damaged"][name] = str(error)
        if block:
            yield np.stack(block)
        if not kept:
            raise ValueError(left_out_message(missing["damaged"], f"every record in {folder} is"))

    return write_store(
        store,
        chunks(),
        lambda: rows.iloc[kept].assign(start=starts),
        lambda: None if labels is None else labels.iloc[kept],
        fs,
        LEADS,
        "wfdb-folder",
        source,
        missing,
    )


def _pieces(path, mapping, fs, seconds):
    """Pieces of a record: start in s and int16 µV (12, seconds * fs), or what is wrong with one.

    Raises `DamagedRecord` for a record without a whole piece.
    """
    signals, found = read_microvolts(path, mapping)
    if not found > 0:
        raise DamagedRecord(f"sampling rate {found:g} Hz")
    # One sample short is a matter of rounding where a piece is no whole number of samples.
    length = round(seconds * found)
    if signals.shape[1] < length:
        raise DamagedRecord(
            f"lasts {signals.shape[1] / found:g} s, expected at least {seconds:g} s"
        )
    for at in range(0, signals.shape[1] - length + 1, length):
        piece = signals[:, at : at + length]
        try:
            reject_invalid(piece)
            yield at / found, _resample(piece, found, fs, round(seconds * fs))
        except DamagedRecord as error:
            if signals.shape[1] < 2 * length:
                raise
            yield at / found, error


def _resample(piece, found, fs, length):
    """`piece`, int16 µV (lead, time) at `found` Hz, as `length` samples at `fs` Hz."""
    if found == fs:
        return piece
    from scipy.signal import resample_poly

    ratio = Fraction(fs / found).limit_denominator(10_000)
    # "line" takes off offset and drift at the ends, which would ring otherwise.
    resampled = resample_poly(
        piece.astype(np.float64), ratio.numerator, ratio.denominator, axis=1, padtype="line"
    )[:, :length]
    short = length - resampled.shape[1]
    resampled = np.pad(resampled, [(0, 0), (0, short)], mode="edge")
    microvolts = _to_int16(np.rint(resampled))
    reject_invalid(microvolts)  # the filter can overshoot ±32.767 mV
    return microvolts
