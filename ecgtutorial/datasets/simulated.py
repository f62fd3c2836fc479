"""The built-in cohort: 12-lead ECGs of simulated hearts, with the truth known at every step.

    cohort = ecg.open_cohort("simulated", n_patients=2000, seed=0)     # seconds, then kept on disk
    one = simulated.example("AFIB", "CLBBB", severity=0.8)             # a record you order
    many = simulated.recordings(range(20), seed=0, fs=500)             # records with their truth
    simulated.export(many, "folder")                                   # as WFDB, with annotations

One forward model, a step a file of `ecgtutorial.heart`:

    people (who has what)   ->  source (muscle, conduction, recovery)  ->
                                rhythm (when the heart beats)          ->  recording  -> statements
    ventricles (wall model) ->  torso (lead field, electrodes), noise  ->

Random numbers: patient `p` of seed `s` draws from Philox with the key (s, p), and each of its
records from streams of its own. A record does not depend on how many others are made with it.

Explained in the chapters *The heart vector*, *Cohorts* and *Arrhythmias and infarcts*.
"""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd

from ecgtutorial.cohort import cache_folder, open_or_write, write_store
from ecgtutorial.datasets import ptbxl
from ecgtutorial.heart import check_number, people
from ecgtutorial.heart.people import STATEMENTS
from ecgtutorial.heart.recording import DAY, PERSON, record, t_wave, waves
from ecgtutorial.heart.source import REST
from ecgtutorial.heart.torso import twelve
from ecgtutorial.leads import LEADS

MODEL = 4  # goes up with every change of the model, so that no store of an older one is opened
CHUNK = 96_000  # time samples of as many records are made at once: bounded memory
_RECORDS_PER_PATIENT = (0.85, 0.12, 0.03)  # shares of patients with one, two, three records


def open(n_patients=2000, seed=0, fs=100, seconds=10, label_noise=0.03,
         records_per_patient=_RECORDS_PER_PATIENT, prevalence=None, noise=1.0, n_jobs=None,
         cache=None):  # fmt: skip
    """A cohort of simulated 12-lead ECGs; made in seconds, then kept on disk.

    n_patients: number of patients, at least 1. seed: whole number from 0 up.
    fs: sampling rate in Hz, 50 to 1,000. seconds: length of a record, at least 2.
    label_noise: chance that a true statement is missed or replaced by one it is often confused
        with, see `heart.people.read`; from 0 to 0.5.
    records_per_patient: shares of patients with 1, 2, 3, ... records.
    prevalence: shares of patients by statement in place of PTB-XL's, such as {"AFIB": 0.3}.
    noise: multiplies everything electrodes pick up besides the heart; 0 for none.
    n_jobs: threads; None: one a core. The records are the same with any number.
    cache: folder for stores; None: the package's usual place.

    Returns a `Cohort`. Besides the usual columns its table keeps the truth, see `simulate`.
    Raises ValueError for an argument out of its range. Folds are stratified by superclasses, so a
    patient's fold depends on `n_patients`; signals and statements do not.
    Model: this module's docstring. Chapter: *Cohorts*.
    """
    options = _checked(seed, fs, seconds, label_noise, records_per_patient, prevalence, noise)
    return stored("simulated", MODEL, n_patients, options, simulate, _superclasses, n_jobs, cache)


def stored(name, model, n_patients, options, simulate, strata, n_jobs, cache):
    """The simulated cohort `name` from its store, or made chunk by chunk and kept there.

    model: goes up with every change. options: checked arguments of `simulate`, which makes records.
    strata: function from the table to what folds should be alike in (record,). Others as in `open`.
    Raises ValueError for `n_patients` out of its range.
    """
    check_number("n_patients", n_patients, 1, 10_000_000, whole=True)
    n_patients = int(n_patients)
    source = f"{name} {json.dumps({'model': model, 'n_patients': n_patients, **options})}"
    folder = f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    many = max(1, math.floor(CHUNK / (options["seconds"] * options["fs"])))
    calls = (
        joblib.delayed(simulate)(range(a, min(a + many, n_patients)), **options)
        for a in range(0, n_patients, many)
    )
    tables, labels = [], []  # collected while the signals stream to the store

    def chunks():
        # Threads: numpy works outside the interpreter's lock, and nothing has to be copied.
        parallel = joblib.Parallel(
            n_jobs or -1, prefer="threads", return_as="generator", pre_dispatch="2*n_jobs"
        )
        for signals, table, label in parallel(calls):
            tables.append(table)
            labels.append(label)
            yield signals

    def folded():
        table = pd.concat(tables, ignore_index=True)
        patients = table.assign(strata=strata(table)).drop_duplicates("patient_id")
        patients = patients.sort_values(["strata", "patient_id"])["patient_id"]
        fold = dict(zip(patients, np.arange(len(patients)) % 10 + 1))
        table.insert(2, "fold", table["patient_id"].map(fold))
        return table

    def write(folder):
        return write_store(
            folder, chunks(), folded, lambda: pd.concat(labels, ignore_index=True),
            options["fs"], LEADS, name, source,
        )  # fmt: skip

    return open_or_write(Path(cache or cache_folder() / "stores") / folder, source, write)


