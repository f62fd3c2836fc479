"""The simulated cohort: the same records every time, true to the laws of leads, near PTB-XL."""

import hashlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgtutorial.cohort import SUPERCLASSES, open_cohort
from ecgtutorial.datasets import simulated
from ecgtutorial.heart.people import RHYTHMS, STATEMENTS
from ecgtutorial.leads import DOWER, LEADS


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("simulated", n_patients=600, seed=5)


def lead(signals, name):
    return signals[:, LEADS.index(name)].astype(int)


def has(table, name):
    return table["true_statements"].str.split().map(lambda true: name in true)


def test_shape_columns_and_names(cohort):
    assert cohort.signals.dtype == np.int16
    assert cohort.signals.shape == (len(cohort), 12, 1000)
    assert cohort.fs == 100 and cohort.name == "simulated"
    truth = ["heart_rate", "pr", "qrs", "qt", "axis", "turn_x", "turn_y", "turn_z", "noise",
             "lead_off", "swapped_arms", "true_statements"]  # fmt: skip
    assert list(cohort.table) == ["record_id", "patient_id", "fold", "age", "sex", *truth]
    assert cohort.table["record_id"].is_unique
    assert tuple(cohort.labels) == STATEMENTS
    assert set(cohort.table["sex"]) == {"female", "male"}
    assert tuple(cohort.targets("superclass")) == SUPERCLASSES


def test_a_second_opening_reads_the_store(cohort):
    start = time.perf_counter()
    again = open_cohort("simulated", n_patients=600, seed=5)
    assert time.perf_counter() - start < 0.5
    assert again.fingerprint == cohort.fingerprint
    assert open_cohort("simulated", n_patients=20, seed=6).fingerprint != cohort.fingerprint


def test_records_do_not_depend_on_what_is_made_with_them(cohort, monkeypatch, tmp_path):
    signals, table, labels = simulated.simulate(range(600), seed=5)
    assert (signals == cohort.signals).all()
    for chunk, jobs in ((7 * 1000, 3), (1000, 1)):
        monkeypatch.setattr(simulated, "CHUNK", chunk)
        small = simulated.open(n_patients=40, seed=5, cache=tmp_path / str(jobs), n_jobs=jobs)
        n = len(small)
        assert (small.signals == signals[:n]).all()
        pd.testing.assert_frame_equal(small.labels, labels[:n])
        pd.testing.assert_frame_equal(
            small.table.drop(columns="fold").fillna(""), table[:n].fillna(""), check_dtype=False
        )
    alone = simulated.simulate([39], seed=5)[0]
    assert (alone == signals[table["patient_id"] == 39]).all()
    assert (simulated.recordings([39], seed=5).signals == alone).all()  # whatever is kept of it
    assert (simulated.simulate([39], seed=4)[0][0] != alone[0]).mean() > 0.9


def test_another_process_makes_the_same_records():
    code = (
        "import hashlib; from ecgtutorial.datasets import simulated as s;"
        "x, t, y = s.simulate(range(5), seed=3);"
        "print(hashlib.sha256(x.tobytes() + t.to_csv().encode() + y.to_csv().encode()).hexdigest())"
    )
    x, t, y = simulated.simulate(range(5), seed=3)
    here = hashlib.sha256(x.tobytes() + t.to_csv().encode() + y.to_csv().encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_limb_leads_obey_einthoven_and_goldberger(cohort):
    one, two = lead(cohort.signals, "I"), lead(cohort.signals, "II")
    assert (lead(cohort.signals, "III") == two - one).all()
    for name, expected in (
        ("aVR", -(one + two) / 2),
        ("aVL", one - two / 2),
        ("aVF", two - one / 2),
    ):
        assert np.abs(lead(cohort.signals, name) - expected).max() <= 0.5


def test_sampling_rates_show_the_same_heart():
    slow = simulated.recordings(range(30), fs=100)
    fast = simulated.recordings(range(30), fs=500)
    assert fast.signals.shape[2] == 5000
    columns = ["heart_rate", "pr", "qt", "qrs", "axis", "true_statements"]
    pd.testing.assert_frame_equal(slow.table[columns], fast.table[columns])
    likeness = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(slow.clean[:, 1].astype(float), fast.clean[:, 1, ::5].astype(float))
    ]
    assert np.median(likeness) > 0.98 and min(likeness) > 0.9
    assert simulated.simulate([3], fs=1000, seconds=2)[0].shape == (1, 12, 2000)


