import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import gammaln, iv
from scipy.stats import spearmanr
from torch import nn

from ecgtutorial.cohort import Cohort
from ecgtutorial.evaluate.health import MEASURES, fill_health, health, predicts, summarise
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.metrics import interval, patient_weights
from ecgtutorial.pretrain import health as batch_health
from ecgtutorial.runs import Table


class Level(nn.Module):
    """Mean of every lead: what a record's levels are is its embedding."""

    width = 12

    def __init__(self, tilt=0.0):
        super().__init__()
        self.tilt = tilt

    def forward(self, signals):
        return signals.mean(dim=2) + self.tilt  # (batch, 12)


def embedded(first, last=None, patients=None):
    """Records of 2 s whose first and last second have these embeddings (record, 12), in mV."""
    last = first if last is None else last
    n = len(first)
    signals = np.repeat(np.stack([first, last], axis=2) * 1000, 100, axis=2)
    patients = np.arange(n) if patients is None else np.asarray(patients)
    table = pd.DataFrame({"record_id": np.arange(n), "patient_id": patients})
    table["fold"] = table["patient_id"] % 10 + 1
    return Cohort(signals.round().astype(np.int16), table, None, 100, "levels")


@pytest.fixture(scope="module")
def varied():
    """60 records of 45 patients, the two windows alike but not the same."""
    rng = np.random.default_rng(0)
    first = rng.normal(0.5, 1, (60, 12))
    return embedded(first, first + rng.normal(0, 0.5, (60, 12)), np.arange(60) % 45)


# --- the measures -----------------------------------------------------------------------------


def test_a_collapsed_encoder():
    found = health(Level(), embedded(np.ones((20, 12))), 1.0)
    assert tuple(found) == MEASURES
    assert found["deviation"] == pytest.approx(0, abs=1e-3)
    assert found["alignment"] == 0 and found["uniformity"] == pytest.approx(0, abs=1e-5)


def test_orthonormal_embeddings():
    found = health(Level(), embedded(np.eye(12)), 1.0)
    expected = {"deviation": np.sqrt(1 - 1 / 12), "rank": 11, "alignment": 0, "uniformity": -4}
    assert found == pytest.approx(expected, abs=1e-4)


def test_opposite_windows_are_as_far_apart_as_can_be():
    found = health(Level(), embedded(np.eye(12)[:2], -np.eye(12)[:2]), 1.0)
    assert found["alignment"] == pytest.approx(4)
    assert found["uniformity"] == pytest.approx(-4)  # all pairs of patients are at right angles


def test_uniform_on_the_sphere():
    points = np.random.default_rng(0).normal(size=(1500, 12))
    found = health(Level(), embedded(points / np.linalg.norm(points, axis=1, keepdims=True)), 1.0)
    # E exp(-2 |x - y|^2) of two uniform points, by the Bessel function of order d/2 - 1
    order = 12 / 2 - 1
    exact = -4 + gammaln(order + 1) - order * np.log(4 / 2) + np.log(iv(order, 4))
    assert found["uniformity"] == pytest.approx(exact, abs=5e-3)
    assert found["deviation"] == pytest.approx(1, abs=1e-2)
    assert found["rank"] == pytest.approx(12, abs=0.1)


def slow(cohort, rows):
    """The measures of the records `rows`, pair by pair."""
    signals = cohort.signals[rows].astype(float) / 1000
    patients = cohort.table["patient_id"].to_numpy()[rows]
    whole, *ends = (
        signals[..., s].mean(axis=2) for s in (slice(None), slice(100), slice(100, 200))
    )
    whole, first, last = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (whole, *ends))
    potentials = [
        np.exp(-2 * np.sum((a - b) ** 2))
        for x in (first, last) for a, p in zip(x, patients)
        for y in (first, last) for b, q in zip(y, patients) if p != q
    ]  # fmt: skip
    return {
        "deviation": np.sqrt(whole.var(axis=0).sum()),
        "alignment": np.mean([np.sum((a - b) ** 2) for a, b in zip(first, last)]),
        "uniformity": np.log(np.mean(potentials)),
    }


