"""The PhysioNet/CinC Challenges 2020 and 2021: 12-lead recordings with SNOMED CT diagnoses.

    cohort = ecg.open_cohort("challenge", data="challenge-2021/training", fs=500)
    y = cohort.targets("challenge")            # the 26 scored classes, 0/1 (record, class)
    y = cohort.targets("challenge-2020")       # the 24 of 2020

In 2021, 30 SNOMED CT codes were scored, four pairs of them as one class: `CLASSES`, 26. In 2020
there were 27 of these codes: BBB, PRWP and 733534002, complete left bundle branch block, came
later. Three pairs count as one (CRBBB and RBBB, PAC and SVPB, PVC and VPB): `CLASSES_2020`, 24.
Its CLBBB is the LBBB of 2020, 164909002; where a recording has the code that came later, it counts
as the same here. The IAVB and LPR, which paper D merges to get 23, stay two.

Also the classes, their weights, and how PTB-XL's statements map to them, for `metrics.
challenge_score` on any cohort.
Source: Perez Alday et al. 2020, doi 10.1088/1361-6579/abc960; Reyna et al. 2021,
doi 10.23919/CinC53138.2021.9662687.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ecgtutorial.cohort import (
    cache_folder,
    left_out,
    left_out_message,
    open_or_write,
    write_store,
)
from ecgtutorial.datasets import ptbxl
from ecgtutorial.datasets.wfdb_folder import (
    _SEX,
    DamagedRecord,
    _folds,
    _record_names,
    _resample,
    _to_int16,
    _walk,
    read_microvolts,
    reject_invalid,
)
from ecgtutorial.leads import LEADS

# SNOMED CT codes scored as one, class, place on the line of `_weights`, PTB-XL's statements, name.
_TABLE = """
164889003           AF     0      AFIB              atrial fibrillation
164890007           AFL    0      AFLT              atrial flutter
6374002             BBB    0.025  -                 bundle branch block
426627000           Brady  0.2    -                 bradycardia
733534002,164909002 CLBBB  0.025  CLBBB             left bundle branch block
713427006,59118001  CRBBB  0.1    CRBBB             right bundle branch block
270492004           IAVB   0.2    1AVB              first degree AV block
713426002           IRBBB  0.2    IRBBB             incomplete right bundle branch block
39732003            LAD    0.15   -                 left axis deviation
445118002           LAnFB  0.15   LAFB              left anterior fascicular block
164947007           LPR    0.2    LPR               prolonged PR interval
251146004           LQRSV  0.075  LVOLT             low QRS voltages
111975006           LQT    0.05   LNGQT             prolonged QT interval
698252002           NSIVCB 0.15   IVCD              nonspecific intraventricular conduction disorder
426783006           NSR    0.25   SR,NORM           sinus rhythm
284470004,63593006  PAC    0.1625 PAC,SVARR         premature atrial contraction
10370003            PR     0.125  PACE              pacing rhythm
365413008           PRWP   0.075  -                 poor R wave progression
427172004,17338001  PVC    0.125  -                 premature ventricular contractions
164917005           QAb    -0.1   QWAVE             abnormal Q wave
47665007            RAD    0.15   -                 right axis deviation
427393009           SA     0.2    SARRH             sinus arrhythmia
426177001           SB     0.2    SBRAD             sinus bradycardia
427084000           STach  0.125  STACH             sinus tachycardia
164934002           TAb    0      NDT,LOWT,NT_,TAB_ abnormal T wave
59931005            TInv   0      INVT              T wave inversion
"""
_ROWS = [line.split(maxsplit=4) for line in _TABLE.strip().splitlines()]

CLASSES = tuple(row[1] for row in _ROWS)  # in the Challenge's order
CLASSES_2020 = tuple(name for name in CLASSES if name not in ("BBB", "PRWP"))
NORMAL = CLASSES.index("NSR")  # what a classifier that knows nothing answers
SNOMED = {code: row[1] for row in _ROWS for code in row[0].split(",")}
_STATEMENTS = {row[1]: row[3].split(",") for row in _ROWS if row[3] != "-"}


def _weights():
    """The Challenge's table of partial credit, (26, 26): what class j is worth in place of i.

    Its numbers lie on a line: 1 for the class itself, else 0.5 less the distance of two places.
    Two pairs of one place, which earn 0.475 and not 0.5, are the only exceptions.
    """
    place = np.array([float(row[2]) for row in _ROWS])
    weights = 0.5 - np.abs(place[:, None] - place)
    for pair in (("BBB", "CLBBB"), ("LQRSV", "PRWP")):
        i, j = (CLASSES.index(name) for name in pair)
        weights[i, j] = weights[j, i] = 0.475
    np.fill_diagonal(weights, 1.0)
    return weights.round(4)


WEIGHTS = _weights()


def is_own(labels):
    """Whether `labels`, a DataFrame, are the Challenge's own and not PTB-XL's statements."""
    return set(CLASSES) <= set(labels)


def targets(cohort):
    """The 26 classes of a `cohort`, 0/1 (record, class), as a DataFrame of uint8.

    A Challenge cohort has them. Elsewhere they are made of PTB-XL's statements and the QRS axis:
    the table's ``heart_axis`` (PTB-XL: LAD or ALAD, RAD or ARAD) or ``axis`` (degrees: left below
    -30, right above 90). BBB, Brady, PRWP and PVC stay 0: the Challenge's labels of PTB-XL have
    none, whatever PTB-XL's statement PVC says. Raises ``ValueError`` without statements or axis.
    Source: the Challenge's own labels of PTB-XL's records.
    """
    if is_own(cohort.labels):
        return cohort.labels[list(CLASSES)].astype(np.uint8)
    known = [code for code in cohort.labels if code in ptbxl.STATEMENTS]
    if not known:
        raise ValueError(
            f"cohort {cohort.name!r} has neither the Challenge's classes nor PTB-XL's statements"
        )
    found = pd.DataFrame(0, index=cohort.labels.index, columns=list(CLASSES), dtype=np.uint8)
    for name, statements in _STATEMENTS.items():
        there = [code for code in statements if code in known]
        found[name] = cohort.labels[there].to_numpy(np.uint8).max(axis=1, initial=0)
    found["LAD"], found["RAD"] = (side.astype(np.uint8) for side in _deviation(cohort))
    return found


def _deviation(cohort):
    """Left and right axis deviation, bool (record,) each."""
    table = cohort.table
    if "heart_axis" in table:
        return (table["heart_axis"].isin([side, f"A{side}"]) for side in ("LAD", "RAD"))
    if "axis" in table:
        return table["axis"] < -30, table["axis"] > 90
    raise ValueError(
        f"cohort {cohort.name!r}: axis deviation needs a column 'axis' (degrees) or 'heart_axis' "
        f"(PTB-XL's) in the table, found {', '.join(table.columns)}"
    )


# ------------------------------------------------------------------------------------ a folder


def open(data, fs=500, seconds=10.0, strict=False):
    """Open a folder of the Challenge as a cohort of pieces of `seconds` at `fs` Hz.

    `data`: folder with ``*.hea`` and ``*.mat`` or ``*.dat`` at any depth. Other rates are
    resampled. `strict`: a damaged recording raises instead of being left out with a warning.

    A recording is cut into consecutive pieces, without the tail: ``record_id`` names the piece,
    ``recording`` and ``piece`` say what it is of, ``start`` (s) where it begins. All pieces have
    the recording's labels: the 26 `CLASSES` and, by SNOMED CT code, what the Challenge does not
    score. The Challenge names no patients, so that ``patient_id`` is the recording; PTB-XL's
    patients with several recordings can lie in several folds. Folds 1-10 are dealt to recordings
    in a fixed random order. ``subset`` is the folder, such as "georgia".

    ``cohort.missing`` names the ``damaged`` recordings (a sample or lead is missing, too), and
    counts those that are ``short``, less than one piece, and those ``unlabelled``, which are kept.
    Raises ``FileNotFoundError``, ``ValueError``. Chapter: *Any lead*.
    """
    if data is None:
        raise ValueError("challenge needs data=, the folder that holds the Challenge's recordings")
    folder = Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: data= must be a folder of the Challenge")
    if not (fs > 0 and seconds > 0 and float(seconds * fs).is_integer()):
        raise ValueError(f"seconds x fs must be a whole number of samples, found {seconds} x {fs}")
    files, state = _walk(folder)
    options = json.dumps([float(fs), float(seconds)])
    digest = hashlib.sha256(state.encode())
    for file in sorted(file for file in files if file.endswith(".hea")):  # labels are edited there
        digest.update(str(os.stat(folder / file).st_mtime_ns).encode())
    source = f"challenge {options} sha256:{digest.hexdigest()}"
    key = hashlib.sha256(f"{folder.resolve()} {options}".encode()).hexdigest()[:12]
    store = cache_folder() / "stores" / f"challenge-{key}"
    cohort = open_or_write(
        store, source, lambda store: _write(store, folder, files, fs, seconds, source)
    )
    return left_out(cohort, strict)


def _write(store, folder, files, fs, seconds, source):
    listed = pd.Series(_record_names(folder, files))
    names = listed[[f"{name}.hea" in files for name in listed]]
    missing = {"official": len(listed), "absent": len(listed) - len(names), "damaged": {}}
    missing |= {"short": 0, "unlabelled": 0}
    rows, diagnoses = [], []  # one entry a piece

    def chunks():
        block = []
        for name, fold in zip(names, _folds(names)):
            try:
                about, codes = _about(_comments(f"{folder / name}.hea"))
                pieces = list(_pieces(str(folder / name), fs, seconds))
            except DamagedRecord as error:
                missing["damaged"][name] = str(error)
                continue
            missing["short"] += not pieces
            missing["unlabelled"] += bool(pieces) and not codes
            about |= {"recording": name, "fold": fold, "subset": _subset(name, folder)}
            for number, (start, signals) in enumerate(pieces):
                rows.append(about | {"piece": number, "start": start})
                diagnoses.append(codes)
                block.append(signals)
                if len(block) == 64:
                    yield np.stack(block)  # (record, lead, time)
                    block.clear()
        if block:
            yield np.stack(block)
        if not rows:
            raise ValueError(_nothing(folder, seconds, len(names), missing))

    return write_store(
        store,
        chunks(),
        lambda: _table(rows),
        lambda: _labels(diagnoses),
        fs,
        LEADS,
        "challenge",
        source,
        missing,
    )


def _comments(path):
    """The comments of the header `path`. `DamagedRecord` without a usable rate and gains.

    WFDB takes 250 Hz and 200 steps per mV for a rate or gain that it does not understand.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DamagedRecord(f"no readable header {path} ({error.strerror})") from None
    comments = [line.strip("# \t") for line in lines if line.startswith("#")]
    first, *rest = [line.split() for line in lines if line.strip() and line[0] != "#"] or [[]]
    try:  # "500", "500/1000"; "1000/mV", "1000.0(0)/mV"
        words = first[2], *(line[2] for line in rest[: int(first[1])])
        values = [float(re.split("[/(]", word)[0]) for word in words]
    except (IndexError, ValueError) as error:
        raise DamagedRecord(f"its header lacks a rate or gains ({error})") from None
    if not all(0 < value < np.inf for value in values):
        found = f"{values[0]:g} Hz and gains {values[1:]}"
        raise DamagedRecord(f"its header says {found}, expected positive numbers")
    return comments