def _superclasses(table):
    """Each record's mix of superclasses, as text."""
    superclass = {code: s.superclass for code, s in ptbxl.STATEMENTS.items() if s.superclass}
    return [
        " ".join(sorted({superclass[c] for c in text.split() if c in superclass}))
        for text in table["true_statements"]
    ]


def simulate(patients, **options):
    """Records of the given patients in memory: `open` without store and folds.

    patients: sequence of patient numbers, from 0. options: arguments of `open` from `seed` to
    `noise`.
    Returns `signals`, int16 µV (record, 12, time), `table` and `labels`, DataFrames as in a cohort,
    but without folds. Columns of truth: `heart_rate` (beats a minute), `pr`, `qrs`, `qt` (ms; no
    `pr` without one), `axis` (frontal QRS axis, degrees), `turn_x`, `turn_y`, `turn_z` (how the
    heart lies: its long axis in the body, left, down, back), `noise` (µV, standard deviation over
    the leads), `lead_off`, `swapped_arms`, `true_statements` (before label noise).
    Raises ValueError as `open` does.
    """
    many = recordings(patients, truth=False, **options)
    return many.signals, many.table, many.labels


def recordings(patients, seed=0, fs=100, seconds=10, label_noise=0.03,
               records_per_patient=_RECORDS_PER_PATIENT, prevalence=None, noise=1.0,
               truth=True):  # fmt: skip
    """Records of the given patients with the truth at every step.

    Arguments: those of `open`. Returns a namespace: `signals`, `table`, `labels` as there;
    `clean`, int16 µV (record, 12, time) without noise; `vector`, the heart vector in mV, X left, Y
    down, Z back (record, 3, time); `severity`, DataFrame (record, statement); `beats(i)`, the
    waves of record `i` with onset, peak and offset, see `heart.recording.waves`; `field`, what each
    lead reads (record, 8, 9), see `heart.torso.lead_field`, and below it the rows of the heart
    vector; `fires`, ms, and `scar`, share of dead muscle, of every node of the wall
    `heart.ventricles.ventricles()` (record, node); `fs`, `seconds`.
    """
    options = _checked(seed, fs, seconds, label_noise, records_per_patient, prevalence, noise)
    who, streams = _people(patients, options)
    out = record(
        who["severity"], who["age"], who["female"], who["person"], who["day"], *streams,
        options["fs"], seconds, noise, truth=truth,
    )  # fmt: skip
    return _recordings(out, who, options, truth)