def test_the_measures_are_those_of_a_slow_loop(varied):
    found = health(Level(), varied, 1.0)
    batch = batch_health(Level(), torch.from_numpy(varied.millivolts(slice(None))))
    assert found["rank"] == pytest.approx(batch["rank"], rel=1e-4)
    assert found["deviation"] == pytest.approx(batch["deviation"], rel=1e-4)
    expected = slow(varied, np.arange(len(varied)))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_windows_overlap_in_records_but_never_in_pairs(varied):
    plain, overlapping = health(Level(), varied, 0.6), health(Level(), varied, 0.6, overlap=0.5)
    assert plain["deviation"] != overlapping["deviation"]
    assert plain["alignment"] == overlapping["alignment"] > 0


def test_records_and_patients_it_cannot_do_with(varied):
    with pytest.raises(ValueError, match="2 records of one patient: expected at least two"):
        health(Level(), embedded(np.eye(12)[:2], patients=[3, 3]), 1.0)
    with pytest.raises(ValueError, match="1 records of one patient"):
        health(Level(), embedded(np.eye(12)[:1]), 1.0)
    with pytest.raises(ValueError, match=r"seconds is 1.5: two windows .* last 2 s; take at most"):
        health(Level(), varied, 1.5)


# --- the table --------------------------------------------------------------------------------


