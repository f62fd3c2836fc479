"""Tachycardias with a known origin: the bedside rules come out, and the truth fits the records."""

import time

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgtutorial.cohort import open_cohort
from ecgtutorial.datasets import simulated, simulated_vt
from ecgtutorial.heart import source
from ecgtutorial.heart.ventricles import SEGMENTS, ventricles
from ecgtutorial.leads import LEADS

LATERAL = ("basal anterolateral", "basal inferolateral", "mid anterolateral", "mid inferolateral",
           "apical lateral")  # fmt: skip
FREE = (*LATERAL, "basal anterior", "mid anterior")
SEPTAL = ("basal anteroseptal", "basal inferoseptal", "mid anteroseptal", "mid inferoseptal",
          "apical septal")  # fmt: skip
INFERIOR = ("basal inferior", "mid inferior", "apical inferior")
APICAL = ("apex", "apical anterior", "apical septal", "apical inferior", "apical lateral")
BASAL = tuple(name for name in SEGMENTS if name.startswith("basal"))
LEFT = SEGMENTS[:18]


@pytest.fixture(scope="module")
def cohort():
    return open_cohort("simulated-vt", n_patients=80, seed=5)


@pytest.fixture(scope="module")
def typical():
    """Every place of the surface of one typical heart."""
    many = simulated_vt.pace_map()
    return Beats(many.beats, many.table)


@pytest.fixture(scope="module")
def varied():
    """300 patients, each with another anatomy."""
    many = simulated_vt.recordings(
        range(300), seed=1, seconds=2, noise=0, records_per_patient=(1,), truth=True
    )
    return Beats(many.beat, many.table)


class Beats:
    """QRS complexes and what one reads from them."""

    def __init__(self, beats, table):
        self.table = table
        self.area = 2 * beats.sum(axis=2)  # mV ms (record, 12)
        larger = beats[:, 6:].max(axis=2) > -beats[:, 6:].min(axis=2)  # R than S
        self.transition = np.where(larger.any(axis=1), larger.argmax(axis=1) + 1, 7)
        eight = beats[:, [0, 1, 6, 7, 8, 9, 10, 11]]
        first = np.flatnonzero(simulated_vt.QRS_TIME >= 0)[0]
        self.peak = 2 * ((eight**2).mean(axis=1).argmax(axis=1) - first)  # ms

    def of(self, *regions):
        return self.table["region"].isin(regions).to_numpy()

    def positive(self, mask, *leads):
        """Share of positive QRS complexes, over records and leads."""
        return (self.area[mask][:, [LEADS.index(name) for name in leads]] > 0).mean()


# --- bedside rules --------------------------------------------------------------------------------


@pytest.fixture(params=["typical", "varied"])
def beats(request):
    return request.getfixturevalue(request.param)


def test_outflow_tracts_have_an_inferior_axis(beats):
    assert beats.positive(beats.of("LVOT", "RVOT"), "II", "III", "aVF") > 0.7
    assert beats.positive(beats.of("LVOT", "RVOT"), "aVF") > 0.7


def test_the_inferior_wall_has_a_superior_axis(beats):
    assert beats.positive(beats.of(*INFERIOR), "aVF") < 0.25  # 0.15 in 1,200 patients


def test_left_and_right_origins_look_like_the_opposite_bundle_branch_block(beats):
    assert beats.positive(beats.of(*LATERAL), "V1") > 0.9
    assert beats.positive(beats.of(*FREE), "V1") > 0.9
    assert beats.positive(beats.of("RV free wall", "RV apex"), "V1") < 0.05
    assert beats.positive(beats.of("RVOT"), "V1") < 0.25


def test_septal_beats_are_narrower(beats):
    qrs = beats.table["qrs"]
    assert qrs[beats.of(*SEPTAL)].median() < qrs[beats.of(*FREE)].median() - 6


def test_apex_is_negative_and_base_positive_in_chest_leads(beats):
    chest = ("V2", "V3", "V4", "V5", "V6")
    assert beats.positive(beats.of(*APICAL), "V4", "V5", "V6") < 0.25
    assert beats.positive(beats.of("apex"), "V3", "V4") < 0.1
    assert beats.positive(beats.of(*BASAL), *chest) > 0.65
    assert beats.positive(beats.of(*APICAL), *chest) < 0.3


def test_epicardial_beats_begin_slowly_and_are_wider(beats):
    inner = beats.of(*LEFT) & (beats.table["layer"] == "endocardium")
    outer = beats.of(*LEFT) & (beats.table["layer"] == "epicardium")
    assert beats.peak[outer].mean() > beats.peak[inner].mean() + 12  # ms
    assert beats.table["qrs"][outer].mean() > beats.table["qrs"][inner].mean() + 2


def test_the_right_outflow_tract_turns_positive_later_in_the_chest_leads(beats):
    right, left = (beats.transition[beats.of(name)] for name in ("RVOT", "LVOT"))
    assert right.mean() > left.mean() + 0.8
    assert (right >= 3).mean() > 0.55 > 0.25 > (left >= 3).mean()


