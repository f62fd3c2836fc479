import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional as F

from ecgtutorial.cohort import Cohort, open_cohort
from ecgtutorial.datasets.simulated_vt import neighbours
from ecgtutorial.evaluate import localisation as experiment
from ecgtutorial.evaluate.finetune import fine_tune
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.evaluate.localisation import (
    SITES,
    by_chance,
    fine_tune_origin,
    fit_origin_probe,
    localisation,
    locate,
    origin_scores,
    origins,
    weighted_quantile,
)
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.metrics import interval, patient_weights
from ecgtutorial.runs import COLUMNS, Table

METRICS = ["region_accuracy", "adjacent_accuracy", "distance_median", "distance_p90"]
CENTRES = {"RVOT": (-30, 40, -30), "LVOT": (-10, 20, -20), "apex": (0, 0, 65),
           "basal inferior": (0, -28, -5)}  # fmt: skip
OPTIONS = {
    "seconds": 0.5, "progress": False, "patients": (8, None), "subsets": {8: 2},
    "fine_tuning": {"min_steps": 60, "epochs": 1, "batch_size": 32, "head_lr": 0.05, "mask": 0.0},
}  # fmt: skip


class Means(nn.Module):
    """The mean of each lead times a weight; with `blind` leads its own noise instead."""

    width = 12

    def __init__(self, blind=0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(12))
        self.seen = nn.Parameter((torch.arange(12) >= blind).float(), requires_grad=False)

    def forward(self, signals):
        return 10 * self.weight * self.seen * signals.mean(dim=2)


@pytest.fixture(scope="module")
def cohort():
    """Where a beat begins stands in the first three leads, 1 µV a mm, under noise."""
    rng = np.random.default_rng(0)
    n = 120
    person = np.minimum(np.arange(n), n - 20)  # one has 20 records
    region = np.array(list(CENTRES))[rng.integers(4, size=n)]
    site = np.array([CENTRES[name] for name in region]) + rng.normal(0, 3, (n, 3))
    signals = rng.normal(0, 8, (n, 12, 100))
    signals[:, :3] += 4 * site[:, :, None]
    table = pd.DataFrame({"record_id": [f"r{i}" for i in range(n)], "patient_id": person,
                          "fold": person % 10 + 1, "region": region})  # fmt: skip
    table[list(SITES)] = site
    labels = pd.get_dummies(table["region"], dtype=np.uint8)
    return Cohort(signals.round().astype(np.int16), table, labels, 100, "planted")


