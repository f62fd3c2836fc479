import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecgtutorial.cohort import Cohort, open_cohort
from ecgtutorial.datasets.challenge import CLASSES, CLASSES_2020, SNOMED
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate import label_efficiency as shared
from ecgtutorial.evaluate.arrhythmia import BUDGETS, SUBSETS, arrhythmias, equals_full, summarise
from ecgtutorial.evaluate.finetune import fine_tune, predict
from ecgtutorial.evaluate.label_efficiency import Entrant, _cell_hash, _prepare, scored_classes
from ecgtutorial.evaluate.probe import linear_probe
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.metrics import class_auc, interval, patient_weights
from ecgtutorial.runs import Table

METRICS = ("macro_auc", "exact_match", "class_accuracy")


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
    """240 records of 235 patients: fibrillation sounds at 7 Hz, tachycardia at 3 Hz."""
    rng = np.random.default_rng(0)
    person, time = np.minimum(np.arange(240), 234), np.arange(200) / 100
    labels = pd.DataFrame({name: rng.random(240) < 0.4 for name in ("AFIB", "STACH")})
    labels = labels.astype(np.uint8)
    signals = rng.normal(0, 600, (240, 12, 200))
    for name, hertz in (("AFIB", 7), ("STACH", 3)):
        wave = np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6, (240, 1)))
        signals += 60 * (labels[name].to_numpy()[:, None] * wave)[:, None]
    table = pd.DataFrame(
        {"record_id": np.arange(240), "patient_id": person, "fold": person % 10 + 1, "axis": 0.0}
    )
    labels["SR"] = ((labels["AFIB"] == 0) & (labels["STACH"] == 0)).astype(np.uint8)
    labels["AFLT"] = (np.arange(240) == 9).astype(np.uint8)  # one record, in the test fold
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


OPTIONS = {
    "seconds": 1.0, "progress": False, "budgets": (0.1, 1.0), "subsets": {0.1: 2, 1.0: 1},
    "fine_tuning": {"min_steps": 40, "epochs": 1, "batch_size": 16, "head_lr": 0.3, "mask": 0.0},
}  # fmt: skip
OVER = {"random": {"twin": "random", "other": "random"}}
N_CELLS = 3 * 2 * 2 * (2 + 1)  # methods, seeds, protocols, subsets


