"""PTB-XL: 21,799 clinical 12-lead records of 10 s, with 71 SCP statements.

    cohort = ecg.open_cohort("ptb-xl", data="../shared/ptb-xl", fs=100)
    cohort = ecg.open_cohort("ptb-xl", n_records=1000)      # downloads a stratified part

Source: Wagner et al. 2020, doi 10.1038/s41597-020-0495-6; PTB-XL 1.0.3 on PhysioNet, CC BY 4.0.
"""

import hashlib
import os
import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd

from ecgtutorial.cohort import SUPERCLASSES, cache_folder, left_out, open_or_write, write_store
from ecgtutorial.datasets import wfdb_folder

OFFICIAL_RECORDS = 21_799
SECONDS = 10
RATES = {100: ("records100", "filename_lr"), 500: ("records500", "filename_hr")}

Statement = namedtuple("Statement", "superclass subclass diagnostic form rhythm description")

# Code, superclass, subclass, kinds (d diagnostic, f form, r rhythm), description.
_TABLE = """
NDT     STTC STTC      df non-diagnostic T abnormalities
NST_    STTC NST_      df non-specific ST changes
DIG     STTC STTC      df digitalis-effect
LNGQT   STTC STTC      df long QT-interval
NORM    NORM NORM      d  normal ECG
IMI     MI   IMI       d  inferior myocardial infarction
ASMI    MI   AMI       d  anteroseptal myocardial infarction
LVH     HYP  LVH       d  left ventricular hypertrophy
LAFB    CD   LAFB/LPFB d  left anterior fascicular block
ISC_    STTC ISC_      d  non-specific ischemic
IRBBB   CD   IRBBB     d  incomplete right bundle branch block
1AVB    CD   _AVB      d  first degree AV block
IVCD    CD   IVCD      d  non-specific intraventricular conduction disturbance (block)
ISCAL   STTC ISCA      d  ischemic in anterolateral leads
CRBBB   CD   CRBBB     d  complete right bundle branch block
CLBBB   CD   CLBBB     d  complete left bundle branch block
ILMI    MI   IMI       d  inferolateral myocardial infarction
LAO/LAE HYP  LAO/LAE   d  left atrial overload/enlargement
AMI     MI   AMI       d  anterior myocardial infarction
ALMI    MI   AMI       d  anterolateral myocardial infarction
ISCIN   STTC ISCI      d  ischemic in inferior leads
INJAS   MI   AMI       d  subendocardial injury in anteroseptal leads
LMI     MI   LMI       d  lateral myocardial infarction
ISCIL   STTC ISCI      d  ischemic in inferolateral leads
LPFB    CD   LAFB/LPFB d  left posterior fascicular block
ISCAS   STTC ISCA      d  ischemic in anteroseptal leads
INJAL   MI   AMI       d  subendocardial injury in anterolateral leads
ISCLA   STTC ISCA      d  ischemic in lateral leads
RVH     HYP  RVH       d  right ventricular hypertrophy
ANEUR   STTC STTC      d  ST-T changes compatible with ventricular aneurysm
RAO/RAE HYP  RAO/RAE   d  right atrial overload/enlargement
EL      STTC STTC      d  electrolytic disturbance or drug (former EDIS)
WPW     CD   WPW       d  Wolff-Parkinson-White syndrome
ILBBB   CD   ILBBB     d  incomplete left bundle branch block
IPLMI   MI   IMI       d  inferoposterolateral myocardial infarction
ISCAN   STTC ISCA      d  ischemic in anterior leads
IPMI    MI   IMI       d  inferoposterior myocardial infarction
SEHYP   HYP  SEHYP     d  septal hypertrophy
INJIN   MI   IMI       d  subendocardial injury in inferior leads
INJLA   MI   AMI       d  subendocardial injury in lateral leads
PMI     MI   PMI       d  posterior myocardial infarction
3AVB    CD   _AVB      d  third degree AV block
INJIL   MI   IMI       d  subendocardial injury in inferolateral leads
2AVB    CD   _AVB      d  second degree AV block
ABQRS   -    -         f  abnormal QRS
PVC     -    -         f  ventricular premature complex
STD_    -    -         f  non-specific ST depression
VCLVH   -    -         f  voltage criteria (QRS) for left ventricular hypertrophy
QWAVE   -    -         f  Q waves present
LOWT    -    -         f  low amplitude T-waves
NT_     -    -         f  non-specific T-wave changes
PAC     -    -         f  atrial premature complex
LPR     -    -         f  prolonged PR interval
INVT    -    -         f  inverted T-waves
LVOLT   -    -         f  low QRS voltages in the frontal and horizontal leads
HVOLT   -    -         f  high QRS voltage
TAB_    -    -         f  T-wave abnormality
STE_    -    -         f  non-specific ST elevation
PRC(S)  -    -         f  premature complex(es)
SR      -    -         r  sinus rhythm
AFIB    -    -         r  atrial fibrillation
STACH   -    -         r  sinus tachycardia
SARRH   -    -         r  sinus arrhythmia
SBRAD   -    -         r  sinus bradycardia
PACE    -    -         r  normal functioning artificial pacemaker
SVARR   -    -         r  supraventricular arrhythmia
BIGU    -    -         r  bigeminal pattern (unknown origin, SV or Ventricular)
AFLT    -    -         r  atrial flutter
SVTAC   -    -         r  supraventricular tachycardia
PSVT    -    -         r  paroxysmal supraventricular tachycardia
TRIGU   -    -         r  trigeminal pattern (unknown origin, SV or Ventricular)
"""