def entrants(names=("random", "twin", "blind"), make=Means):
    return [
        Entrant(name, seed, f"{name}{seed}", lambda name=name: make(3 * (name == "blind")))
        for name in names
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def table(cohort, tmp_path_factory):
    """A whole grid."""
    table = Table(tmp_path_factory.mktemp("origin") / "localisation.csv")
    localisation(entrants(), cohort, table, over={"random": {"blind": "random"}}, **OPTIONS)
    return table


def cells_of(frame):
    return frame[frame["seed"] != "all"]


# --- metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 31])
def test_weighted_quantiles_are_those_of_repeated_values(q, n):
    rng = np.random.default_rng(n)
    values = rng.integers(0, 12, n) + 0.5 * (rng.random(n) < 0.5)  # with ties
    weights = rng.integers(0, 4, (50, n)).astype(np.float32)
    weights[:, 0] += 1  # no resample is empty
    slow = [np.quantile(np.repeat(values, w.astype(int)), q) for w in weights]
    np.testing.assert_allclose(weighted_quantile(values, weights, q), slow, atol=1e-12)


def drawn(n, seed=0):
    """Regions and sites, true and answered, of `n` records."""
    rng = np.random.default_rng(seed)
    names = np.array(list(neighbours()))
    truth, answer = ((names[rng.integers(22, size=n)], rng.normal(0, 30, (n, 3))) for _ in "ab")
    answer[0][: n // 3] = truth[0][: n // 3]
    return truth, answer


def test_scores_are_those_of_a_slow_loop():
    truth, answer = drawn(60)
    weights = patient_weights(np.arange(60) // 2, 40, seed=3)
    found, touch = origin_scores(truth, answer, weights), neighbours()
    assert list(found) == METRICS
    for k, counts in enumerate(weights.astype(int)):
        right, near, mm = [], [], []
        for i, count in enumerate(counts):
            for _ in range(count):
                a, b = truth[0][i], answer[0][i]
                right.append(a == b)
                near.append(a == b or touch.loc[a, b])
                mm.append(sum((truth[1][i][c] - answer[1][i][c]) ** 2 for c in range(3)) ** 0.5)
        slow = np.mean(right), np.mean(near), np.median(mm), np.quantile(mm, 0.9)
        np.testing.assert_allclose([found[m][k] for m in METRICS], slow, rtol=1e-6)


def test_perfect_answers_and_missing_parts():
    truth, answer = drawn(30)
    one = np.ones((1, 30))
    assert [v[0] for v in origin_scores(truth, truth, one).values()] == [1, 1, 0, 0]
    regions = (truth[0], None), (answer[0], None)
    assert list(origin_scores(*regions, one)) == METRICS[:2]
    assert list(origin_scores(*regions, one, adjacent=False)) == METRICS[:1]


def test_chance_is_that_of_a_slow_loop(cohort):
    train, _, test = cohort.split()
    found, touch = by_chance(train, test), neighbours()
    (regions, sites), (known, places) = origins(test), origins(train)
    pairs = [(i, j) for i in range(len(test)) for j in range(len(train))]
    mm = [np.linalg.norm(sites[i] - places[j]) for i, j in pairs]
    slow = [np.mean([regions[i] == known[j] for i, j in pairs]),
            np.mean([regions[i] == known[j] or touch.loc[regions[i], known[j]] for i, j in pairs]),
            np.median(mm), np.quantile(mm, 0.9)]  # fmt: skip
    np.testing.assert_allclose(found.loc["drawn", METRICS].astype(float), slow)
    common = pd.Series(known).value_counts().index[0]
    mm = np.linalg.norm(sites - places.mean(axis=0), axis=1)
    assert found.loc["most common", "region_accuracy"] == np.mean(regions == common)
    assert found.loc["most common", "distance_median"] == pytest.approx(np.median(mm))


# --- models -----------------------------------------------------------------------------------


def test_the_ridge_is_the_minimum():
    rng = np.random.default_rng(0)
    for n, width in ((50, 8), (6, 20)):
        features, sites = rng.normal(1, 2, (n, width)), rng.normal(20, 30, (n, 3))
        weights, bias = experiment._solve(features, sites, [1e-3, 0.5])
        for k, penalty in enumerate((1e-3, 0.5)):
            model = Ridge(alpha=n * penalty).fit(features, sites)
            np.testing.assert_allclose(weights[k], model.coef_.T, atol=1e-6)
            np.testing.assert_allclose(bias[k], model.intercept_, atol=1e-5)


def test_the_softmax_regression_is_at_its_minimum():
    rng = np.random.default_rng(1)
    features, regions = rng.normal(0, 1, (60, 4)), np.array(list("abc"))[rng.integers(3, size=60)]
    model = experiment._logistic(features, regions, 0.1)
    error = model.predict_proba(features) - (regions[:, None] == model.classes_)
    slope = error.T @ features / 60 + 0.1 * model.coef_  # of mean cross-entropy and penalty
    assert np.abs(slope).max() < 1e-3 and np.abs(error.mean(axis=0)).max() < 1e-3


def scored(answer, cohort):
    likely, sites = answer
    np.testing.assert_allclose(likely.sum(axis=1), 1, atol=1e-5)
    answer = likely.idxmax(axis=1).to_numpy(str), sites
    found = origin_scores(origins(cohort), answer, np.ones((1, len(cohort))))
    return {metric: float(v[0]) for metric, v in found.items()}


@pytest.mark.parametrize("protocol", ["probe", "fine-tuned"])
def test_planted_origins_are_found(cohort, protocol):
    train, _, test = cohort.split()
    tuning = OPTIONS["fine_tuning"] | {"min_steps": 300}
    answer = locate(Means(), train, test, protocol, seconds=0.5, fine_tuning=tuning)
    likely, sites = answer
    assert list(likely) == ["basal inferior", "apex", "LVOT", "RVOT"]  # as in SEGMENTS
    assert likely.shape == (len(test), 4) and sites.shape == (len(test), 3)
    found = scored(answer, test)
    assert found["region_accuracy"] == 1
    assert found["distance_median"] < (0.5 if protocol == "probe" else 6)


def test_few_labels_and_one_region(cohort):
    train, _, test = cohort.split()
    for rows in ([0, 1], np.flatnonzero(train.table["region"] == "RVOT")[:5]):
        few = train.select(rows)
        likely, sites = locate(Means(), few, test, "probe", seconds=0.5)
        assert set(likely) == set(few.table["region"]) and np.isfinite(sites).all()
        np.testing.assert_allclose(likely.sum(axis=1), 1)
    assert (likely["RVOT"] == 1).all()


def test_penalties_come_from_labelled_patients_only(cohort):
    train, _, test = cohort.split()
    features = embed(Means(), train, 0.5)
    find = fit_origin_probe(features, train, seed=3)
    whole, alone = (find(embed(Means(), part, 0.5)) for part in (test, test.select([2])))
    np.testing.assert_allclose(whole[0].to_numpy()[2], alone[0].to_numpy()[0], atol=1e-6)
    np.testing.assert_allclose(whole[1][2], alone[1][0], atol=1e-3)
    folds = experiment._splits(train.table["patient_id"], 0)
    for kept in folds:
        patients = train.table["patient_id"]
        assert not set(patients[kept]) & set(patients[~kept])
    assert (np.sum([~kept for kept in folds], axis=0) == 1).all()
    with pytest.raises(ValueError, match="3 feature rows for"):
        fit_origin_probe(features[:3], train)


def test_answers_are_means_over_windows(cohort):
    train, _, test = cohort.split()
    tuning = OPTIONS["fine_tuning"]
    find = fine_tune_origin(Means(), train, seconds=0.5, **tuning)
    halves = []
    for part in (slice(0, 50), slice(50, 100)):
        cut = test.signals[:, :, part]
        halves.append(find(Cohort(cut, test.table, test.labels, 100, "half")))
    likely, sites = find(test)
    np.testing.assert_allclose(likely, (halves[0][0] + halves[1][0]) / 2, atol=1e-5)
    np.testing.assert_allclose(sites, (halves[0][1] + halves[1][1]) / 2, atol=1e-3)


def test_the_weight_of_coordinates_counts(cohort):
    train, _, test = cohort.split()
    tuning = OPTIONS["fine_tuning"] | {"seconds": 0.5}
    middle = origins(train)[1].mean(axis=0)
    reach = [np.abs(fine_tune_origin(Means(), train, site_weight=w, **tuning)(test)[1] - middle)
             for w in (0.0, 1.0)]  # fmt: skip
    assert reach[0].max() < 20 < reach[1].max()  # untrained: only bias and decay


def test_the_standard_loss_is_the_one_that_was(cohort):
    train = cohort.split()[0]
    options = {"seconds": 0.5, "min_steps": 5, "batch_size": 8}
    one = fine_tune(Means(), train, train.labels, **options)
    two = fine_tune(Means(), train, train.labels, loss=F.binary_cross_entropy_with_logits,
                    **options)  # fmt: skip
    three = fine_tune(Means(), train, train.labels, loss=F.mse_loss, **options)
    weights = [m.head.weight for m in (one, two, three)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# --- the grid ---------------------------------------------------------------------------------


def test_a_row_for_every_metric_of_every_cell(cohort, table):
    frame, train = table.read(), cohort.split()[0]
    cells, whole = cells_of(frame), train.table["patient_id"].nunique()
    assert list(frame) == list(COLUMNS)
    assert len(cells) == 4 * (3 * 2 * 2 * (2 + 1))  # metrics x methods x seeds x protocols x draws
    assert set(cells["task"]) == {"origin"} and set(cells["leads"]) == {12}
    assert set(cells["n_patients"]) == {8, whole}
    np.testing.assert_allclose(cells["budget"], cells["n_patients"] / whole, rtol=1e-5)
    assert (cells[cells["budget"] == 1]["n_records"] == len(train)).all()
    assert set(table.samples()) == set(cells["config"] + ":" + cells["metric"])
    assert (cells["low"] <= cells["value"]).all() and (cells["value"] <= cells["high"]).all()


@pytest.mark.parametrize("protocol", ["probe", "fine-tuned"])
def test_a_cell_is_what_training_and_testing_by_hand_give(cohort, table, protocol):
    train, _, test = cohort.split()
    labelled = train.budget(8 / train.table["patient_id"].nunique(), 1)
    likely, sites = locate(Means(3), labelled, test, protocol, seconds=0.5, seed=1,
                           fine_tuning=OPTIONS["fine_tuning"])  # fmt: skip
    answer = likely.idxmax(axis=1).to_numpy(str), sites
    weights = patient_weights(test.table["patient_id"])
    found = origin_scores(origins(test), answer, weights)
    cells = cells_of(table.read()).set_index(
        ["method", "protocol", "n_patients", "subset", "seed", "metric"]
    )
    for metric in METRICS:
        cell = cells.loc[("blind", protocol, 8, 1, "0", metric)]
        value = origin_scores(origins(test), answer, np.ones((1, len(test))))[metric][0]
        assert cell["value"] == pytest.approx(value, rel=1e-5)
        assert (cell["low"], cell["high"]) == pytest.approx(interval(found[metric]), rel=1e-5)
        stored = table.samples()[f"{cell['config']}:{metric}"]
        np.testing.assert_allclose(stored, found[metric], rtol=1e-5)


def test_gains_are_positive_where_a_method_is_better(table):
    frame = table.read()
    rows = frame[frame["seed"] == "all"].set_index(["method", "protocol", "n_patients", "metric"])
    assert rows.index.is_unique
    whole = frame["n_patients"].max()
    for metric in METRICS:
        sign = -1 if metric.startswith("distance") else 1
        value = {m: rows.loc[(m, "fine-tuned", whole, metric), "value"]
                 for m in ("random", "blind")}  # fmt: skip
        gain = rows.loc[("blind", "fine-tuned", whole, f"{metric}_gain")]
        assert gain["value"] == pytest.approx(sign * (value["blind"] - value["random"]), rel=1e-3)
        assert gain["low"] <= gain["value"] <= gain["high"] < 0  # it sees no site
        twin = rows.loc[("twin", "fine-tuned", whole, f"{metric}_gain")]
        assert (twin["value"], twin["low"], twin["high"]) == (0, 0, 0)
        assert ("random", "fine-tuned", whole, f"{metric}_gain") not in rows.index
        over = rows.loc[("blind", "probe", 8, f"{metric}_over_random")]
        assert over["value"] < 0
    mean = cells_of(frame).groupby(["method", "protocol", "n_patients", "metric"])["value"].mean()
    some = rows["value"].reindex(mean.index)
    np.testing.assert_allclose(some, mean, rtol=1e-4)


def test_finished_cells_are_not_computed_again(cohort, tmp_path, monkeypatch):
    path, made = tmp_path / "t.csv", []

    def make(blind):
        made.append(blind)
        return Means(blind)

    options = OPTIONS | {"patients": (8,)}
    one = [Entrant("random", 0, "random0", lambda: make(0))]
    first = localisation(one, cohort, path, **options)
    again = localisation(one, cohort, path, **options)
    pd.testing.assert_frame_equal(first, again)
    assert made == [0]
    more = localisation(one, cohort, path, **OPTIONS)
    assert len(made) == 2 and len(cells_of(more)) == 4 * 2 * 3
    other = localisation(one, cohort, path, **options | {"part": "validation"})
    assert len(cells_of(other)) == 4 * 2 * (3 + 2)
    # A probe does not depend on fine-tuning settings; both depend on the windows.
    tuning = options["fine_tuning"] | {"site_weight": 2.0}
    other = localisation(one, cohort, path, **options | {"fine_tuning": tuning})
    assert len(cells_of(other)) == 4 * (2 * (3 + 2) + 2)
    assert len(cells_of(localisation(one, cohort, path, **options, overlap=0.5))) == 4 * (12 + 4)


def test_all_patients_by_number_and_by_none_are_one(cohort):
    assert experiment._numbers((80, None, 10), 80) == [80, 10]


# --- other cohorts ----------------------------------------------------------------------------


def changed(cohort, **columns):
    table = cohort.table.assign(**columns)
    return Cohort(cohort.signals, table, cohort.labels, 100, "changed")


def test_regions_without_coordinates(cohort, tmp_path):
    bare = Cohort(cohort.signals, cohort.table.drop(columns=list(SITES)), None, 100, "bare")
    frame = localisation(entrants(["random"]), bare, tmp_path / "a.csv", **OPTIONS)
    assert set(cells_of(frame)["metric"]) == set(METRICS[:2])
    assert list(by_chance(*bare.split()[::2])) == METRICS[:2]
    named = changed(bare, region="site " + bare.table["region"])
    frame = localisation(entrants(["random"]), named, tmp_path / "b.csv", **OPTIONS)
    assert set(cells_of(frame)["metric"]) == {"region_accuracy"}
    best = cells_of(frame)["value"].groupby(frame["protocol"]).max()
    assert (best > 0.9).all()


def test_a_region_no_labelled_record_has_is_never_found(cohort):
    train, _, test = cohort.split()
    few = train.select(train.table["region"] != "RVOT")
    found = scored(locate(Means(), few, test, "probe", seconds=0.5), test)
    assert found["region_accuracy"] == np.mean(test.table["region"] != "RVOT")


def test_end_to_end_on_simulated_tachycardias(tmp_path):
    class Shape(nn.Module):
        width = 36

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(12, 12, 5, stride=2)

        def forward(self, signals):
            x = self.layer(signals)
            return torch.cat([x.mean(dim=2), x.amax(dim=2), x.amin(dim=2)], dim=1)

    vt = open_cohort("simulated-vt", n_patients=100, seed=0, seconds=4)
    torch.manual_seed(0)
    encoder = Shape()
    frame = localisation(
        [Entrant("random", 0, "shape", lambda: encoder)], vt, tmp_path / "vt.csv", seconds=2.0,
        overlap=0.5, patients=(20, None), subsets={20: 1}, progress=False,
        fine_tuning={"min_steps": 40, "epochs": 1},
    )  # fmt: skip
    cells = cells_of(frame).set_index(["protocol", "budget", "metric"])["value"]
    chance = by_chance(*vt.split()[::2])
    for protocol in ("probe", "fine-tuned"):
        found = cells[protocol][1.0]
        assert found["adjacent_accuracy"] > chance.loc["drawn", "adjacent_accuracy"]
        assert found["distance_median"] < chance.loc["drawn", "distance_median"]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"region": "apex"}, "the training folds .* hold one region, 'apex': expected at least"),
        ({"site_x": np.nan}, "120 of 120 records lack a value, such as record 'r0'"),
        ({"region": [None] + ["apex"] * 119}, "1 of 120 records lack a value"),
    ],
)
def test_origins_that_do_not_do(cohort, tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        localisation([], changed(cohort, **columns), tmp_path / "t.csv", seconds=0.5)


@pytest.mark.parametrize("gone, named", [("region", "lacks region: "), ("site_y", "lacks site_y")])
def test_columns_that_are_not_there(cohort, gone, named):
    bare = Cohort(cohort.signals, cohort.table.drop(columns=gone), None, 100, "bare")
    with pytest.raises(ValueError, match=f"{named}.*needs the column region and, for coordinates"):
        origins(bare)


def test_one_training_patient_is_too_few(cohort, tmp_path):
    few = cohort.select([0, 1, 8, 9])
    few = changed(few, fold=[1, 1, 9, 10], patient_id=[0, 0, 1, 2])
    with pytest.raises(ValueError, match="hold one patient_id"):
        localisation([], few, tmp_path / "t.csv", seconds=0.5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patients": (10, 500)}, r"patients holds \[500\]: expected whole numbers from 2 to 8\d"),
        ({"patients": (0.5,)}, r"patients holds \[0.5\]"),
        ({"patients": (1,)}, r"patients holds \[1\]"),
        ({"part": "train"}, "part is 'train'"),
    ],
)
def test_arguments_that_do_not_do(cohort, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        localisation([], cohort, tmp_path / "t.csv", seconds=0.5, **options)