def entrants(names=("random", "twin", "other")):
    """Two names of one encoder, and another; two seeds of each."""
    return [
        Entrant(name, seed, f"{name}{seed}", lambda s=seed + 5 * (name == "other"): Spectrum(s))
        for name in names
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def table(cohort, tmp_path_factory):
    """A whole grid."""
    table = Table(tmp_path_factory.mktemp("arrhythmia") / "arrhythmias.csv")
    arrhythmias(entrants(), cohort, table, over=OVER, **OPTIONS)
    return table


def cells_of(frame):
    return frame[frame["seed"] != "all"]


# --- the task ---------------------------------------------------------------------------------


def test_the_classes_of_2020():
    assert len(CLASSES_2020) == 24 and set(CLASSES) - set(CLASSES_2020) == {"BBB", "PRWP"}
    assert CLASSES_2020 == tuple(name for name in CLASSES if name in CLASSES_2020)
    codes = [code for code, name in SNOMED.items() if name in CLASSES_2020]
    assert len(codes) == 28  # the 27 of 2020 and 733534002, which stands for one of them
    own = [code for code in codes if code != "733534002"]
    merged = {name for name in CLASSES_2020 if sum(SNOMED[code] == name for code in own) == 2}
    assert len(own) == 27 and merged == {"CRBBB", "PAC", "PVC"}


def test_the_classes_agree_with_the_notes():
    notes = Path(__file__).resolve().parents[3] / "shared" / "challenge-2021.md"
    if not notes.is_file():
        pytest.skip(f"needs {notes}")
    assert "the 2021 list without BBB, CLBBB 733534002 and PRWP" in notes.read_text()


def test_targets_are_the_challenges_less_two(cohort):
    found = cohort.targets("challenge-2020")
    assert tuple(found) == CLASSES_2020
    pd.testing.assert_frame_equal(found, cohort.targets("challenge").drop(columns=["BBB", "PRWP"]))
    own = pd.DataFrame(0, index=range(2), columns=list(CLASSES), dtype=np.uint8)
    own.loc[0, ["PRWP", "PVC"]] = 1
    own = Cohort(cohort.signals[:2], cohort.table[:2], own, 100, "challenge")
    assert own.targets("challenge-2020").sum().pipe(lambda s: list(s.index[s > 0])) == ["PVC"]


def test_rare_classes_are_not_scored_and_hashes_stay(cohort):
    train, validation, test = cohort.split()
    assert scored_classes(train, test, "challenge-2020") == ["AF", "NSR", "STach"]
    settings = {t: _prepare(cohort, t, "test", 1.0, 0.0, {})[-1] for t in ("challenge", "rhythm")}
    assert "minimum" not in settings["rhythm"]
    new = _prepare(cohort, "challenge-2020", "test", 1.0, 0.0, {})[-1]
    assert new == settings["challenge"] | {"task": "challenge-2020"} and new["minimum"] == 5


# --- the grid ---------------------------------------------------------------------------------


def test_three_rows_a_cell(cohort, table):
    cells = cells_of(table.read())
    assert len(cells) == 3 * N_CELLS and cells["config"].nunique() == N_CELLS
    assert (cells.groupby("config")["metric"].apply(set) == set(METRICS)).all()
    assert (cells["leads"] == 12).all() and cells["noise"].isna().all()
    assert set(cells["task"]) == {"challenge-2020"}
    train = cohort.split()[0]
    for row in cells.itertuples():
        part = train.budget(row.budget, row.subset)
        assert row.n_records == len(part)
        assert row.n_patients == part.table["patient_id"].nunique()
    assert {v.shape for v in table.samples().values()} == {(1000,)} and not table.ranks()
    assert len(table.samples()) == len(cells)


def slow_scores(target, scores):
    likely = scores > 0.5
    return {
        "macro_auc": np.mean(class_auc(target, scores)),
        "exact_match": np.mean([(t == p).all() for t, p in zip(target, likely)]),
        "class_accuracy": np.mean([np.mean(t == p) for t, p in zip(target.T, likely.T)]),
    }


@pytest.mark.parametrize("protocol", ["probe", "fine-tuned"])
def test_a_cell_is_what_training_and_testing_by_hand_give(cohort, table, protocol):
    train, _, test = cohort.split()
    part, classes, encoder = train.budget(0.1, 1), ["AF", "NSR", "STach"], Spectrum(5).eval()
    labels = part.targets("challenge")[classes].to_numpy()
    if protocol == "probe":
        features, test_features = (embed(encoder, c, 1.0) for c in (part, test))
        patients = part.table["patient_id"]
        logits = linear_probe(features, labels, patients, test_features, seed=1)
        scores = torch.sigmoid(torch.from_numpy(logits)).numpy()
    else:
        options = OPTIONS["fine_tuning"]
        model = fine_tune(encoder, part, labels, seconds=1.0, seed=1, **options)
        scores = predict(model, test, 1.0)
    target = test.targets("challenge")[classes].to_numpy().astype(int)
    cells = cells_of(table.read())
    cells = cells[(cells["method"] == "other") & (cells["seed"] == "0") & (cells["budget"] == 0.1)]
    cells = cells[(cells["protocol"] == protocol) & (cells["subset"] == 1)].set_index("metric")
    counts = patient_weights(test.table["patient_id"])[3].astype(int)
    drawn = np.repeat(np.arange(len(test)), counts)
    resampled = slow_scores(target[drawn], scores[drawn])
    for metric, value in slow_scores(target, scores).items():
        row = cells.loc[metric]
        sample = table.samples()[f"{row['config']}:{metric}"]
        assert np.isclose(row["value"], value, atol=2e-5) and 0.1 < value < 0.999
        assert np.isclose(sample[3], resampled[metric], atol=2e-5)
        np.testing.assert_allclose([row["low"], row["high"]], interval(sample), atol=2e-5)


# --- the summary ------------------------------------------------------------------------------


def test_the_summary_is_that_of_a_slow_recomputation(table):
    frame, samples = table.read(), table.samples()
    cells = cells_of(frame)
    seeds = np.random.default_rng(1).multinomial(2, [0.5, 0.5], 1000)  # how often each counts

    def mean(method, protocol, budget, metric, generator=2):
        one = cells[(cells["method"] == method) & (cells["protocol"] == protocol)]
        one = one[(one["budget"] == budget) & (one["metric"] == metric)]
        n = OPTIONS["subsets"][budget]
        assert len(one) == 2 * n
        subsets = np.random.default_rng(generator).multinomial(n, [1 / n] * n, 1000)
        total = np.zeros(1000)
        for row in one.itertuples():
            weight = seeds[:, int(row.seed)] * subsets[:, int(row.subset)] / (2 * n)
            total += weight * samples[f"{row.config}:{metric}"]
        return one["value"].mean(), total

    checked = 0
    for row in frame[frame["seed"] == "all"].itertuples():
        metric = next(m for m in METRICS if row.metric.startswith(m))
        value, sampled = mean(row.method, row.protocol, row.budget, metric)
        other = {
            "": None,
            "_gain": ("random", "fine-tuned", row.budget, metric),
            "_over_random": ("random", row.protocol, row.budget, metric),
            "_to_full": ("random", "fine-tuned", 1.0, metric, 2 if row.budget == 1 else 3),
        }[row.metric.removeprefix(metric)]
        if other:
            other_value, other_sampled = mean(*other)
            value, sampled = value - other_value, sampled - other_sampled
        expected = [value, *np.quantile(sampled, [0.025, 0.975])]
        np.testing.assert_allclose([row.value, row.low, row.high], expected, atol=2e-5)
        checked += 1
    # per metric and budget: 6 means, 4 gains, 4 over random, 6 differences to the full reference
    assert checked == len(frame) - len(cells) == 3 * 2 * 20


def test_the_full_reference_is_at_no_distance_from_itself(table):
    rows = summary_of(table.read(), "exact_match_to_full")
    for method in ("random", "twin"):  # the same encoder under another name
        assert (rows.loc[method, "fine-tuned", 1.0][["value", "low", "high"]] == 0).all()
    few = rows.loc["random", "fine-tuned", 0.1]
    assert few["value"] != 0 and few["high"] > few["low"]


def summary_of(frame, metric):
    rows = frame[(frame["seed"] == "all") & (frame["metric"] == metric)]
    rows = rows.set_index(["method", "protocol", "budget"])
    assert rows.index.is_unique
    return rows


def invented(values, tmp_path, n_subsets=2):
    """A table of cells with a mean of ``values[method, protocol][budget]`` and some noise."""
    table, rng, rows, samples = Table(tmp_path / "t.csv"), np.random.default_rng(0), [], {}
    patients = rng.normal(0, 0.01, 1000)  # the same for all: they are paired
    for (method, protocol), curve in values.items():
        for budget, value in curve.items():
            for subset in range(n_subsets):
                name = hashlib.sha256(f"{method}{protocol}{budget}{subset}".encode()).hexdigest()
                shift = rng.normal(0, 0.001, 1000) + (0.02 if subset else -0.02)
                samples[f"{name[:12]}:macro_auc"] = value + patients + shift
                rows.append({
                    "method": method, "protocol": protocol, "budget": budget, "subset": subset,
                    "value": value + (0.02 if subset else -0.02), "metric": "macro_auc",
                    "seed": "0", "config": name[:12], "n_records": 1, "n_patients": 1,
                })  # fmt: skip
    table.add(rows, samples=samples)
    return table


def test_the_budget_that_equals_full_supervision(tmp_path):
    curves = {
        ("random", "fine-tuned"): {0.1: 0.6, 0.6: 0.8, 1.0: 0.9},
        ("pre-trained", "fine-tuned"): {0.1: 0.7, 0.6: 0.91, 1.0: 0.95},
        ("pre-trained", "probe"): {0.1: 0.7, 0.6: 0.88, 1.0: 0.89},
        ("poor", "probe"): {0.1: 0.5, 0.6: 0.5, 1.0: 0.6},
    }
    table = invented(curves, tmp_path)
    table.replace_summary(summarise(table))
    found = equals_full(table.read()).set_index(["method", "protocol"])
    assert found["budget"].fillna(0).to_dict() == {
        ("random", "fine-tuned"): 1, ("pre-trained", "fine-tuned"): 0.6,
        ("pre-trained", "probe"): 0, ("poor", "probe"): 0,
    }  # fmt: skip
    assert found["within"].fillna(0).to_dict() == {
        ("random", "fine-tuned"): 1, ("pre-trained", "fine-tuned"): 0.6,
        ("pre-trained", "probe"): 0.6, ("poor", "probe"): 0,
    }  # fmt: skip


def test_differences_to_the_full_reference_draw_subsets_on_their_own(tmp_path):
    """Subset 1 is the better one by 0.04 everywhere: gains are sure, other budgets are not."""
    curves = {("random", "fine-tuned"): {0.5: 0.8, 1.0: 0.9}, ("new", "probe"): {0.5: 0.9, 1.0: 1}}
    table = invented(curves, tmp_path)
    rows = pd.DataFrame(summarise(table)).set_index(["method", "metric", "budget"])
    width = rows["high"] - rows["low"]
    assert width["new", "macro_auc_gain", 0.5] < 0.005  # patients and subsets are paired
    assert width["new", "macro_auc_to_full", 1.0] < 0.005
    # two draws of each two subsets: in one of 8 resamples either side has the other's worse
    assert width["new", "macro_auc_to_full", 0.5] == pytest.approx(0.08, abs=0.005)
    assert width["random", "macro_auc_to_full", 0.5] == pytest.approx(0.08, abs=0.005)


def test_each_method_may_have_its_own_reference(table):
    own = {"other": ("twin", "probe"), "twin": ("twin", "probe")}
    rows = pd.DataFrame(summarise(table, reference=own))
    means = summary_of(rows, "macro_auc")["value"]
    full = summary_of(rows, "macro_auc_to_full")["value"]
    assert len(full) == 2 * 2 * 2  # none for the method that has no reference
    for key, value in full.items():
        assert np.isclose(value, means[key] - means["twin", "probe", 1.0])


def test_the_summary_needs_no_labels_and_no_records(table):
    before = table.read()
    table.replace_summary(summarise(Table(table.path), over=OVER))
    pd.testing.assert_frame_equal(before, table.read())


def test_without_the_full_reference_there_is_nothing_to_equal(table):
    names = cells_of(table.read()).query("budget < 1")["config"].unique()
    rows = pd.DataFrame(summarise(table, names))
    assert not rows["metric"].str.endswith("_to_full").any()
    with pytest.raises(ValueError, match="no rows macro_auc_to_full, only .*'macro_auc_gain'"):
        equals_full(rows)
    with pytest.raises(ValueError, match="no rows speed_to_full"):
        equals_full(table.read(), "speed")


# --- stored, resumed, refused -----------------------------------------------------------------


class Killed(Exception):
    pass


def test_a_grid_goes_on_where_it_was_killed(cohort, tmp_path, monkeypatch):
    trained, stored, made = [], [], []
    for name in ("fine_tune", "linear_probe"):
        plain = getattr(shared, name)

        def spy(*arguments, plain=plain, name=name, **options):
            trained.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(shared, name, spy)
    add = Table.add

    def add_or_die(table, rows, scores=None, samples=None, die=True):
        if die and len(stored) == 4:  # all probes and one fine-tuned are done
            raise Killed
        add(table, rows, scores, samples)
        assert len(rows) == 3 and {row["config"] for row in rows} == {rows[0]["config"]}
        stored.append(rows[0]["config"])

    def make():
        made.append(1)
        return Spectrum()

    one = [Entrant("random", 0, "r", make)]
    whole = arrhythmias(one, cohort, tmp_path / "whole.csv", **OPTIONS)
    assert trained == ["linear_probe"] * 3 + ["fine_tune"] * 3 and len(made) == 1

    table = Table(tmp_path / "t.csv")
    monkeypatch.setattr(Table, "add", add_or_die)
    with pytest.raises(Killed):
        arrhythmias(one, cohort, table, **OPTIONS)
    monkeypatch.setattr(Table, "add", lambda *a, **k: add_or_die(*a, **k, die=False))
    trained.clear()
    resumed = arrhythmias(one, cohort, table, **OPTIONS)
    assert trained == ["fine_tune"] * 2 and len(stored) == len(set(stored)) == 6
    pd.testing.assert_frame_equal(whole, resumed)

    trained.clear(), made.clear()
    again = arrhythmias(one, cohort, table, **OPTIONS)
    assert not trained and not made and len(stored) == 6
    pd.testing.assert_frame_equal(again, resumed)


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    assert set(SUBSETS) == set(BUDGETS) == {0.1, 0.2, 0.4, 0.6, 0.8, 1.0}
    with pytest.raises(ValueError, match="part is 'train'"):
        arrhythmias([], cohort, tmp_path / "t.csv", seconds=1.0, part="train")
    with pytest.raises(ValueError, match=r"subsets has no number for the budgets \[0.3\]"):
        arrhythmias([], cohort, tmp_path / "t.csv", seconds=1.0, budgets=(0.3, 1.0))


def test_the_hashes_of_published_cells_stay(cohort):
    """A cell of results/ptb-xl/any-lead.csv: a changed hash computes it again."""
    recipe = {"epochs": 6, "encoder_lr": 0.002, "head_lr": 0.01, "mask": 0.0}
    settings = _prepare(cohort, "challenge", "test", 2.5, 0.0, recipe)[-1]
    settings |= {"cohort": "85cf349e2f83", "leads": 12}
    entrant = Entrant("random", 0, "transformer-small", None)
    assert _cell_hash(settings, entrant, "fine-tuned", 1.0, 0) == "439389e7f56a"


# --- end to end -------------------------------------------------------------------------------


def test_simulated_records_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "MINIMUM", 2)  # few are in fold 9
    cohort = open_cohort("simulated", n_patients=100, seconds=5)
    frame = arrhythmias(
        [Entrant("random", 0, "r", SingleLeadCNN)], cohort, tmp_path / "t.csv", seconds=2.5,
        overlap=0.5, budgets=(0.6, 1.0), part="validation", progress=False,
        fine_tuning={"min_steps": 3, "epochs": 1, "batch_size": 8},
    )  # fmt: skip
    cells = cells_of(frame)
    assert len(cells) == 3 * 2 * (2 + 1)
    assert np.isfinite(cells[["value", "low", "high"]]).all(axis=None)
    assert (cells["low"] <= cells["value"]).all() and (cells["value"] <= cells["high"]).all()
    assert len(equals_full(frame)) == 2