def example(*statements, severity=1.0, heart_rate=None, age=60, sex="male", fs=500, seconds=10,
            noise=0.0, seed=None):  # fmt: skip
    """One record to order: a typical person with just these statements.

    statements: PTB-XL's codes, such as "AFIB", "IMI"; none: a normal ECG in sinus rhythm. severity:
    0 to 1.2, of all of them, or a dict. heart_rate: beats a minute (of the atria in third-degree
    block); None: one that fits. age: years. sex: "male" or "female". noise: multiplies noise.
    seed: None for the typical heart and chest, a whole number for a person drawn at random.
    Returns the namespace of `recordings`, with one record.
    Raises ValueError for an unknown statement, a contradictory combination, a heart rate that does
    not fit the rhythm, or an argument out of its range.
    """
    people.check(statements)
    options = _checked(seed or 0, fs, seconds, 0, (1,), None, noise)
    if sex not in ("female", "male"):
        raise ValueError(f"sex: found {sex!r}, expected 'female' or 'male'")
    check_number("age", age, 18, 110)
    row = np.zeros((1, len(STATEMENTS)))
    for code in statements:
        value = severity.get(code, 1.0) if isinstance(severity, dict) else severity
        check_number(f"severity of {code}", value, 0, 1.2)
        row[0, STATEMENTS.index(code)] = value
    if heart_rate is not None:
        _check_rate(statements, heart_rate)
        heart_rate = np.array([float(heart_rate)])
    streams = [[_generator(options["seed"], 0, 1 + k)] for k in range(2)]
    person = _numbers([_generator(options["seed"], 0, 0)], PERSON)
    day = _numbers(streams[0], DAY)
    if seed is None:  # in the middle of all persons
        person, day = (0 * person[0] + 0.5, 0 * person[1]), (day[0], 0 * day[1])
        person[1][:, 0] = -1.2  # voltage: where all is in its best place, waves are too tall
    who = {
        "severity": row, "age": np.array([float(age)]), "female": np.array([sex == "female"]),
        "number": np.zeros(1, int), "patient_id": np.zeros(1, int),
        "reader": np.full((1, len(STATEMENTS)), 0.5),
    }  # fmt: skip
    out = record(
        row, who["age"], who["female"], person, day, *streams, options["fs"], seconds, noise,
        heart_rate, True,
    )  # fmt: skip
    return _recordings(out, who, options, True)


# --- arguments ------------------------------------------------------------------------------------

_RATES = {  # beats a minute that a rhythm can have
    "SBRAD": (25, 60), "STACH": (100, 200), "SVTAC": (100, 260), "PSVT": (50, 110),
    "AFIB": (30, 220), "SR": (50, 100), "PACE": (40, 180), "3AVB": (40, 180),
}  # fmt: skip


def _check_rate(statements, rate):
    check_number("heart_rate", rate, 20, 220)
    if "AFLT" in statements:
        raise ValueError(f"heart_rate: found {rate!r} with AFLT, expected None: its block sets it")
    for code, (low, high) in _RATES.items():
        if code in statements and not low <= rate <= high:
            raise ValueError(
                f"heart_rate: found {rate!r} with {code}, expected {low} to {high} beats a minute"
            )


def checked(seed, fs, seconds, records_per_patient, noise):
    """Arguments within their ranges, as plain numbers that can be written down."""
    check_number("seed", seed, 0, 2**63 - 1, whole=True)
    check_number("fs", fs, 50, 1000, whole=True)
    check_number("seconds", seconds, 2, 3600)
    check_number("noise", noise, 0, 100)
    shares = np.array(records_per_patient)
    numbers = shares.dtype.kind in "iuf" and shares.ndim == 1 and np.isfinite(shares).all()
    if not numbers or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(
            f"records_per_patient: found {records_per_patient!r}, expected shares of patients with "
            "1, 2, 3, ... records, such as (0.85, 0.12, 0.03): none negative, not all zero"
        )
    return {
        "seed": int(seed), "fs": int(fs), "seconds": float(seconds),
        "records_per_patient": (shares / shares.sum()).tolist(), "noise": float(noise),
    }  # fmt: skip


def check_numbers(name, numbers, high):
    """Raise ValueError unless the array `numbers` is a sequence of whole ones from 0 to `high`."""
    sequence = numbers.ndim == 1 and numbers.dtype.kind in "iu" and len(numbers)
    if not sequence or numbers.min() < 0 or numbers.max() > high:
        raise ValueError(
            f"{name}: found {numbers!r}, expected a sequence of whole numbers from 0 to {high}"
        )


def _checked(seed, fs, seconds, label_noise, records_per_patient, prevalence, noise):
    options = checked(seed, fs, seconds, records_per_patient, noise)
    check_number("label_noise", label_noise, 0, 0.5)
    if prevalence is not None:
        people.draw(np.zeros((1, people.K_U)), np.zeros((1, people.K_Z)), prevalence)
        prevalence = {str(k): float(v) for k, v in prevalence.items()}
    return options | {"label_noise": float(label_noise), "prevalence": prevalence}


