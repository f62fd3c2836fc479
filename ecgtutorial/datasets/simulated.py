"""The built-in cohort: 12-lead ECGs of a simple simulated heart, with the truth known.

One forward model, from heart to electrode:

        who (`_people`) → when (`_rhythm`) → heart vector (`_heart_vector`, `_timing`, `_waves`)
                    → lead field (`_lead_field`) → noise (`_noise`) → twelve leads (`_twelve`)


The heart is a vector in three dimensions (X to the patient's left, Y down, Z to the back). P, QRS,
ST and T are a dozen smooth lobes: each has a direction, a place in the beat and a width. A
statement (an infarct, a block) adds to those directions or moves them in time, by its severity.
Dower's lead field, changed a little for every patient, reads the vector at the electrodes; each
lobe also has a small part that no dipole explains: rotating the heart vector is not everything.


Typical sizes of lobes, their spread between people, the part that is not dipolar, noise and the
joint frequencies of superclasses were chosen by comparison with PTB-XL (Wagner et al. 2020, CC BY
4.0, doi 10.1038/s41597-020-0495-6). The sum of Gaussian lobes follows McSharry et al. 2003 in idea;
the numbers are our choice.

Random numbers: patient `p` of seed `s` draws from Philox with the key (s, p), and each of its
records from a stream of its own. A record does not depend on how many others are made with it.

Explained in the chapter *The twelve-lead ECG*.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ecgtutorial.cohort import cache_folder, open_or_write, write_store
from ecgtutorial.leads import DOWER, INDEPENDENT, LEADS

_MODEL = 1  # goes up with every change of the model, so that no store of an older one is opened
_CHUNK = 128_000  # time samples of as many patients are made at once: bounded memory

STATEMENTS = ("NORM", "IMI", "ASMI", "NDT", "ISC_", "LVH", "CLBBB", "CRBBB", "LAFB", "IRBBB",
              "1AVB", "PVC", "SR", "SBRAD", "STACH", "AFIB")  # fmt: skip
_DISEASES = STATEMENTS[1:11]  # these belong to a patient; all but the last two exclude NORM
_S = {name: i for i, name in enumerate(_DISEASES)}
_RECORDS_PER_PATIENT = (0.85, 0.12, 0.03)  # shares of patients with one, two, three records

# How often superclasses occur together: PTB-XL's own combinations, in shares of patients.
_MIXES = {
    "NORM": 0.44, "STTC": 0.112, "MI": 0.105, "CD": 0.073, "MI CD": 0.044, "STTC HYP": 0.033,
    "MI STTC": 0.028, "HYP": 0.023, "NORM CD": 0.022, "STTC CD": 0.020, "MI STTC HYP": 0.019,
    "CD HYP": 0.014, "MI STTC CD": 0.009, "STTC CD HYP": 0.009, "MI STTC CD HYP": 0.008,
    "MI HYP": 0.007, "MI CD HYP": 0.005,
}  # fmt: skip

# Lobes of one beat: heart vector (mV), centre after the R wave and width (s, before adaptation).
# Widths are standard deviations. The last three make up a ventricular premature beat.
_LOBES = {
    #             X      Y      Z      centre  width
    "P right":   (0.030, 0.062, -0.035, 0.000, 0.019),
    "P left":    (0.080, 0.052, 0.018, 0.034, 0.019),
    "septal":    (-0.14, -0.08, -0.20, -0.027, 0.0080),
    "main":      (1.38, 0.48, -0.20, -0.009, 0.0095),
    "back":      (0.16, 0.18, 0.98, 0.010, 0.0095),
    "basal":     (-0.10, -0.03, 0.20, 0.027, 0.0095),
    "terminal":  (0.00, 0.00, 0.00, 0.047, 0.0130),
    "ST":        (0.015, 0.000, -0.060, 0.000, 0.0450),
    "T":         (0.430, 0.190, -0.285, 0.000, 0.0560),
    "PVC early": (0.9, 0.5, 0.5, -0.010, 0.0260),
    "PVC late":  (-0.2, 0.3, 0.6, 0.045, 0.0280),
    "PVC T":     (-0.35, -0.25, -0.40, 0.290, 0.0650),
}  # fmt: skip
_L = {name: i for i, name in enumerate(_LOBES)}
# How much a lobe differs between people, as a share of its size (standard deviation per axis).
_SPREAD = (0.14, 0.14, 0.28, 0.12, 0.12, 0.33, 0.55, 0.28, 0.12, 0.17, 0.17, 0.17)
_P, _QRS, _PVC = slice(0, 2), slice(2, 7), slice(9, 12)
_T_SKEW = 1.5  # the T wave falls faster than it rises

# What a statement of severity 1 adds to the lobes (mV).
_EFFECTS = {
    "IMI": {"septal": (-0.02, -0.30, 0.02), "main": (-0.15, -0.42, 0.02), "back": (0, -0.06, 0),
            "ST": (0, 0.04, 0), "T": (-0.04, -0.20, -0.04)},
    "ASMI": {"septal": (-0.03, 0, 0.27), "main": (-0.30, 0, 0.52), "back": (-0.05, 0, 0.05),
             "ST": (0, 0, -0.09), "T": (-0.14, -0.02, 0.20)},
    "ISC_": {"ST": (-0.09, -0.06, 0.05), "T": (-0.33, -0.17, 0.14)},
    "LVH": {"septal": (-0.06, 0, -0.10), "main": (0.62, 0.04, 0.10), "back": (0.30, 0.04, 0.62),
            "ST": (-0.03, -0.01, -0.05), "T": (-0.06, -0.02, -0.10)},
    "CLBBB": {"septal": (0.18, 0.05, 0.24), "main": (-0.40, -0.15, 0.45),
              "back": (0.50, 0, 0.35), "basal": (0.75, 0.10, 0.80), "terminal": (0.25, 0, 0.35),
              "ST": (-0.13, -0.05, -0.17), "T": (-0.42, -0.12, -0.16)},
    "CRBBB": {"back": (-0.10, -0.10, -0.40), "basal": (-0.20, 0, -0.30),
              "terminal": (-0.50, -0.05, -0.75), "ST": (0, 0, 0.05), "T": (0.05, 0, 0.30)},
    "IRBBB": {"back": (-0.10, -0.05, -0.25), "basal": (-0.12, 0, -0.30),
              "terminal": (-0.22, -0.02, -0.26), "T": (0, 0, 0.06)},
    "LAFB": {"septal": (0, 0.16, 0), "main": (-0.18, -0.50, 0.05), "back": (-0.20, -0.70, 0),
             "basal": (0, -0.32, 0.05), "T": (0.03, 0.06, 0)},
}  # fmt: skip
_WIDER = {"CLBBB": 0.34, "CRBBB": 0.14, "IRBBB": 0.04, "LAFB": 0.08, "LVH": 0.08}  # QRS width
_FLATTER = {"NDT": 0.85, "IMI": 0.25, "ASMI": 0.30, "LVH": 0.15}  # share of the T wave lost
_MILDEST = {"CLBBB": 0.70, "CRBBB": 0.65, "LAFB": 0.40}  # complete is never borderline; others: 0.2
_CONFUSED = {"IMI": "ASMI", "ASMI": "IMI", "NDT": "ISC_", "ISC_": "NDT", "LVH": "NDT",
             "CLBBB": "LAFB", "CRBBB": "IRBBB", "IRBBB": "NORM", "LAFB": "IMI", "1AVB": "NORM",
             "NORM": "NDT"}  # fmt: skip


def _effect_table():
    """`_EFFECTS` as numbers, (disease, lobe x 3)."""
    table = np.zeros((len(_DISEASES), len(_LOBES), 3))
    for name, parts in _EFFECTS.items():
        for lobe, change in parts.items():
            table[_S[name], _L[lobe]] = change
    return table.reshape(len(_DISEASES), -1)


_EFFECT = _effect_table()
# Leads from the electrodes RA, LA, LL, V1 ... V6; Wilson's terminal is the mean of the first three.
_ELECTRODES = np.zeros((len(INDEPENDENT), 9), np.float32)
_ELECTRODES[:2, :3] = (-1, 1, 0), (-1, 0, 1)
_ELECTRODES[2:, :3] = -1 / 3
_ELECTRODES[2:, 3:] = np.eye(6)


def open(n_patients=2000, seed=0, fs=100, seconds=10, label_noise=0.03,
         records_per_patient=_RECORDS_PER_PATIENT, cache=None):  # fmt: skip
    """A cohort of simulated 12-lead ECGs; made in seconds, then kept on disk.

    n_patients: number of patients, at least 1. seed: non-negative int.
    fs: sampling rate in Hz, 50 to 1,000. seconds: length of a record, at least 2.
    label_noise: chance that a true diagnostic statement is missed or replaced by one it is often
        confused with (half each), per record; from 0 to below 0.5. Rhythm statements are exact.
    records_per_patient: shares of patients with 1, 2, 3, ... records.
    cache: folder for stores; None: the package's usual place.

    Returns a `Cohort`. Besides the usual columns its table keeps the truth: `heart_rate` (beats a
    minute), `pr`, `qrs`, `qt` (ms; no `pr` in atrial fibrillation), `axis` (frontal QRS axis,
    degrees), `noise` (µV, standard deviation over the leads), `true_statements` (before label
    noise).
    Raises ValueError for an argument out of its range. Folds are stratified by superclasses, so a
    patient's fold depends on `n_patients`; signals and statements do not.
    Model: this module's docstring. Chapter: *The twelve-lead ECG*.
    """
    shares = _checked(n_patients, seed, fs, seconds, label_noise, records_per_patient)
    arguments = {
        "model": _MODEL, "n_patients": int(n_patients), "seed": int(seed), "fs": int(fs),
        "seconds": float(seconds), "label_noise": float(label_noise), "shares": shares.tolist(),
    }  # fmt: skip
    source = "simulated " + json.dumps(arguments)
    name = f"simulated-{hashlib.sha256(source.encode()).hexdigest()[:12]}"

    def write(folder):
        parts = []  # tables and labels, collected while the signals stream to the store

        def chunks():
            many = max(1, _CHUNK // round(seconds * fs))
            for start in range(0, int(n_patients), many):
                patients = range(start, min(start + many, int(n_patients)))
                signals, table, labels = simulate(
                    patients, seed, fs, seconds, label_noise, records_per_patient
                )
                parts.append((table, labels))
                yield signals

        return write_store(
            folder,
            chunks(),
            lambda: _with_folds(pd.concat([t for t, _ in parts], ignore_index=True)),
            lambda: pd.concat([y for _, y in parts], ignore_index=True),
            fs=int(fs),
            leads=LEADS,
            name="simulated",
            source=source,
        )

    return open_or_write(Path(cache or cache_folder()) / name, source, write)


def _checked(n_patients, seed, fs, seconds, label_noise, records_per_patient):
    """Arguments of `open` within their ranges; returns the shares of records per patient."""
    for name, value, low, high, whole in (
        ("n_patients", n_patients, 1, 10_000_000, True),
        ("seed", seed, 0, 2**63 - 1, True),
        ("fs", fs, 50, 1000, True),
        ("seconds", seconds, 2, 3600, False),
        ("label_noise", label_noise, 0, 0.5, False),
    ):
        number = isinstance(value, (int, float, np.integer, np.floating))
        if isinstance(value, bool) or not number or (whole and value != np.floor(value)):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{name} must be {kind}, found {value!r}")
        if not low <= value <= high or (name == "label_noise" and value == high):
            ends = f"{low} <= {name} {'<' if name == 'label_noise' else '<='} {high}"
            raise ValueError(f"{name} is out of range: found {value!r}, expected {ends}")
        shares = np.array(records_per_patient)
    numbers = shares.dtype.kind in "iuf" and shares.ndim == 1 and np.isfinite(shares).all()
    if not numbers or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(
            f"records_per_patient: found {records_per_patient!r}, expected shares of patients with "
            "1, 2, 3, ... records, such as (0.85, 0.12, 0.03): none negative, not all zero"
        )
    return shares / shares.sum()


def simulate(patients, seed=0, fs=100, seconds=10, label_noise=0.03,
             records_per_patient=_RECORDS_PER_PATIENT):  # fmt: skip
    """Records of the given patients in memory: `open` without store and folds.

    patients: sequence of patient numbers, from 0; the other arguments are those of `open`.
    Returns `signals`, int16 µV (record, 12, time), `table` and `labels`, DataFrames as in a cohort,
    but without folds. Raises ValueError as `open` does. Model: this module's docstring.
    """
    shares = _checked(len(patients), seed, fs, seconds, label_noise, records_per_patient)
    fs, samples = int(fs), round(seconds * fs)
    patient, record = _people(patients, int(seed), shares)
    rhythm = _rhythm(patient, record, seconds)
    vector = _heart_vector(patient, record)  # (record, lobe, 3)
    timing = _timing(patient, record, rhythm, vector)
    gain = _beat_to_beat(record, rhythm)  # (record, beat, lobe)
    dower = _patient_dower(patient, record)  # (record, lead, 3)
    field = _lead_field(patient, record, vector, dower)  # (record, lead, lobe)
    clean = np.matmul(field, _waves(timing, gain, fs, samples))  # (record, lead, time)
    clean += _fibrillation(record, rhythm, dower, fs, samples)

    noise = _noise(record, fs, samples)
    signals = _twelve(clean + noise)  # (record, 12, time)
    true, labels = _statements(patient, record, rhythm, label_noise)
    table = _truth(patient, record, rhythm, timing, field)
    table["noise"] = (1000.0 * noise.std(axis=(1, 2)).astype(float)).round(1)  # µV
    table["true_statements"] = [" ".join(np.array(STATEMENTS)[row]) for row in true]
    return signals, table, pd.DataFrame(labels.astype(np.uint8), columns=STATEMENTS)


# --- who ----------------------------------------------------------------------------------------


def _generator(seed, patient, stream):
    """Random numbers of one patient: stream 0 for the person, 1, 2, ... for the records."""
    return np.random.Generator(np.random.Philox(key=(seed, patient), counter=(0, 0, 0, stream)))


def _people(patients, seed, shares):
    """Everything drawn once a patient and once a record: two dicts of arrays.

    Uniform and normal numbers are drawn in one block each, and every part of the model takes its
    own columns: new columns go to the end, so that old records stay what they are.
    """
    streams = [_generator(seed, p, 0) for p in patients]
    u = np.stack([g.random(48) for g in streams])  # (patient, number)
    z = np.stack([g.standard_normal(192) for g in streams])
    count = 1 + (u[:, :1] > np.cumsum(shares)[:-1]).sum(1)  # records a patient
    patient = {"u": u, "z": z, "mix": _pick(u[:, 1], _MIXES.values())}
    patient["severity"] = _diseases(patient["mix"], u)  # (patient, disease), 0: absent
    sick = patient["mix"] != 0
    patient["age"] = np.clip(np.where(sick, 66 + 13 * z[:, 0], 53 + 17 * z[:, 0]), 18, 95).round()
    patient["female"] = u[:, 2] < np.where(sick, 0.45, 0.54)
    fibrillation = 0.13 * np.clip((patient["age"] - 35) / 32, 0, 1.6)
    patient["AFIB"] = ~_mixed(patient["mix"], "NORM") & (u[:, 3] < fibrillation)
    who = np.repeat(np.arange(len(patients)), count)  # (record,)
    number = np.concatenate([np.arange(n) for n in count])
    number_of = np.asarray(patients)[who]
    streams = [_generator(seed, p, 1 + k) for p, k in zip(number_of, number)]
    record = {"who": who, "number": number, "patient_id": number_of, "streams": streams}
    record["u"] = np.stack([g.random(64) for g in streams])
    record["z"] = np.stack([g.standard_normal(64) for g in streams])
    # A patient's disease comes and goes a little from one record to the next.
    change = np.exp(0.12 * record["z"][:, 40:50])
    record["severity"] = patient["severity"][who] * change
    return patient, record


def _pick(u, shares):
    """Index drawn from `shares` by a uniform number."""
    edges = np.cumsum(list(shares))
    return np.searchsorted(edges[:-1] / edges[-1], u, side="right")


def _mixed(mix, superclass):
    """Whether the numbered mixes hold a superclass, bool like `mix`."""
    return np.array([superclass in name.split() for name in _MIXES])[mix]


def _diseases(mix, u):
    """Severity of each disease, (patient, disease): from the mix of superclasses to statements."""
    has = {c: _mixed(mix, c) for c in ("NORM", "MI", "STTC", "CD", "HYP")}
    present = np.zeros((len(mix), len(_DISEASES)), bool)
    present[:, _S["IMI"]] = has["MI"] & (u[:, 4] < 0.54)
    present[:, _S["ASMI"]] = has["MI"] & (u[:, 4] > 0.46)
    present[:, _S["ISC_"]] = has["STTC"] & ((u[:, 5] < 0.45) | (has["HYP"] & (u[:, 5] < 0.8)))
    present[:, _S["NDT"]] = has["STTC"] & ~present[:, _S["ISC_"]]
    present[:, _S["LVH"]] = has["HYP"]
    blocks = ("IRBBB", "LAFB", "1AVB", "CLBBB", "CRBBB")
    which = _pick(u[:, 6], (0.27, 0.36, 0.17, 0.11, 0.09))
    which = np.where(has["NORM"], np.where(u[:, 6] < 0.65, 0, 2), which)  # mild ones beside NORM
    for k, name in enumerate(blocks):
        present[:, _S[name]] = has["CD"] & (which == k)
    present[:, _S["1AVB"]] |= has["CD"] & ~has["NORM"] & (u[:, 7] < 0.08)
    mildest = np.array([_MILDEST.get(name, 0.20) for name in _DISEASES])
    # Between borderline and obvious: the mean of two uniform numbers leans to the middle.
    ordinary = (u[:, 10:20] + u[:, 20:30]) / 2
    return present * (mildest + (1.15 - mildest) * ordinary)


# --- when ---------------------------------------------------------------------------------------


def _rhythm(patient, record, seconds):
    """Times of the R waves (s) and kinds of the beats, (record, beat)."""
    who, u, z = record["who"], record["u"], record["z"]
    fibrillates = patient["AFIB"][who]
    rate = 70 + 9 * patient["z"][who, 1] + 6 * z[:, 0] + 4 * (patient["mix"][who] != 0)
    rate = np.where(u[:, 0] < 0.035, 104 + 28 * u[:, 1], rate)  # tachycardia
    rate = np.where(u[:, 0] > 0.965, 39 + 10 * u[:, 1], rate)  # bradycardia
    rate = np.clip(np.where(fibrillates, 88 + 17 * z[:, 0], rate), 38, 180)
    beats = math.ceil(seconds * 180 / 60 * 1.4) + 6
    draws = np.stack([g.standard_normal(beats) for g in record["streams"]])  # (record, beat)
    chance = np.stack([g.random(beats) for g in record["streams"]])
    rr = (60 / rate)[:, None]  # (record, 1)
    # Sinus: breathing (weaker with age), a slow wave of blood pressure and a little chance.
    breath = 0.045 * np.exp(0.6 * z[:, 1] - (patient["age"][who] - 55) / 40)[:, None]
    breathing = (0.20 + 0.12 * u[:, 2])[:, None]  # Hz
    time = np.arange(beats) * rr
    wave = np.sin(2 * np.pi * (breathing * time + u[:, 3:4]))
    slow = 0.012 * np.sin(2 * np.pi * (0.1 * time + u[:, 4:5]))
    sinus = 1 + np.minimum(breath, 0.15) * wave + slow + 0.010 * draws
    chaos = np.exp(np.minimum(0.20 + 0.05 * z[:, 2:3], 0.35) * draws)  # atrial fibrillation
    intervals = np.maximum(rr * np.where(fibrillates[:, None], chaos, sinus), 0.30)
    r = np.cumsum(intervals, 1) - (2 + u[:, 5:6]) * rr  # the record begins at any point of a beat
    # Premature beats come early and the next beat where it would have come: a full pause.
    prone = u[:, 6] < np.where(patient["u"][who, 40] < 0.06, 0.75, 0.02)
    premature = prone[:, None] & (chance < (0.08 + 0.22 * u[:, 7:8])) & (rr > 0.5)
    premature[:, 1:] &= ~premature[:, :-1]  # never two in a row
    premature[:, [0, -1]] = False
    r = np.where(premature, r - (0.20 + 0.22 * u[:, 8:9]) * intervals, r)
    visible = (r > 0.1) & (r < seconds - 0.1)
    count = visible.sum(1)
    first = np.where(visible, r, np.inf).min(1)
    last = np.where(visible, r, -np.inf).max(1)
    mean = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), rr[:, 0])
    return {"r": r, "premature": premature, "rr": mean, "breathing": breathing,
            "has PVC": (premature & visible).any(1), "fibrillates": fibrillates}  # fmt: skip


# --- heart vector -------------------------------------------------------------------------------


def _heart_vector(patient, record):
    """Direction and size of every lobe in mV, (record, lobe, 3): norm, person, disease, anatomy."""
    who, severity = record["who"], record["severity"]
    person, age = patient["z"][who], patient["age"][who]
    female = patient["female"][who]
    lobes = np.array(list(_LOBES.values()))  # (lobe, 5)
    size = np.linalg.norm(lobes[:, :3], axis=1)
    size[_L["terminal"]] = 0.06
    own = person[:, 10:46].reshape(len(who), len(lobes), 3) * (np.array(_SPREAD) * size)[:, None]
    vector = lobes[:, :3] + own  # (record, lobe, 3)
    lost = np.array([_FLATTER.get(name, 0) for name in _DISEASES])
    t_size = np.exp(0.33 * person[:, 2] - 0.005 * (age - 55)) * (1 - 0.18 * female)
    t_size *= np.prod(1 - np.minimum(severity * lost, 0.95), axis=1)
    vector[:, _L["T"]] *= t_size[:, None]
    vector += np.matmul(severity[:, None], _EFFECT).reshape(vector.shape)
    # Ischaemia has a place: its T wave points away from a direction of the patient's own.
    vector[:, _L["T"]] += severity[:, [_S["ISC_"]]] * 0.12 * person[:, 46:49]
    volts = np.exp(0.20 * person[:, 3] - 0.003 * (age - 55)) * (1 - 0.10 * female)
    vector[:, 2:9] *= volts[:, None, None]
    vector[:, _P] *= np.exp(0.30 * person[:, 4])[:, None, None]
    return np.matmul(vector, _rotation(person, age).transpose(0, 2, 1))


def _rotation(person, age):
    """How the heart lies in the chest: a rotation a record, (record, 3, 3)."""
    about_z = np.radians(13 * person[:, 50] - 0.25 * (age - 55))  # frontal axis, left with age
    about_y = np.radians(14 * person[:, 51])  # shifts the transition in V1-V6
    about_x = np.radians(10 * person[:, 52])
    rotation = np.eye(3)
    for angle, (a, b) in ((about_x, (1, 2)), (about_y, (2, 0)), (about_z, (0, 1))):
        turn = np.tile(np.eye(3), (len(angle), 1, 1))
        turn[:, a, a] = turn[:, b, b] = np.cos(angle)
        turn[:, b, a] = np.sin(angle)
        turn[:, a, b] = -turn[:, b, a]
        rotation = turn @ rotation
    return rotation


def _timing(patient, record, rhythm, vector):
    """When each lobe comes (s): its centre in each beat, its width; PR, QRS and QT."""
    who, severity = record["who"], record["severity"]
    person, female, rr = patient["z"][who], patient["female"][who], rhythm["rr"]
    lobes = np.array(list(_LOBES.values()))
    widening = np.array([_WIDER.get(name, 0) for name in _DISEASES])
    wide = np.exp(0.07 * person[:, 5]) * (1 - 0.05 * female) * (1 + (severity * widening).sum(1))
    complete = (severity[:, [_S["CLBBB"], _S["CRBBB"]]] > 0).any(1)
    wide = np.where(complete, np.maximum(wide, 1.01), wide)  # 120 ms or more, by definition
    onset = -0.047 * wide  # of QRS, before the R wave
    blocked = severity[:, _S["1AVB"]]
    pr = 0.162 + 0.018 * person[:, 6] + 0.012 * (rr - 0.85)
    pr = np.clip(pr, 0.115, 0.198) + (blocked > 0) * 0.03 + 0.08 * blocked
    pr = np.where(blocked > 0, np.maximum(pr, 0.204), pr)
    qtc = 0.398 + 0.015 * person[:, 7] + 0.010 * female + 0.05 * (wide - 1)
    before = np.diff(rhythm["r"], axis=1, prepend=rhythm["r"][:, :1] - rr[:, None])
    # Fridericia's cube root; a beat follows the mean rate more than the interval before it.
    adapted = np.cbrt(0.75 * rr[:, None] + 0.25 * np.clip(before, 0.3, 1.6))  # (record, beat)
    width = np.tile(lobes[:, 4], (len(who), 1))  # (record, lobe)
    width[:, _QRS] *= wide[:, None]
    width[:, _L["T"]] *= np.cbrt(rr) * np.exp(0.10 * person[:, 8])
    centre = np.tile(lobes[:, 3], (*before.shape, 1))  # (record, beat, lobe)
    centre[..., _P] += (onset - pr + 0.035)[:, None, None]
    centre[..., _QRS] *= wide[:, None, None]
    t_end = onset[:, None] + qtc[:, None] * adapted
    centre[..., _L["T"]] = t_end - (2.1 / _T_SKEW) * width[:, [_L["T"]]]
    centre[..., _L["ST"]] = 0.55 * 0.065 * wide[:, None] + 0.45 * centre[..., _L["T"]]
    terminal = np.linalg.norm(vector[:, _L["terminal"]], axis=1)  # mV
    late = np.where(complete, 1, np.minimum(terminal / 0.5, 1))  # how far it prolongs QRS
    qrs = wide * (0.049 + 0.024 * late) - onset
    return {"centre": centre + rhythm["r"][..., None], "width": width, "pr": pr, "qrs": qrs,
            "qt": qtc * np.cbrt(rr)}  # fmt: skip


def _beat_to_beat(record, rhythm):
    """Size of every lobe in every beat, 0 where the beat lacks it: (record, beat, lobe)."""
    r = rhythm["r"]
    jitter = np.stack([g.standard_normal((r.shape[1], len(_LOBES))) for g in record["streams"]])
    breath = np.sin(2 * np.pi * (rhythm["breathing"] * r + record["u"][:, 9:10]))
    tilt = 0.04 * record["z"][:, None, 10:22]  # breathing moves the heart: each lobe its own way
    gain = 1 + 0.035 * jitter + tilt * breath[..., None]
    gain[..., : _PVC.start] *= ~rhythm["premature"][..., None]
    gain[..., _PVC] *= rhythm["premature"][..., None]
    gain[..., _P] *= ~rhythm["fibrillates"][:, None, None]
    return gain


def _waves(timing, gain, fs, samples):
    """Time course of every lobe over the record, float32 (record, lobe, time)."""
    centre, width = timing["centre"].astype(np.float32), timing["width"].astype(np.float32)
    gain, time = gain.astype(np.float32), (np.arange(samples) / fs).astype(np.float32)
    n, beats, lobes = centre.shape
    waves = np.empty((n, lobes, samples), np.float32)
    rows = np.arange(n)[:, None] * (samples + 1)
    for lobe in range(lobes):
        # A sample belongs to the beat whose lobe is nearest: count the midpoints passed so far.
        middle = (centre[:, 1:, lobe] + centre[:, :-1, lobe]) / 2  # (record, beat - 1)
        passed = np.clip(np.ceil(middle * fs).astype(np.int64), 0, samples) + rows
        steps = np.bincount(passed.ravel(), minlength=n * (samples + 1)).reshape(n, samples + 1)
        beat = np.cumsum(steps[:, :samples], axis=1)  # (record, time)
        z = (time - np.take_along_axis(centre[:, :, lobe], beat, 1)) / width[:, lobe, None]
        if lobe == _L["T"]:
            z *= np.where(z > 0, np.float32(_T_SKEW), np.float32(1))
        waves[:, lobe] = np.take_along_axis(gain[:, :, lobe], beat, 1) * np.exp(-0.5 * z * z)
    return waves


# --- from heart to electrode --------------------------------------------------------------------


def _patient_dower(patient, record):
    """Dower's lead field as this patient's chest changes it: (record, 8, 3)."""
    person = patient["z"][record["who"]]
    own = person[:, 156:180].reshape(-1, 8, 3)
    placed = 1 + 0.04 * record["z"][:, 24:32]  # electrodes sit a little elsewhere every day
    return (DOWER * (1 + 0.18 * own) + 0.09 * own[:, ::-1]) * placed[:, :, None]


def _lead_field(patient, record, vector, dower):
    """What each lead sees of each lobe, mV (record, lead, lobe): a dipole and a rest."""
    dipole = dower @ vector.transpose(0, 2, 1)
    person = patient["z"][record["who"]]
    size = np.linalg.norm(vector, axis=2)[:, None]  # (record, 1, lobe)
    rest = 0.12 * size * person[:, 60:156].reshape(-1, 8, vector.shape[1])
    return (dipole + rest).astype(np.float32)


def _fibrillation(record, rhythm, dower, fs, samples):
    """Fibrillatory waves, largest in V1, in mV: (record, lead, time); zero without them."""
    u, time = record["u"], np.arange(samples) / fs
    waves = np.zeros((len(u), len(DOWER), samples), np.float32)
    for i in np.flatnonzero(rhythm["fibrillates"]):
        for k, (speed, part) in enumerate(((5.0, 1.0), (6.3, 0.6))):
            a, b, c, d = u[i, 20 + 4 * k : 24 + 4 * k]
            phase = (speed + 1.5 * a) * time + 0.4 * np.sin(2 * np.pi * ((0.3 + d) * time + b))
            swell = 1 + 0.5 * np.sin(2 * np.pi * (0.4 * time + c))
            direction = np.array([0.1 - 0.4 * k, 0.45, -0.8]) * (0.02 + 0.07 * u[i, 30]) * part
            waves[i] += np.outer(dower[i] @ direction, swell * np.sin(2 * np.pi * phase))
    return waves


def _noise(record, fs, samples):
    """Noise at the nine electrodes, read by the eight leads: float32 mV (record, lead, time)."""
    u, z = record["u"], record["z"]
    length = samples + samples // 4  # a spectrum gives periodic noise: make more, cut
    f = np.fft.rfftfreq(length, 1 / fs)
    wander = (f > 0.05) / (1 + (f / 0.25) ** 2)  # breathing, electrodes
    muscle = f / np.hypot(f, 20) / np.sqrt(1 + (f / 150) ** 8)
    # µV per root Hz; the tails are long, and one record in twenty is a bad one
    bad = 1 + 2.5 * (u[:, 40:42] < 0.05)
    wander = (26 * np.exp(0.85 * z[:, 32]) * bad[:, 0])[:, None, None] * wander
    muscle = (0.42 * np.exp(0.55 * z[:, 33]) * bad[:, 1])[:, None, None] * muscle
    electrode = np.exp(0.35 * z[:, 51:60])[:, :, None]
    density = (np.hypot(wander, muscle) * electrode * np.sqrt(length * fs / 4)).astype(np.float32)
    draws = np.stack([g.standard_normal((9, 2 * len(f)), np.float32) for g in record["streams"]])
    spectrum = draws.view(np.complex64) * density  # (record, electrode, frequency)
    noise = np.fft.irfft(spectrum, length, axis=2)[..., :samples].astype(np.float32)
    if fs > 100:  # mains; a device that samples at 100 Hz or less filters it out before
        hum = np.where(u[:, 42] < 0.3, 6 * np.exp(0.6 * z[:, 34]), 0)[:, None] * u[:, 43:52]
        noise += hum[..., None] * np.sin(2 * np.pi * 50 * np.arange(samples) / fs)
    return np.matmul(_ELECTRODES, noise) * np.float32(1e-3)


def _twelve(eight):
    """Twelve leads in int16 µV from I, II, V1 ... V6 in mV: (record, lead, time)."""
    micro = np.clip(np.rint(eight * 1000), -16000, 16000).astype(np.int16)
    signals = np.empty((len(micro), len(LEADS), micro.shape[2]), np.int16)
    one, two = micro[:, 0], micro[:, 1]
    # From the rounded leads, so that Einthoven's law holds to the microvolt.
    signals[:, 0], signals[:, 1], signals[:, 2] = one, two, two - one
    signals[:, 3] = -((one + two) // 2)
    signals[:, 4] = one - two // 2
    signals[:, 5] = two - one // 2
    signals[:, 6:] = micro[:, 2:]
    return signals


# --- statements and truth -----------------------------------------------------------------------


def _statements(patient, record, rhythm, label_noise):
    """True statements and the labels that readers gave, both bool (record, statement)."""
    at = {name: i for i, name in enumerate(STATEMENTS)}
    true = np.zeros((len(record["who"]), len(STATEMENTS)), bool)
    true[:, 1:11] = record["severity"] > 0
    true[:, at["NORM"]] = _mixed(patient["mix"][record["who"]], "NORM")
    fibrillates = rhythm["fibrillates"]
    true[:, at["1AVB"]] &= ~fibrillates  # no P wave, no PR interval
    rate = 60 / rhythm["rr"]
    true[:, at["PVC"]] = rhythm["has PVC"]
    true[:, at["AFIB"]] = fibrillates
    true[:, at["SBRAD"]] = ~fibrillates & (rate < 50)
    true[:, at["STACH"]] = ~fibrillates & (rate > 100)
    true[:, at["SR"]] = ~fibrillates & (rate >= 50) & (rate <= 100)
    labels = true.copy()
    for name, instead in _CONFUSED.items():
        draw = record["u"][:, 52 + at[name]]
        wrong = true[:, at[name]] & (draw < label_noise)
        labels[wrong, at[name]] = False
        labels[wrong & (draw < label_noise / 2), at[instead]] = True
    # Who misses the only disease calls the record normal; IRBBB and 1AVB may stand beside NORM.
    missed = true[:, 1:11].any(1) & ~labels[:, 1:11].any(1)
    labels[:, at["NORM"]] |= missed & ~true[:, at["PVC"]] & ~fibrillates
    labels[:, at["NORM"]] &= ~labels[:, 1:9].any(1)

    return true, labels


def _truth(patient, record, rhythm, timing, field):
    """The table: who and what is known of each record."""
    who = record["who"]
    area = (field[:, :2, _QRS] * timing["width"][:, None, _QRS]).sum(2)  # of QRS in I and II
    axis = np.degrees(np.arctan2((area[:, 1] - area[:, 0] / 2) * 2 / math.sqrt(3), area[:, 0]))
    milliseconds = {k: (1000 * timing[k]).round() for k in ("pr", "qrs", "qt")}
    milliseconds["pr"][rhythm["fibrillates"]] = np.nan
    columns = {
        "record_id": [f"{p}-{k + 1}" for p, k in zip(record["patient_id"], record["number"])],
        "patient_id": record["patient_id"],
        "age": patient["age"][who],
        "sex": np.where(patient["female"][who], "female", "male"),
        "mix": np.array(list(_MIXES))[patient["mix"][who]],
        "heart_rate": (60 / rhythm["rr"]).round(1),
        **milliseconds,
        "axis": axis.round(),
    }
    return pd.DataFrame(columns)


def _with_folds(table):
    """The table with a fold 1-10 by patient, alike in mixes of superclasses and of equal size."""
    patients = table.drop_duplicates("patient_id").sort_values(["mix", "patient_id"])
    fold = dict(zip(patients["patient_id"], np.arange(len(patients)) % 10 + 1))
    table.insert(2, "fold", table["patient_id"].map(fold))
    return table.drop(columns="mix")