def _pieces(path, fs, seconds):
    """Pieces of a recording: start in s and int16 µV (12, seconds * fs). A short one has none.

    A sample that is missing anywhere raises `DamagedRecord` for the whole recording, because its
    labels may be about what cannot be seen.
    """
    signals, found = read_microvolts(path)
    signals = _to_int16(np.rint(signals))  # wfdb leaves µV unrounded
    reject_invalid(signals)
    length = round(seconds * found)
    for at in range(0, signals.shape[1] - length + 1, length):
        piece = signals[:, at : at + length]
        yield at / found, _resample(piece, found, fs, round(seconds * fs))


_NO_CODE = {"", "Unknown", "NaN"}


def _about(comments):
    """Age in years and sex of a header's `comments`, and its SNOMED CT codes, sorted."""
    found = {}
    for comment in comments:
        key, _, value = comment.partition(":")
        found[key.strip().lower()] = value.strip()
    age = float(pd.to_numeric(found.get("age", ""), errors="coerce"))
    sex = _SEX.get(found.get("sex", "").lower(), np.nan)
    codes = sorted({code.strip() for code in found.get("dx", "").split(",")} - _NO_CODE)
    odd = [code for code in codes if not code.isdigit()]
    if odd:
        raise DamagedRecord(f"diagnosis {odd[0]!r}, expected SNOMED CT codes such as 426783006")
    return {"age": age, "sex": sex}, codes