# --- who and when ---------------------------------------------------------------------------------


def _generator(seed, patient, stream):
    """Random numbers: stream 0 of the person, 1, 2 of the first record's heart and noise, ..."""
    return np.random.Generator(np.random.Philox(key=(seed, patient), counter=(0, 0, 0, stream)))


def _numbers(streams, widths):
    """A block of uniform and a block of standard normal numbers, a row a stream."""
    u = np.stack([g.random(widths[0]) for g in streams])
    return u, np.stack([g.standard_normal(widths[1]) for g in streams])


def drawn(patients, options, widths, day_widths, key=0):
    """What is random in patients and their records, but for what beats and noise draw later.

    patients: their numbers. options: see `checked`. widths, day_widths: how many uniform and normal
    numbers a patient and a record take. key: added to the numbers of patients in random keys.
    Returns a namespace: `u`, `z` (patient, width), whose first uniform number says how many records
    a patient has; `who`, the row of each record's patient, `patient_id`, `number` (record,);
    `day_u`, `day_z` (record, width); `streams`, the Generators of each heart and of each noise.
    Raises ValueError for patients that are no such numbers.
    """
    patients = np.asarray(patients)
    check_numbers("patients", patients, 2**62 - 1)
    seed, keys = options["seed"], [key + int(p) for p in patients]
    u, z = _numbers([_generator(seed, k, 0) for k in keys], widths)
    shares = np.cumsum(options["records_per_patient"])
    count = 1 + (u[:, :1] > shares[:-1]).sum(1)
    who = np.repeat(np.arange(len(patients)), count)
    number = np.concatenate([np.arange(n) for n in count])
    streams = [
        [_generator(seed, keys[w], first + 2 * k) for w, k in zip(who, number)] for first in (1, 2)
    ]
    day_u, day_z = _numbers(streams[0], day_widths)
    return SimpleNamespace(u=u, z=z, who=who, patient_id=patients[who], number=number,
                           day_u=day_u, day_z=day_z, streams=streams)  # fmt: skip


def _people(patients, options):
    """Everything known of patients before they are recorded, a row a record, and generators."""
    widths = (1 + people.K_U + PERSON[0], people.K_Z + PERSON[1])
    d = drawn(patients, options, widths, (DAY[0] + len(STATEMENTS), DAY[1]))
    age, female, severity = people.draw(d.u[:, 1:], d.z, options["prevalence"])
    # A disease comes and goes a little from one record to the next.
    change = np.exp(0.10 * d.day_z[:, -6:-5])
    records = {
        "severity": np.minimum(severity[d.who] * change, 1.2), "age": age[d.who],
        "female": female[d.who], "number": d.number, "patient_id": d.patient_id,
        "person": (d.u[d.who, 1 + people.K_U :], d.z[d.who, people.K_Z :]),
        "day": (d.day_u[:, : DAY[0]], d.day_z), "reader": d.day_u[:, DAY[0] :],
    }  # fmt: skip
    return records, d.streams


# --- what is known --------------------------------------------------------------------------------


def _recordings(out, who, options, truth):
    severity = who["severity"]
    true = severity > 0
    labels = people.read(severity, true, who["reader"], options["label_noise"])
    table = _table(out, who)
    table["true_statements"] = [" ".join(np.array(STATEMENTS)[row]) for row in true]
    labels = pd.DataFrame(labels.astype(np.uint8), columns=STATEMENTS)
    many = gathered(out, table, labels, options, truth)
    if truth:
        many.severity = pd.DataFrame(severity, columns=STATEMENTS)
        many.fires, many.scar = out["shapes"]["fires"], out["shapes"]["scar"]
    return many


def gathered(out, table, labels, options, truth):
    """The namespace of `recordings`, as far as all simulated cohorts share it.

    out: what `heart.recording.read` gave. options: see `checked`.
    """
    many = SimpleNamespace(
        signals=twelve(out["leads"]), table=table, labels=labels, fs=options["fs"],
        seconds=options["seconds"],
    )  # fmt: skip
    if truth:
        many.clean, many.vector = twelve(out["clean"]), out["vector"]
        many.field, many.rhythm = out["field"], out["rhythm"]
        many.beats = lambda i: waves(out, i, options["seconds"])
    return many