def entrants(made=None):
    def make(tilt):
        if made is not None:
            made.append(tilt)
        return Level(tilt)

    return [
        Entrant(name, seed, f"{name}{seed}", lambda t=tilt + 0.1 * seed: make(t))
        for name, tilt in (("plain", 0.0), ("tilted", 1.0))
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def wide():
    """300 records of 250 patients, 30 of them in the test fold."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 12))
    return embedded(first, first + rng.normal(0, 0.3, (300, 12)), np.arange(300) % 250)


@pytest.fixture(scope="module")
def table(wide, tmp_path_factory):
    table = Table(tmp_path_factory.mktemp("health") / "health.csv")
    fill_health(entrants(), wide, table, seconds=1.0, progress=False)
    return table


def test_a_cell_an_entrant(wide, table):
    frame, test = table.read(), wide.split()[2]
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 4 * 4 and cells["config"].nunique() == 4
    assert (cells["n_records"] == 30).all() and (cells["n_patients"] == 25).all()
    assert (cells["task"] == "health").all() and (cells["budget"] == 0).all()
    one = cells[(cells["method"] == "tilted") & (cells["seed"] == "1")].set_index("metric")
    expected = health(Level(1.1), test, 1.0)
    assert one["value"].to_dict() == pytest.approx(expected, rel=1e-4)
    weights = patient_weights(test.table["patient_id"])
    resampled = slow_tilted(test, np.repeat(np.arange(len(test)), weights[5].astype(int)), 1.1)
    for metric, value in resampled.items():
        sample = table.samples()[f"{one['config'].iloc[0]}:{metric}"]
        assert sample.shape == (1000,) and sample[5] == pytest.approx(value, rel=1e-4)
        assert [one.loc[metric, "low"], one.loc[metric, "high"]] == pytest.approx(
            interval(sample), rel=1e-4
        )
    assert one.loc["rank", ["low", "high"]].isna().all()


def slow_tilted(cohort, rows, tilt):
    signals = (cohort.signals + np.int16(1000 * tilt)).astype(np.int16)
    return slow(Cohort(signals, cohort.table, None, 100, "tilted"), rows)


def test_the_summary_is_the_mean_over_seeds(table):
    frame, samples = table.read(), table.samples()
    rows = frame[frame["seed"] == "all"].set_index(["method", "metric"])
    cells = frame[frame["seed"] != "all"].set_index(["method", "metric", "seed"]).sort_index()
    assert len(rows) == 2 * 4
    weights = np.random.default_rng(1).multinomial(2, [0.5, 0.5], 1000).T / 2  # (seed, resample)
    for (method, metric), row in rows.iterrows():
        both = cells.loc[method, metric]
        assert row["value"] == pytest.approx(both["value"].mean(), rel=1e-4)
        if metric == "rank":
            assert np.isnan(row["low"]) and np.isnan(row["high"])
            continue
        drawn = sum(w * samples[f"{c}:{metric}"] for w, c in zip(weights, both["config"]))
        assert [row["low"], row["high"]] == pytest.approx(interval(drawn), rel=1e-4)
    before = table.read()
    table.replace_summary(summarise(table))
    pd.testing.assert_frame_equal(before, table.read())


def test_cells_that_stand_there_are_not_made_again(wide, table, tmp_path):
    made = []
    path = tmp_path / "t.csv"
    first = fill_health(entrants(made)[:1], wide, path, seconds=1.0, progress=False)
    again = fill_health(entrants(made), wide, path, seconds=1.0, progress=False)
    assert len(made) == 4 and len(first) == 8
    pd.testing.assert_frame_equal(again, table.read())
    fill_health(iter(entrants(made)), wide, path, seconds=1.0, progress=False)
    assert len(made) == 4


def test_the_other_fold_and_one_that_does_not_exist(wide, tmp_path):
    options = {"seconds": 1.0, "progress": False}
    found = fill_health(entrants()[:1], wide, tmp_path / "t.csv", part="validation", **options)
    expected = health(Level(), wide.split()[1], 1.0)
    assert found.set_index(["seed", "metric"]).loc["0", "value"].to_dict() == pytest.approx(
        expected, rel=1e-4
    )
    with pytest.raises(ValueError, match="part is 'train'"):
        fill_health([], wide, tmp_path / "t.csv", part="train", **options)


# --- does it predict the probe? ---------------------------------------------------------------


def invented(n_methods=6):
    """Health and probe of several methods and two seeds: alignment foretells, rank misleads."""
    rng = np.random.default_rng(0)
    looks, probes = [], []
    for k in range(n_methods):
        for seed in ("0", "1"):
            values = {"deviation": rng.random(), "rank": 10 - k, "alignment": k, "uniformity": -1}
            values["alignment"] += 3 * (seed == "1")  # as much for each
            about = {"method": f"m{k}", "seed": seed}
            looks += [about | {"metric": m, "value": v} for m, v in values.items()]
            for protocol, budget in (("probe", 0.1), ("probe", 1.0), ("fine-tuned", 1.0)):
                score = k**2 if (protocol, budget) == ("probe", 1.0) else rng.random()
                row = {"protocol": protocol, "budget": budget, "metric": "macro_auc"}
                probes.append(about | row | {"value": score})
    probes.append({"method": "m0", "seed": "all", "protocol": "probe", "budget": 1.0,
                   "metric": "macro_auc", "value": 99.0})  # fmt: skip
    return pd.DataFrame(looks), pd.DataFrame(probes)


def test_measures_against_the_probe():
    looks, probes = invented()
    found = predicts(looks, probes, "macro_auc", 1.0).set_index("measure")
    assert list(found.index) == list(MEASURES) and (found["n"] == 6).all()
    assert found.loc["alignment", "spearman"] == pytest.approx(1)
    assert found.loc["rank", ["spearman", "low", "high"]].to_list() == pytest.approx([-1] * 3)
    deviation = looks[looks["metric"] == "deviation"].groupby("method")["value"].mean()
    row = found.loc["deviation"]
    assert row["spearman"] == pytest.approx(spearmanr(deviation, np.arange(6)).statistic)
    draws = np.random.default_rng(0).integers(6, size=(1000, 6))
    drawn = [
        spearmanr(deviation.to_numpy()[d], d).statistic for d in draws if len(set(d)) > 1
    ]  # fmt: skip
    assert [row["low"], row["high"]] == pytest.approx(interval(drawn), abs=1e-6)
    assert row["high"] - row["low"] > 0.8  # six methods say little


@pytest.mark.filterwarnings("error")
def test_a_measure_that_is_the_same_for_all_foretells_nothing():
    found = predicts(*invented(), "macro_auc", 1.0).set_index("measure")
    assert found.loc["uniformity", ["spearman", "low", "high"]].isna().all()


def test_only_methods_and_seeds_that_both_tables_have():
    looks, probes = invented(5)
    less = probes[(probes["method"] != "m4") & ~((probes["method"] == "m3") & (probes.seed == "0"))]
    found = predicts(looks, less, "macro_auc", 1.0)
    assert (found["n"] == 4).all()
    with pytest.raises(ValueError, match=r"2 methods \['m0', 'm1'\] .* macro_auc at budget 1"):
        predicts(looks, probes[probes["method"].isin(["m0", "m1"])], "macro_auc", 1.0)
    with pytest.raises(ValueError, match=r"0 methods \[\] .* f1 at budget 0.1"):
        predicts(looks, probes, "f1", 0.1)