def _statements():
    for line in _TABLE.strip().splitlines():
        code, superclass, subclass, kinds, description = line.split(maxsplit=4)
        superclass, subclass = (None if x == "-" else x for x in (superclass, subclass))
        yield code, Statement(superclass, subclass, *(k in kinds for k in "dfr"), description)


STATEMENTS = dict(_statements())  # the order of the official table


def classes(task):
    """The classes of a PTB-XL task, each with its statements: ``{"MI": ("IMI", ...), ...}``.

    `task`: "superclass", "subclass", "diagnostic", "form" or "rhythm"; else ``ValueError``.
    Source: Strodthoff et al. 2021, whose tasks these are. Chapter: *Label efficiency*.
    """
    if task in ("superclass", "subclass"):
        names = [getattr(s, task) for s in STATEMENTS.values() if s.superclass]
        names = SUPERCLASSES if task == "superclass" else tuple(dict.fromkeys(names))
        return {
            name: tuple(code for code, s in STATEMENTS.items() if getattr(s, task) == name)
            for name in names
        }
    if task in ("diagnostic", "form", "rhythm"):
        return {code: (code,) for code, s in STATEMENTS.items() if getattr(s, task)}
    raise ValueError(
        f"unknown task {task!r}: choose 'superclass', 'subclass', 'diagnostic', 'form', 'rhythm' "
        "or 'all'"
    )


def open(data=None, fs=100, n_records=None, strict=False, base_url=None):
    """Open PTB-XL from a folder in its layout, or download it.

    `data`: folder with ``ptbxl_database.csv`` and ``records100`` or ``records500``, whole or in
    part; ``None``: downloaded from `base_url` (default: PhysioNet) into the cache folder.
    `fs`: 100 or 500 Hz. `n_records`: a part of so many records, stratified by fold and
    superclass; a smaller part is contained in a larger one. `strict`: a damaged record raises
    instead of being left out with a warning.

    The table keeps the age PTB-XL gives: 300 stands for "older than 89". ``fold`` is the official
    ``strat_fold``. ``cohort.missing`` counts the official records that are absent.
    Raises ``FileNotFoundError``, ``ValueError``. Chapter: *The twelve-lead ECG*.
    """
    if fs not in RATES:
        raise ValueError(f"PTB-XL comes at 100 or 500 Hz, found fs={fs!r}")
    if n_records is not None and (int(n_records) != n_records or n_records < 1):
        raise ValueError(f"n_records must be a whole number from 1 up, found {n_records!r}")
    if data is None:
        from ecgtutorial.datasets import download

        folder = cache_folder() / "ptb-xl-1.0.3"
        download.ptb_xl(folder, fs=fs, n_records=n_records, base_url=base_url)
    else:
        folder = Path(data)
    database = find_database(folder)
    files = _record_files(folder, fs)
    source = _source(database, files, fs)
    path = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    store = cache_folder() / "stores" / f"ptb-xl-{fs}hz-{path}"
    cohort = open_or_write(store, source, lambda store: _write(store, folder, files, fs, source))
    left_out(cohort, strict)
    if n_records is not None and n_records < len(cohort):
        records = stratified_order(read_database(database))
        present = records[np.isin(records, cohort.table["record_id"])][:n_records]
        cohort = cohort.select(cohort.table["record_id"].isin(present))
    return cohort


