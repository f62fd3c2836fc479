import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn

from ecgtutorial.cohort import Cohort, write_store
from ecgtutorial.datasets.challenge import CLASSES_2020
from ecgtutorial.evaluate.label_efficiency import Entrant, _prepare
from ecgtutorial.evaluate.probe import linear_probe
from ecgtutorial.evaluate.subgroups import (
    CHANGED_BY,
    CLASSES_23,
    GROUPS,
    _compute,
    as_many,
    subgroups,
    summarise,
    targets,
)
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.leads import LEADS
from ecgtutorial.metrics import patient_weights
from ecgtutorial.runs import Table

CODES = {"AFIB": 7, "STACH": 3, "1AVB": 5, "LPR": 9, "IMI": 11}  # statement -> its tone in Hz
SCORED = ["AF", "IAVB", "NSR", "STach"]  # in the order of CLASSES_23
OPTIONS = {
    "seconds": 1.0, "progress": False, "budgets": (0.05, 1.0), "subsets": {0.05: 2, 1.0: 1},
    "fine_tuning": {"min_steps": 10, "epochs": 1, "batch_size": 16, "head_lr": 0.3, "mask": 0.0},
}  # fmt: skip
OVER = {"random": {"twin": "supervised"}}


class Spectrum(nn.Module):
    """Loudness at 1-12 Hz of the mean lead, each with a weight of its own."""

    width = 12

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(12, generator=generator))

    def forward(self, signals):
        return self.weight * torch.fft.rfft(signals.mean(dim=1))[:, 1:13].abs() / 20


@pytest.fixture(scope="module")
def cohort():
    """240 records of 230 patients, in which each statement is a tone."""
    rng = np.random.default_rng(0)
    person, time = np.minimum(np.arange(240), 229), np.arange(200) / 100
    labels = pd.DataFrame({name: rng.random(240) < 0.3 for name in CODES}).astype(np.uint8)
    signals = rng.normal(0, 600, (240, 12, 200))
    for name, hertz in CODES.items():
        wave = np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6, (240, 1)))
        signals += 60 * (labels[name].to_numpy()[:, None] * wave)[:, None]
    table = pd.DataFrame(
        {"record_id": np.arange(240), "patient_id": person, "fold": person % 10 + 1, "axis": 0.0}
    )
    labels["SR"] = 1 - labels["AFIB"]
    labels["AFLT"] = (np.arange(240) == 9).astype(np.uint8)  # one record, in the test fold
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