def _subset(name, folder):
    """``"georgia"`` of ``training/georgia/g1/E00001``; the folder itself where there is no such."""
    parts = [p for p in name.split("/")[:-1] if not re.fullmatch(r"training|g\d+", p)]
    return "/".join(parts) or folder.resolve().name


def _table(rows):
    table = pd.DataFrame(rows)
    table["record_id"] = table["recording"] + "-" + table["piece"].astype("str")
    table["patient_id"] = table["recording"]
    first = ["record_id", "patient_id", "fold", "age", "sex"]
    return table[[*first, "recording", "piece", "start", "subset"]]


def _labels(diagnoses):
    """0/1 (record, class): the 26 classes, then unscored codes, from each record's codes."""
    named = [{SNOMED.get(code, code) for code in codes} for codes in diagnoses]
    columns = [*CLASSES, *sorted(set().union(*named) - set(CLASSES))]
    position = {name: i for i, name in enumerate(columns)}
    labels = np.zeros((len(named), len(columns)), dtype=np.uint8)
    for row, names in enumerate(named):
        labels[row, [position[name] for name in names]] = 1
    return pd.DataFrame(labels, columns=columns)


def _nothing(folder, seconds, total, missing):
    """Why no recording of `folder` can be used."""
    short = f"{missing['short']:,} of {total:,} recordings in {folder} are shorter than {seconds} s"
    return left_out_message(missing["damaged"], f"{short}, {len(missing['damaged']):,}")