def find_database(folder):
    """The path of ``ptbxl_database.csv`` in `folder`, or ``FileNotFoundError`` with a hint."""
    database = Path(folder) / "ptbxl_database.csv"
    if database.is_file():
        return database
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}: give data= the folder of PTB-XL")
    below = sorted(p.parent for p in Path(folder).glob("*/ptbxl_database.csv"))
    hint = f": did you mean data={str(below[0])!r}?" if below else ""
    found = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing"
    raise FileNotFoundError(
        f"{folder} is not a PTB-XL folder: looked for ptbxl_database.csv and records100/ or "
        f"records500/, found {found}{hint}"
    )


def read_database(path):
    """The official database as a DataFrame, one row a record, without the text report.

    Raises ``ValueError`` for a column that is not there. `path`: ``ptbxl_database.csv``.
    """
    try:
        table = pd.read_csv(path, usecols=_COLUMNS)
    except ValueError as error:
        raise ValueError(f"{path} is not PTB-XL's database: {error}") from error
    if not len(table):
        raise ValueError(f"{path} lists no record")
    return table


_COLUMNS = """ecg_id patient_id age sex height weight site device recording_date scp_codes
heart_axis infarction_stadium1 infarction_stadium2 validated_by_human baseline_drift static_noise
burst_noise electrodes_problems extra_beats pacemaker strat_fold filename_lr filename_hr""".split()
_KEPT = """age height weight site device recording_date heart_axis infarction_stadium1
infarction_stadium2 validated_by_human""".split()
# Free text about where the trouble lies ("I-V1, "); here: is there any.
_REMARKS = """baseline_drift static_noise burst_noise electrodes_problems extra_beats
pacemaker""".split()


def _table(database):
    table = pd.DataFrame(
        {
            "record_id": database["ecg_id"].astype("int64"),
            "patient_id": database["patient_id"].astype("int64"),
            "fold": database["strat_fold"].astype("int64"),
            "sex": database["sex"].map({0: "male", 1: "female"}),
        }
    )
    kept = database[_KEPT]
    remarks = database[_REMARKS].apply(lambda c: c.notna() & (c.astype("str").str.strip() != ""))
    table = pd.concat([table, kept, remarks], axis=1)
    return table[["record_id", "patient_id", "fold", "age", "sex", *table.columns[5:]]]


def statement_labels(database):
    """0/1 labels (record, statement) from ``scp_codes``: present at any likelihood.

    Raises ``ValueError`` for a statement that is not one of the 71.
    """
    position = {code: i for i, code in enumerate(STATEMENTS)}
    labels = np.zeros((len(database), len(STATEMENTS)), dtype=np.uint8)
    for row, codes in enumerate(database["scp_codes"]):
        for code in re.findall(r"'([^']+)'", codes):
            if code not in position:
                record = database["ecg_id"].iloc[row]
                raise ValueError(f"record {record} has the unknown statement {code!r}: {codes}")
            labels[row, position[code]] = 1
    return pd.DataFrame(labels, columns=list(STATEMENTS), index=database.index)