def test_beats_are_wide(varied):
    qrs = varied.table["qrs"]
    assert 145 < qrs.median() < 170
    assert (qrs >= 110).mean() > 0.95 and (qrs <= 220).mean() > 0.97
    by = qrs.groupby(varied.table["cause"]).median()
    assert by["infarct"] > by["idiopathic"] + 5


# --- the heart -----------------------------------------------------------------------------------


def test_a_typical_heart_lies_as_in_the_textbook():
    def healthy(name):
        return np.zeros(1)

    turn = source.turn(healthy, np.full(1, 55.0), np.zeros((1, 72)), simulated_vt._TURN)[0]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)
    left, down, back = turn[:, 2]  # where the apex points
    assert left > 0.4 and down > 0.2 and back < -0.4


def test_regions_that_touch():
    touch = simulated_vt.neighbours()
    values = touch.to_numpy()
    assert list(touch.index) == list(touch.columns) == list(SEGMENTS)
    assert (values == values.T).all() and not values.diagonal().any() and values.any(axis=1).all()

    def of(name):
        return set(touch.columns[touch[name]])

    assert of("apex") == {"apical anterior", "apical septal", "apical inferior", "apical lateral"}
    assert {"basal anterior", "mid anteroseptal", "apical anterior"} <= of("mid anterior")
    assert not of("mid anterior") & {"mid inferior", "apical inferior", "RV free wall"}
    assert {"RV free wall", "LVOT"} <= of("RVOT")
    touch.iloc[0, 0] = True  # a copy: the next reader sees what this one saw
    assert not simulated_vt.neighbours().iloc[0, 0]


# --- the cohort -----------------------------------------------------------------------------------


def test_cohort_labels_and_truth(cohort):
    table = cohort.table
    assert cohort.signals.dtype == np.int16 and cohort.signals.shape == (len(table), 12, 1000)
    assert cohort.name == "simulated-vt" and table["record_id"].is_unique
    regions = cohort.targets("all")
    assert tuple(regions) == SEGMENTS and (regions.sum(axis=1) == 1).all()
    assert (regions.idxmax(axis=1) == table["region"]).all()
    assert (np.array(SEGMENTS)[table["region_number"]] == table["region"]).all()
    with pytest.raises(ValueError, match="use targets"):
        cohort.targets("superclass")
    tissue = ventricles()
    sites = table[["site_x", "site_y", "site_z"]].to_numpy()
    assert np.abs(sites - tissue.position[table["node"]]).max() <= 0.05001
    layer = tissue.layer[table["node"]]
    assert (np.where(layer == 0, "endocardium", "epicardium") == table["layer"]).all()
    assert (layer != 0.5).all()
    assert (table["outflow"] == table["region"].isin(["LVOT", "RVOT"])).all()
    assert ((table["scar"] > 0) == (table["cause"] == "infarct")).all()
    assert not tissue.right[table["node"][table["cause"] == "infarct"]].any()


def test_patients_have_one_fold_and_split(cohort):
    by = cohort.table.groupby("patient_id")
    for column in ("fold", "age", "sex", "cause"):
        assert (by[column].nunique() == 1).all()
    assert by.ngroups == 80 and set(cohort.table["fold"]) == set(range(1, 11))
    assert sum(map(len, cohort.split())) == len(cohort)
    origins = by["node"].nunique()
    several = by.size() > 1
    infarct = by["cause"].first() == "infarct"
    assert (origins[~infarct] == 1).all()  # one focus
    assert (origins[several & infarct] > 1).mean() > 0.8  # many ways out of a scar


def test_records_do_not_depend_on_what_is_made_with_them(cohort, monkeypatch, tmp_path):
    signals, table, _ = simulated_vt.simulate(range(80), seed=5)
    assert (signals == cohort.signals).all()
    monkeypatch.setattr(simulated, "CHUNK", 7 * 1000)
    small = simulated_vt.open(n_patients=30, seed=5, n_jobs=2, cache=tmp_path / "two")
    single = simulated_vt.open(n_patients=30, seed=5, n_jobs=1, cache=tmp_path / "one")
    assert small.fingerprint == single.fingerprint
    assert (small.signals == signals[: len(small)]).all()
    pd.testing.assert_frame_equal(
        small.table.drop(columns="fold").fillna({"lead_off": ""}), table[: len(small)],
        check_dtype=False,
    )  # fmt: skip
    alone = simulated_vt.simulate([29], seed=5)[0]
    assert (alone == signals[table["patient_id"] == 29]).all()
    assert (simulated_vt.recordings([29], seed=5).signals == alone).all()
    assert (simulated_vt.simulate([29], seed=4)[0][0] != alone[0]).mean() > 0.9
    other = simulated.simulate([29], seed=5)[1]  # another person in the other cohort
    assert (other[["age", "noise"]].iloc[0] != table[table["patient_id"] == 29].iloc[0]
            [["age", "noise"]]).any()  # fmt: skip