def test_patients_keep_fold_person_and_anatomy():
    cohort = open_cohort("simulated", n_patients=300, seed=5, records_per_patient=(0.5, 0.5))
    by_patient = cohort.table.groupby("patient_id")
    for column in ("fold", "age", "sex"):
        assert (by_patient[column].nunique() == 1).all()
    sizes = by_patient["fold"].first().value_counts()
    assert len(sizes) == 10 and sizes.max() - sizes.min() <= 1
    train, val, test = cohort.split()
    assert len(train) + len(val) + len(test) == len(cohort)
    for column in ("axis", "qrs", "turn_x", "turn_z"):  # the same heart, another day
        within = by_patient[column].agg(np.ptp)[by_patient.size() > 1].median()
        assert within < 0.5 * cohort.table[column].std(), column
    pairs = cohort.table[cohort.table.duplicated("patient_id", keep=False)]
    rates = pairs.groupby("patient_id")["heart_rate"].agg(np.ptp)
    assert rates.median() > 3


def test_prevalences_are_near_ptb_xl():
    _, table, labels = simulated.simulate(range(1500), fs=50, seconds=2, seed=1)
    from ecgtutorial.datasets import ptbxl

    shares = {"NORM": 0.479, "MI": 0.222, "STTC": 0.235, "CD": 0.201, "HYP": 0.116}
    for name, share in shares.items():
        members = list(ptbxl.classes("superclass")[name])
        assert abs(labels[members].any(axis=1).mean() - share) < 0.045, name
    assert (labels.sum() > 0).sum() >= 55  # of 71 statements, in 1,500 patients
    assert (labels[list(RHYTHMS)].sum(axis=1) <= 1).all()


def test_prevalence_is_what_the_caller_wants():
    _, table, _ = simulated.simulate(
        range(400), fs=50, seconds=2, prevalence={"AFIB": 0.4, "CLBBB": 0}
    )
    assert abs(has(table, "AFIB").mean() - 0.4) < 0.08
    assert not has(table, "CLBBB").any()


def test_label_noise_is_the_stated_rate():
    def given(rate):
        options = dict(fs=50, seconds=2, seed=2, label_noise=rate)
        _, table, labels = simulated.simulate(range(600), **options)
        true = np.stack([has(table, s) for s in STATEMENTS], axis=1)
        return true, labels.to_numpy(bool)

    true, labels = given(0)
    assert (true == labels).all()
    true, labels = given(0.2)
    ill = [i for i, s in enumerate(STATEMENTS) if s not in (*RHYTHMS, "NORM")]
    lost = (true & ~labels)[:, ill].sum() / true[:, ill].sum()
    assert 0.15 < lost < 0.24


def test_statements_agree_with_the_truth(cohort):
    table = cohort.table
    assert table.loc[has(table, "AFIB") | has(table, "AFLT"), "pr"].isna().all()
    usual = table["pr"].notna() & ~has(table, "2AVB")
    assert (table.loc[has(table, "1AVB") & usual, "pr"] > 200).all()
    slow = has(table, "1AVB") | has(table, "LPR")
    assert (table.loc[~slow & usual, "pr"] <= 200).all()
    assert (table.loc[has(table, "CLBBB") | has(table, "CRBBB"), "qrs"].median()) >= 120
    assert table.loc[has(table, "NORM"), "qrs"].median() < 105
    alone = ~has(table, "PVC") & ~has(table, "PAC") & ~has(table, "BIGU") & ~has(table, "PRC(S)")
    assert (table.loc[has(table, "STACH") & alone, "heart_rate"] > 97).all()
    assert (table.loc[has(table, "SBRAD") & alone, "heart_rate"] < 60).all()
    left = table.loc[has(table, "LAFB"), "axis"].median()
    assert left < 0 < table.loc[has(table, "NORM"), "axis"].median()
    assert table.loc[has(table, "LNGQT"), "qt"].median() > table["qt"].quantile(0.75)