def stratified_order(database):
    """Record numbers in an order whose every beginning is stratified by fold and superclass.

    Each stratum's records are shuffled and spread evenly over the order, so the first n hold every
    stratum in proportion, and a smaller part is contained in a larger one. Always the same.
    """
    labels = statement_labels(database)
    key = database["strat_fold"].astype("int64").to_numpy()
    for codes in classes("superclass").values():
        key = 2 * key + labels[list(codes)].to_numpy().max(axis=1)
    rng = np.random.default_rng(20)
    shuffled = rng.permutation(len(database))
    groups = pd.Series(key[shuffled]).groupby(key[shuffled])
    rank, size = groups.cumcount().to_numpy(), groups.transform("size").to_numpy()
    place = (rank + rng.random(len(database))) / size  # in (0, 1), spread within each stratum
    return database["ecg_id"].to_numpy()[shuffled[np.argsort(place, kind="stable")]]


def _record_files(folder, fs):
    """Names of the files below records100 or records500, by folder. One listing each, no stat."""
    top = folder / RATES[fs][0]
    if not top.is_dir():
        other = [name for name, _ in RATES.values() if (folder / name).is_dir()]
        raise FileNotFoundError(
            f"{folder} holds no record at {fs} Hz: looked for {top.name}/, found "
            f"{' and '.join(other) or 'no folder of records'}"
        )
    below = sorted(e.name for e in os.scandir(top) if e.is_dir())
    files = {f"{top.name}/{name}": sorted(os.listdir(top / name)) for name in below}
    if not any(files.values()):
        raise FileNotFoundError(f"{top} holds no record: looked for files like 00000/00001_lr.hea")
    return files


def _source(database, files, fs):
    """What a store is made from, in one line: changes with the table or the set of files."""
    digest = hashlib.sha256(database.read_bytes())
    for name, names in files.items():
        digest.update("\n".join([name, *names]).encode())
        # A file that replaces one of the same name shows here.
        digest.update(str(os.stat(database.parent / name).st_mtime_ns).encode())
    return f"ptb-xl {fs} Hz sha256:{digest.hexdigest()}"


def _write(store, folder, files, fs, source):
    database = read_database(folder / "ptbxl_database.csv")
    there = {f"{d}/{os.path.splitext(f)[0]}" for d, names in files.items() for f in names}
    names = database[RATES[fs][1]].astype("str")
    rows = np.flatnonzero(names.isin(there))
    absent = max(OFFICIAL_RECORDS, len(database)) - len(rows)
    missing = {"official": absent + len(rows), "absent": absent, "damaged": {}}
    if not len(rows):
        raise FileNotFoundError(
            f"no record of {folder / 'ptbxl_database.csv'} is in {folder / RATES[fs][0]}: looked "
            f"for {names.iloc[0]}.hea"
        )
    kept = []

    def chunks():
        for start in range(0, len(rows), 64):
            block = np.empty((64, 12, SECONDS * fs), dtype=np.int16)  # (record, lead, time)
            n = 0
            for row in rows[start : start + 64]:
                try:
                    block[n] = _read(str(folder / names.iloc[row]), fs)
                except wfdb_folder.DamagedRecord as error:
                    missing["damaged"][str(database["ecg_id"].iloc[row])] = str(error)
                else:
                    kept.append(row)
                    n += 1
            if n:
                yield block[:n]
        if not kept:
            raise ValueError(f"every record in {folder} is damaged: {missing['damaged']}")

    return write_store(
        store,
        chunks(),
        lambda: _table(database).iloc[kept],
        lambda: statement_labels(database).iloc[kept],
        fs,
        wfdb_folder.LEADS,
        "ptb-xl",
        source,
        missing,
    )


def _read(path, fs):
    """One record as int16 µV (12, time), or `DamagedRecord` with what is wrong."""
    signals, found = wfdb_folder.read_microvolts(path)
    if found != fs:
        raise wfdb_folder.DamagedRecord(f"sampled at {found:g} Hz, expected {fs} Hz")
    if signals.shape[1] != SECONDS * fs:
        raise wfdb_folder.DamagedRecord(f"{signals.shape[1]} samples, expected {SECONDS * fs}")
    wfdb_folder.reject_invalid(signals)
    return signals