def _table(out, who):
    """The table: who and what is known of each record."""
    beats, heart = out["rhythm"], out["shapes"]
    end = np.cbrt(beats["rr"] / REST) * t_wave(out["waves"])[1]
    return pd.DataFrame({
        **who_columns(who), "heart_rate": (60 / beats["rr"]).round(1),
        "pr": (1000 * beats["pr"] + np.minimum(heart["on"][:, 0], 0)).round(),  # to a delta wave
        "qrs": (heart["off"] - heart["on"])[:, 0].round(), "qt": (end - heart["on"][:, 0]).round(),
        "axis": frontal_axis(out["field"], heart["qrs"][:, 0]), **place_columns(out),
    })  # fmt: skip


def who_columns(who):
    """Columns of the table that say whose record it is."""
    return {
        "record_id": [f"{p}-{k + 1}" for p, k in zip(who["patient_id"], who["number"])],
        "patient_id": who["patient_id"], "age": who["age"],
        "sex": np.where(who["female"], "female", "male"),
    }  # fmt: skip


def frontal_axis(field, qrs):
    """Whole degrees (record,). field: of the leads (record, lead, 9); qrs: (record, 9, time)."""
    one, two = np.matmul(field[:, :2], qrs).sum(axis=2).T  # I, II: net QRS area
    return np.degrees(np.arctan2((two - one / 2) * 2 / math.sqrt(3), one)).round()


def place_columns(out):
    """Columns of the table that say how the heart lies and what disturbs the record."""
    noise, along = out["noise"], out["turn"][:, :, 2]  # the long axis of the heart in the body
    total = np.sqrt((noise[["wander", "muscle", "mains", "motion"]].to_numpy() ** 2).sum(axis=1))
    return {
        **{f"turn_{a}": along[:, k].round(3) for k, a in enumerate("xyz")},
        "noise": total.astype(float).round(1), "lead_off": noise["lead_off"].to_numpy(),
        "swapped_arms": noise["swapped"].to_numpy().astype(np.uint8),
    }  # fmt: skip


# --- files ----------------------------------------------------------------------------------------


def export(many, folder):
    """Write recordings as WFDB records with beat annotations; returns the record names.

    many: what `recordings` or `example` gave, of this cohort or of `simulated_vt`. folder: made if
    absent. For each record `name.hea` and `name.dat` (16 bits, 1 µV a step), `name.atr` (beats at
    their peaks, with WFDB's codes) and `name.waves` (onset "(", peak "p", "N" or "t", and offset
    ")" of every wave). The header's comments hold the row of the table, such as age, sex and
    statements, or the origin.
    Raises OSError where the folder cannot be written.
    """
    import wfdb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i, row in many.table.iterrows():
        name = f"s{row['record_id']}".replace("-", "_")
        comments = [
            f"{key.removeprefix('true_')}: {f'{value:g}' if isinstance(value, float) else value}"
            for key, value in row.drop(["record_id", "patient_id"]).items()
        ]
        wfdb.wrsamp(
            name, fs=many.fs, units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12,
            d_signal=many.signals[i].T, adc_gain=[1000.0] * 12, baseline=[0] * 12,
            comments=comments, write_dir=str(folder),
        )  # fmt: skip
        table = many.beats(i)
        qrs = table[table["wave"] == "QRS"]
        _annotate(name, "atr", qrs["peak"], qrs["code"], many, folder)
        marks = {"onset": "(", "offset": ")"}
        letter = table["wave"].map({"P": "p", "QRS": "N", "T": "t"})
        times = [table["peak"], *(table[c] for c in marks)]
        symbols = [letter, *(pd.Series(m, table.index) for m in marks.values())]
        _annotate(name, "waves", pd.concat(times), pd.concat(symbols), many, folder)
        names.append(name)
    return names


def _annotate(name, extension, times, symbols, many, folder):
    import wfdb

    samples = (times * many.fs).round().to_numpy()
    keep = np.isfinite(samples) & (samples >= 0) & (samples < many.signals.shape[2])
    order = np.argsort(samples[keep], kind="stable")
    if keep.any():
        wfdb.wrann(name, extension, samples[keep][order].astype(int),
                   symbols.to_numpy()[keep][order].tolist(), fs=many.fs,
                   write_dir=str(folder))  # fmt: skip