def test_a_second_opening_reads_the_store(cohort):
    start = time.perf_counter()
    assert open_cohort("simulated-vt", n_patients=80, seed=5).fingerprint == cohort.fingerprint
    assert time.perf_counter() - start < 0.5


def test_limb_leads_obey_einthoven_and_goldberger(cohort):
    one, two, three, avr, avl, avf = cohort.signals[:].astype(int)[:, :6].swapaxes(0, 1)
    assert (three == two - one).all()
    for found, expected in ((avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
        assert np.abs(found - expected).max() <= 0.5


def test_sampling_rate_and_length_change_no_origin():
    slow = simulated_vt.recordings(range(12), fs=100, noise=0)
    fast = simulated_vt.recordings(range(12), fs=500, seconds=4, noise=0)
    assert fast.signals.shape[2] == 2000 and (slow.signals == slow.clean).all()
    columns = ["region", "node", "cycle", "qrs", "scar", "age", "form", "atria"]
    pd.testing.assert_frame_equal(slow.table[columns], fast.table[columns])


def test_rhythm():
    many = simulated_vt.recordings(range(60), seed=2, noise=0, fs=50)
    kinds = many.table[["form", "atria"]].apply(tuple, axis=1)
    assert set(kinds) == {("VT", "dissociated"), ("VT", "retrograde"), ("PVC", "sinus")}
    assert many.table["cycle"].dropna().between(270, 500).all()
    for i, (form, atria) in enumerate(kinds):
        waves = many.beats(i)
        beats, p = (waves[waves["wave"] == name] for name in ("QRS", "P"))
        if form == "PVC":
            assert set(beats["code"]) == {"N", "V"} and np.isnan(many.table["cycle"][i])
            continue
        assert set(waves["wave"]) <= {"QRS", "P"} and set(beats["code"]) == {"V"}
        intervals = 1000 * np.diff(beats["onset"])
        assert np.abs(intervals - many.table["cycle"][i]).max() < 15
        assert (p["beat"] == -1).all()
        if atria == "retrograde":
            assert abs(len(p) - len(beats)) <= 2
        else:  # their own, slower time
            assert len(p) < len(beats)


def test_the_largest_part_of_a_tachycardia_repeats():
    many = simulated_vt.recordings(range(8), fs=500, seconds=6, noise=0)
    for i in np.flatnonzero(many.table["form"] == "VT"):
        lead = many.vector[i, 0]
        shift = round(many.table["cycle"][i] / 2)
        assert np.corrcoef(lead[:-shift], lead[shift:])[0, 1] > 0.9


def test_a_cohort_takes_seconds():
    start = time.perf_counter()
    simulated_vt.simulate(range(100))
    assert time.perf_counter() - start < 4  # about half a second on an idle core


def test_export_is_a_wfdb_record_with_annotations(tmp_path):
    many = simulated_vt.recordings(range(4), seed=3, fs=250, seconds=5, records_per_patient=(1,))
    names = simulated.export(many, tmp_path)
    for i, name in enumerate(names):
        record, row = wfdb.rdrecord(str(tmp_path / name), physical=False), many.table.iloc[i]
        assert (record.d_signal.T == many.signals[i]).all() and record.fs == 250
        assert {f"region: {row['region']}", f"form: {row['form']}"} <= set(record.comments)
        beats, truth = wfdb.rdann(str(tmp_path / name), "atr"), many.beats(i)
        truth = truth[truth["wave"] == "QRS"]
        inside = (250 * truth["peak"]).round().between(0, 1249)
        assert beats.symbol == truth["code"][inside].tolist()
        assert np.abs(beats.sample / 250 - truth["peak"][inside]).max() <= 0.002001


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_patients=0), "n_patients: found 0, expected a whole number from 1"),
        (dict(n_patients=2.5), "n_patients: found 2.5, expected a whole number"),
        (dict(seed=-1), "seed: found -1"),
        (dict(fs=49), "fs: found 49, expected a whole number from 50 to 1000"),
        (dict(seconds=1), "seconds: found 1"),
        (dict(noise=-1), "noise: found -1"),
        (dict(records_per_patient=(0, 0)), "none negative, not all zero"),
        (dict(data="folder"), "the simulated-vt cohort is made, not read: leave out data='folder'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError) as error:
        open_cohort("simulated-vt", **options)
    assert message in str(error.value)


@pytest.mark.parametrize("nodes", [[-1], [10**6], [], [[1]], [0.5]])
def test_pace_map_names_bad_nodes(nodes):
    with pytest.raises(ValueError, match="nodes: found"):
        simulated_vt.pace_map(nodes)


@pytest.mark.parametrize("patients", [[], [-1], [0.5], 3])
def test_recordings_name_bad_patients(patients):
    with pytest.raises(ValueError, match="patients: found"):
        simulated_vt.recordings(patients)


def test_an_unknown_cohort_names_the_known_ones():
    with pytest.raises(ValueError, match="'simulated-vt', 'simulated', 'ptb-xl' or 'wfdb-folder'"):
        open_cohort("simulated_vt")