def test_waves_look_like_an_ecg(cohort):
    normal = has(cohort.table, "NORM") & ~has(cohort.table, "PVC") & (cohort.table["noise"] < 60)
    signals = cohort.signals[np.flatnonzero(normal)] / 1000  # mV
    centred = signals - np.median(signals, axis=2, keepdims=True)
    r = np.median(np.percentile(centred, 99, axis=2), axis=0)  # (lead,)
    s = np.median(np.percentile(centred, 1, axis=2), axis=0)
    at = LEADS.index
    assert 0.5 < r[at("V5")] < 1.8 and 0.3 < r[at("II")] < 1.2
    assert r[at("V1")] < r[at("V2")] < r[at("V3")] < r[at("V4")]  # R grows from V1 to V4
    assert s[at("V1")] < -0.4 and s[at("V2")] < -0.5 and s[at("V6")] > -0.35
    assert s[at("aVR")] < -0.3 and r[at("aVR")] < 0.3  # aVR is negative
    assert np.abs(cohort.signals[:].astype(int)).max() <= 32_000  # µV


def test_a_dipole_does_not_explain_everything():
    eight = simulated.recordings(range(100)).clean[:, [0, 1, 6, 7, 8, 9, 10, 11]] / 1000.0
    eight = eight - eight.mean(axis=2, keepdims=True)
    rest = (np.eye(8) - DOWER @ np.linalg.pinv(DOWER)) @ eight
    share = np.sqrt((rest**2).sum((1, 2)) / (eight**2).sum((1, 2)))
    assert 0.1 < np.median(share) < 0.5


def test_truth_fits_the_signal():
    many = simulated.recordings(range(12), fs=500, noise=0.0, seed=3)
    assert (many.signals == many.clean)[many.table["swapped_arms"] == 0].all()
    assert many.vector.shape == (len(many.table), 3, 5000)
    for i in range(len(many.table)):
        waves = many.beats(i)
        qrs = waves[waves["wave"] == "QRS"]
        assert (qrs["onset"] < qrs["peak"]).all() and (qrs["peak"] < qrs["offset"]).all()
        size = np.sqrt((many.vector[i] ** 2).sum(axis=0))
        inside = qrs[(qrs["onset"] > 0.05) & (qrs["offset"] < 9.9)]
        for _, beat in inside.iterrows():
            a, b = (round(500 * beat[c]) for c in ("onset", "offset"))
            peak = a + size[a:b].argmax()
            assert abs(peak / 500 - beat["peak"]) < 0.03
    one = simulated.example(heart_rate=60, fs=500)
    waves = one.beats(0)
    order = waves[waves["beat"] == 3].sort_values("peak")["wave"].tolist()
    assert order == ["P", "QRS", "T"]
    assert abs(np.diff(waves[waves["wave"] == "QRS"]["peak"]).mean() - 1) < 0.02


def test_export_is_a_wfdb_record_with_annotations(tmp_path):
    one = simulated.example("PVC", fs=250, seed=4, noise=1.0)
    (name,) = simulated.export(one, tmp_path)
    record = wfdb.rdrecord(str(tmp_path / name), physical=False)
    assert (record.d_signal.T == one.signals[0]).all() and record.fs == 250
    assert record.sig_name == list(LEADS)
    assert {"age: 60", "sex: male", "statements: PVC"} <= set(record.comments)
    beats = wfdb.rdann(str(tmp_path / name), "atr")
    assert "V" in beats.symbol and "N" in beats.symbol
    waves = wfdb.rdann(str(tmp_path / name), "waves")
    assert {"p", "N", "t", "(", ")"} <= set(waves.symbol)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_has_an_example(statement):
    one = simulated.example(statement, seconds=4, fs=100)
    assert np.isfinite(one.vector).all() and np.abs(one.signals).max() > 200
    assert one.labels[statement][0] == 1