def entrants(names=("supervised", "twin", "other")):
    """Two names of one encoder, and another; two seeds of each."""
    return [
        Entrant(name, seed, f"{name}{seed}", partial(Spectrum, seed + 5 * (name == "other")))
        for name in names
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def table(cohort, tmp_path_factory):
    """A whole grid."""
    table = Table(tmp_path_factory.mktemp("subgroups") / "subgroups.csv")
    subgroups(entrants(), cohort, table, over=OVER, **OPTIONS)
    return table


def cells_of(frame):
    return frame[frame["seed"] != "all"]


# --- classes, groups and what a view changes ----------------------------------------------------


def test_23_classes_each_in_one_group():
    assert len(CLASSES_23) == 23 and set(CLASSES_2020) - set(CLASSES_23) == {"LPR"}
    grouped = [name for members in GROUPS.values() for name in members]
    assert sorted(grouped) == sorted(CLASSES_23)


def test_a_long_pr_interval_is_a_first_degree_block(cohort):
    found, apart = targets(cohort), cohort.targets("challenge-2020")
    assert tuple(found) == CLASSES_23
    either = cohort.labels["1AVB"] | cohort.labels["LPR"]
    assert found["IAVB"].tolist() == either.tolist() and set(found.dtypes) == {np.dtype("uint8")}
    assert either.sum() > apart["IAVB"].sum()
    rest = [name for name in CLASSES_23 if name != "IAVB"]
    pd.testing.assert_frame_equal(found[rest], apart[rest])


def test_every_marked_class_has_its_reason():
    assert set(CHANGED_BY) == {"rotation", "scaling"}
    for reasons in CHANGED_BY.values():
        assert set(reasons) <= set(CLASSES_23) - set(GROUPS["rhythm"])
        assert all(20 < len(reason) < 100 for reason in reasons.values())
    assert {"LAD", "RAD", "LAnFB"} <= set(CHANGED_BY["rotation"])
    assert {"LAD", "LQRSV"} <= set(CHANGED_BY["scaling"])


@pytest.mark.parametrize("name, before, after", [("LAD", -20, -39), ("RAD", 75, 83)])
def test_unlike_factors_turn_the_axis_as_said(name, before, after):
    x, y = np.cos(np.deg2rad(before)) / 1.5, np.sin(np.deg2rad(before)) * 1.5
    turned = np.rad2deg(np.arctan2(y, x))
    assert round(turned) == after
    assert f"from {before} to {after} degrees" in CHANGED_BY["scaling"][name]


# --- predictions --------------------------------------------------------------------------------


def test_as_many_are_predicted_as_the_share_says():
    scores = np.random.default_rng(0).normal(size=(40, 5))
    found = as_many(scores, [0, 0.25, 0.5, 1, 0.01])
    assert found.sum(axis=0).tolist() == [0, 10, 20, 40, 0]
    for i in range(5):
        taken = found[:, i] == 1
        if taken.any() and not taken.all():
            assert scores[taken, i].min() > scores[~taken, i].max()
    np.testing.assert_array_equal(found, as_many(np.exp(3 * scores), [0, 0.25, 0.5, 1, 0.01]))


def test_of_records_level_at_the_limit_none_is_taken():
    assert as_many(np.zeros((8, 1)), [0.5]).sum() == 0
    assert as_many(np.array([[3.0], [2], [2], [1]]), [0.5])[:, 0].tolist() == [1, 0, 0, 0]
    assert as_many(np.array([[3.0], [2], [2], [1]]), [0.75])[:, 0].tolist() == [1, 1, 1, 0]


# --- the grid -----------------------------------------------------------------------------------


def test_every_cell_has_every_metric(table):
    cells = cells_of(table.read())
    assert cells["config"].nunique() == 3 * 2 * 2 * 3  # methods, seeds, protocols, subsets
    assert set(cells["task"]) == {"challenge-23"}
    each = ["conduction", "rhythm", *SCORED]  # no class of the other groups is scored
    for _, cell in cells.groupby("config"):
        assert cell["metric"].tolist() == ["macro_auc", "macro_f1"] + 6 * ["auc"]
        assert cell["statement"].fillna("").tolist() == ["", "", *each]
        auc = cell[cell["metric"] == "auc"].set_index("statement")["value"]
        assert auc["conduction"] == auc["IAVB"]
        assert auc["rhythm"] == pytest.approx(auc[["AF", "NSR", "STach"]].mean(), abs=1e-5)
        assert cell["value"].iloc[0] == pytest.approx(auc[SCORED].mean(), abs=1e-5)
        assert (cell["low"] <= cell["value"] + 0.02).all()
        assert (cell["value"] <= cell["high"] + 0.02).all()


def test_a_probe_is_what_scikit_learn_says_of_it(table, cohort):
    train, _, test = cohort.split()
    known, asked = (embed(Spectrum(0).eval(), part, 1.0) for part in (train, test))
    labels, target = (targets(part)[SCORED].to_numpy() for part in (train, test))
    scores = linear_probe(known, labels, train.table["patient_id"], asked, seed=0)
    cells = cells_of(table.read())
    mine = cells[(cells["method"] == "supervised") & (cells["seed"] == "0")]
    mine = mine[(mine["protocol"] == "probe") & (mine["budget"] == 1)]
    value = mine.assign(key=mine["statement"].fillna(mine["metric"])).set_index("key")["value"]
    for i, name in enumerate(SCORED):
        assert value[name] == pytest.approx(roc_auc_score(target[:, i], scores[:, i]), abs=1e-5)
    predicted = np.zeros_like(target)
    for i, share in enumerate(labels.mean(axis=0)):
        predicted[np.argsort(-scores[:, i])[: round(share * len(test))], i] = 1
    expected = f1_score(target, predicted, average="macro", zero_division=0)
    assert value["macro_f1"] == pytest.approx(expected, abs=1e-5)
    assert value["macro_auc"] > 0.8


def test_samples_are_those_of_repeated_records(table, cohort):
    test = cohort.split()[2]
    counts = patient_weights(test.table["patient_id"]).astype(int)
    samples = table.samples()
    name = cells_of(table.read())["config"].iloc[0]
    keys = {"macro_auc", "macro_f1"} | {f"auc:{s}" for s in ["conduction", "rhythm", *SCORED]}
    assert {key.partition(":")[2] for key in samples if key.startswith(name)} == keys
    assert len(counts) == len(samples[f"{name}:macro_auc"]) == 1000
    each = np.stack([samples[f"{name}:auc:{s}"] for s in SCORED])
    np.testing.assert_allclose(
        samples[f"{name}:macro_auc"], np.nanmean(each, axis=0), atol=1 / 1024
    )


def test_a_class_without_labelled_positives_is_not_told(cohort, tmp_path):
    none = cohort.labels.copy()
    none.loc[cohort.table["fold"] <= 7, "STACH"] = 0  # positives are left in one training fold
    few = Cohort(cohort.signals, cohort.table, none, 100, "tones")
    options = OPTIONS | {"budgets": (0.02,), "subsets": {0.02: 3}}
    frame = subgroups(entrants()[:1], few, tmp_path / "few.csv", **options)
    cells = cells_of(frame)
    train = few.split()[0]
    missing = [s for s in range(3) if not targets(train.budget(0.02, s))["STach"].any()]
    assert missing, "the case is not met"
    blind = cells[(cells["statement"] == "STach") & cells["subset"].isin(missing)]
    assert len(blind) == 2 * len(missing)
    assert (blind[["value", "low", "high"]] == 0.5).all(axis=None)


def test_the_summary_says_gains_by_class_and_group(table):
    frame = table.read()
    means = frame[frame["seed"] == "all"].assign(statement=lambda f: f["statement"].fillna(""))
    metrics = {f"{m}{e}" for m in ("macro_auc", "macro_f1", "auc") for e in ("", "_gain")}
    assert set(means["metric"]) == metrics | {
        f"{m}_over_random" for m in ("macro_auc", "auc", "macro_f1")
    }
    at = means.set_index(["method", "protocol", "budget", "metric", "statement"])
    assert at.index.is_unique
    cells = cells_of(frame)
    mine = cells[(cells["method"] == "other") & (cells["protocol"] == "probe")]
    mine = mine[(mine["budget"] == 0.05) & (mine["statement"] == "AF")]
    row = at.loc["other", "probe", 0.05, "auc", "AF"]
    assert row["value"] == pytest.approx(mine["value"].mean(), abs=1e-5)
    assert row["low"] < row["value"] < row["high"] and len(mine) == 4
    over = means[means["metric"].str.endswith("over_random")]
    assert (over["method"] == "twin").all() and len(over) == 2 * 2 * 8
    assert (over[["value", "low", "high"]] == 0).all(axis=None), "the twin is the same encoder"
    gains = means[means["metric"] == "auc_gain"]
    assert set(gains["statement"]) == {"conduction", "rhythm", *SCORED}
    own = gains[(gains["method"] == "twin") & (gains["protocol"] == "fine-tuned")]
    assert (own["value"] == 0).all() and set(gains["method"]) == {"twin", "other"}


def test_finished_cells_are_not_computed_again(table, cohort):
    def never():
        raise AssertionError("an encoder was made")

    before = table.read()
    again = [Entrant(e.method, e.seed, e.identity, never) for e in entrants()]
    after = subgroups(again, cohort, table, over=OVER, **OPTIONS)
    pd.testing.assert_frame_equal(before, after)


def test_a_worker_that_opens_the_store_itself_has_the_same_classes(cohort, tmp_path):
    store = write_store(
        tmp_path / "tones", cohort.signals, cohort.table, cohort.labels, 100, LEADS, "tones", "test"
    )
    frame = subgroups(entrants()[:1], store, tmp_path / "t.csv", **OPTIONS)
    train, test, _, settings = _prepare(store, "challenge-2020", "test", 1.0, 0.0, {})
    sent = pickle.loads(pickle.dumps((train, test)))  # a folder's name, not the 23 classes
    cell = entrants()[0], "probe", 0.05, 1, *sent, SCORED, settings | {"task": "all"}
    rows, _, samples = next(_compute(*cell, ["a"]))
    cells = cells_of(frame)
    here = cells[(cells["protocol"] == "probe") & (cells["budget"] == 0.05)]
    here = here[here["subset"] == 1]["value"].tolist()
    assert here == pytest.approx([row["value"] for row in rows], abs=1e-5)
    assert len(samples) == len(rows) == 8


def test_bad_input_is_named(cohort, tmp_path, table):
    with pytest.raises(ValueError, match=r"subsets has no number for the budgets \[0.3\]"):
        subgroups([], cohort, tmp_path / "t.csv", seconds=1.0, budgets=(0.3,))
    with pytest.raises(ValueError, match="part is 'train'"):
        subgroups([], cohort, tmp_path / "t.csv", seconds=1.0, part="train")
    assert summarise(table, names=[]) == []