def test_examples_look_as_they_should():
    def intervals(*statements, **options):
        waves = simulated.example(*statements, seed=1, seconds=20, **options).beats(0)
        return np.diff(waves[waves["wave"] == "QRS"]["peak"])

    assert intervals("AFIB").std() > 0.08 > 0.06 > intervals().std()
    assert intervals("AFIB").mean() > 0.3
    assert intervals("STACH").mean() < 0.6 and intervals("SBRAD").mean() > 1.0
    block = simulated.example("3AVB", seed=1, seconds=20).beats(0)
    assert (block["wave"] == "P").sum() > 1.3 * (block["wave"] == "QRS").sum()
    dropped = simulated.example("2AVB", seed=2, seconds=20).beats(0)
    assert (dropped["wave"] == "P").sum() > (dropped["wave"] == "QRS").sum()
    early = simulated.example("PVC", seed=1, seconds=20).beats(0)
    assert "V" in set(early["code"])
    assert simulated.example("CLBBB").table["qrs"][0] >= 120
    assert simulated.example("WPW").table["qrs"][0] > simulated.example().table["qrs"][0] + 8


def test_two_thousand_patients_take_seconds(tmp_path):
    start = time.perf_counter()
    cohort = simulated.open(n_patients=500, cache=tmp_path)
    assert len(cohort.table["patient_id"].unique()) == 500
    assert time.perf_counter() - start < 8  # well under a second on two idle cores


@pytest.mark.parametrize("shares, most", [((1,), 1), ((0, 0, 1), 3)])
def test_records_per_patient(shares, most):
    _, table, _ = simulated.simulate(range(20), records_per_patient=shares, seconds=2)
    assert (table.groupby("patient_id").size() == most).all()


@pytest.mark.parametrize("options", [dict(n_patients=1), dict(n_patients=3, seconds=2.5, fs=1000)])
def test_small_cohorts(options, tmp_path):
    cohort = simulated.open(cache=tmp_path, **options)
    assert np.abs(cohort.signals).max() > 100


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_patients=0), "n_patients: found 0, expected a whole number from 1"),
        (dict(n_patients=2.5), "n_patients: found 2.5, expected a whole number"),
        (dict(n_patients="many"), "n_patients: found 'many', expected a whole number"),
        (dict(seed=-1), "seed: found -1"),
        (dict(fs=49), "fs: found 49, expected a whole number from 50 to 1000"),
        (dict(fs=2000), "fs: found 2000"),
        (dict(seconds=float("nan")), "seconds: found nan"),
        (dict(n_patients=float("inf")), "n_patients: found inf"),
        (dict(label_noise=0.6), "label_noise: found 0.6, expected a number from 0 to 0.5"),
        (dict(label_noise=-0.1), "label_noise: found -0.1"),
        (dict(noise=-1), "noise: found -1"),
        (dict(records_per_patient=(0.9, -0.1)), "records_per_patient: found"),
        (dict(records_per_patient=(0, 0)), "none negative, not all zero"),
        (dict(records_per_patient=2), "expected shares of patients"),
        (dict(records_per_patient=("a",)), "expected shares of patients"),
        (dict(prevalence={"AFIB": -0.1}), "AFIB"),
        (dict(prevalence={"FLU": 0.1}), "FLU"),
        (dict(prevalence={"SR": 0.8, "AFIB": 0.5}), "AFIB"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as error:
        simulated.open(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "statements, options, message",
    [
        (["FLU"], {}, "FLU"),
        (["AFIB", "1AVB"], {}, "contradicts"),
        (["CLBBB", "CRBBB"], {}, "contradicts"),
        (["IMI"], {"severity": 2}, "severity of IMI: found 2"),
        (["SBRAD"], {"heart_rate": 90}, "heart_rate: found 90 with SBRAD, expected 25 to 60"),
        (["AFLT"], {"heart_rate": 90}, "its block sets it"),
        ([], {"heart_rate": 900}, "heart_rate: found 900"),
        ([], {"age": 5}, "age: found 5"),
        ([], {"sex": "other"}, "expected 'female' or 'male'"),
    ],
)
def test_impossible_examples_are_refused(statements, options, message):
    with pytest.raises(ValueError) as error:
        simulated.example(*statements, **options)
    assert message in str(error.value)
