import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial.cohort import Cohort
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate import label_efficiency as experiment
from ecgtutorial.evaluate.label_efficiency import (
    MINIMUM,
    Entrant,
    _cell_hash,
    _prepare,
    label_efficiency,
    scored_classes,
    summarise,
)
from ecgtutorial.evaluate.probe import linear_probe
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.runs import Table, _ranks


@pytest.fixture(scope="module")
def cohort():
    """Two rhythms, one of them called MI, in 100 patients with folds."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 100)
    time = np.arange(200) / 100
    wave = np.sin(2 * np.pi * np.where(label, 7, 3)[:, None] * time)
    signals = 300 * wave[:, None] + generator.normal(0, 300, (100, 12, 200))
    table = pd.DataFrame(
        {"record_id": range(100), "patient_id": range(100), "fold": np.arange(100) % 10 + 1}
    )
    labels = pd.DataFrame({"NORM": 1 - label, "IMI": label}, dtype=np.uint8)
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


def encoder(seed):
    torch.manual_seed(seed)
    return SingleLeadCNN()


def entrants(calls):
    def make(name, seed):
        def give():
            calls.append((name, seed))
            return encoder(seed)

        return give

    return [
        Entrant("random", 0, "r", make("random", 0), ("probe",)),
        Entrant("supervised", 0, "r", make("supervised", 0), ("fine-tuned",)),
        Entrant("better", 0, "b0", make("better", 0)),
        Entrant("better", 1, "b1", make("better", 1)),
    ]


OPTIONS = {
    "seconds": 1.0, "budgets": (0.1, 1.0), "subsets": {0.1: 2, 1.0: 1}, "progress": False,
    "fine_tuning": {"min_steps": 4, "epochs": 1, "batch_size": 8},
}  # fmt: skip


def test_a_grid_is_filled_summarised_and_not_computed_again(cohort, tmp_path):
    calls = []
    table = Table(tmp_path / "table.csv")
    frame = label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 3 * (1 + 1 + 2 + 2) and cells["config"].is_unique
    assert len(calls) == 4
    summary = frame[frame["seed"] == "all"]
    mean = cells.groupby(["method", "protocol", "budget"])["value"].mean()
    for row in summary[summary["metric"] == "macro_auc"].itertuples():
        assert np.isclose(row.value, mean[row.method, row.protocol, row.budget], atol=1e-5)
        assert row.low <= row.value <= row.high
    gains = summary[summary["metric"] == "macro_auc_gain"]
    assert set(gains["method"]) == {"random", "better"}
    assert frame["noise"].isna().all()

    again = label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    assert len(calls) == 4, "finished cells must not be computed again"
    pd.testing.assert_frame_equal(frame, again)


def test_a_grid_goes_on_where_it_was_killed(cohort, tmp_path):
    table = Table(tmp_path / "table.csv")
    label_efficiency(entrants([])[:2], cohort, table, **OPTIONS)
    calls = []
    label_efficiency(entrants(calls), cohort, table, **OPTIONS)
    assert calls == [("better", 0), ("better", 1)]


def test_the_interval_of_the_gain_of_a_method_over_itself_is_zero(cohort, tmp_path):
    twin = [
        Entrant(name, 0, "r", lambda: encoder(0), ("fine-tuned",))
        for name in ("supervised", "twin")
    ]
    frame = label_efficiency(twin, cohort, tmp_path / "t.csv", **OPTIONS)
    gain = frame[frame["metric"] == "macro_auc_gain"]
    assert (gain[["value", "low", "high"]].abs() < 1e-12).all(axis=None)


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="part is 'train'"):
        label_efficiency([], cohort, tmp_path / "t.csv", **OPTIONS, part="train")


def test_the_hashes_of_published_cells_stay(cohort):
    """Three cells of results/ptb-xl/label-efficiency.csv: a changed hash computes them again."""
    recipe = {"epochs": 6, "min_steps": 80, "encoder_lr": 3e-3, "head_lr": 5e-4, "mask": 0.3}
    settings = _prepare(cohort, "superclass", "test", 2.5, 0.0, recipe)[-1]
    settings |= {"cohort": "85cf349e2f83"}
    supervised, random = Entrant("supervised", 0, "random", None), Entrant("random", 1, "random", 0)
    assert _cell_hash(settings, supervised, "fine-tuned", 0.01, 0) == "0fccc005ead9"
    assert _cell_hash(settings, supervised, "fine-tuned", 1.0, 0) == "50a3afb11ef2"
    assert _cell_hash(settings, random, "probe", 0.1, 0) == "cb13edd58c75"


def test_overlapping_windows_are_other_cells(cohort, tmp_path, monkeypatch):
    read, plain_predict = [], experiment.predict

    def predict(model, cohort, *windows):
        read.append(windows)
        return plain_predict(model, cohort, *windows)

    monkeypatch.setattr(experiment, "predict", predict)
    options = {**OPTIONS, "budgets": (1.0,)}
    table = Table(tmp_path / "t.csv")
    better = [Entrant("better", 0, "b", lambda: encoder(0))]
    plain = label_efficiency(better, cohort, table, **options)
    both = label_efficiency(better, cohort, table, **options, overlap=0.5)
    cells = both[both["seed"] != "all"]
    assert len(cells) == 4 and set(plain["config"].dropna()) < set(cells["config"])

    train, _, test = cohort.split()
    labels, patients = train.targets("superclass").to_numpy(), train.table["patient_id"]
    for name, overlap in zip(cells["config"][cells["protocol"] == "probe"], (0.0, 0.5)):
        features = [embed(encoder(0).eval(), part, 1.0, overlap) for part in (train, test)]
        scores = linear_probe(features[0], labels, patients, features[1])
        np.testing.assert_array_equal(table.ranks()[name], _ranks(scores))
    assert read == [(1.0, 0.0), (1.0, 0.5)]  # by the fine-tuned


def test_each_method_has_its_own_reference(cohort, tmp_path):
    table, test = Table(tmp_path / "t.csv"), cohort.split()[2]
    label_efficiency(entrants([]), cohort, table, **OPTIONS)
    own = {"better": ("random", "probe"), "random": ("supervised", "fine-tuned")}
    rows = pd.DataFrame(summarise(table, test, "superclass", reference=own))
    summary = rows.set_index(["metric", "method", "protocol", "budget"])["value"]
    gains, means = summary["macro_auc_gain"], summary["macro_auc"]
    assert len(gains) == 2 * 2 + 2 and gains.index.is_unique
    for (method, protocol, budget), gain in gains.items():
        other = means[(*own[method], budget)]
        assert np.isclose(gain, means[method, protocol, budget] - other)

    one = ("supervised", "fine-tuned")
    tables = [
        pd.DataFrame(summarise(table, test, "superclass", reference=reference))
        for reference in (one, {"better": one})
    ]
    tables = [t[t["method"] == "better"].reset_index(drop=True) for t in tables]
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture(scope="module")
def statements(cohort):
    """The same records with statements of which 4, 5 or more records stand in a part."""
    enough, fold = {}, cohort.table["fold"].to_numpy()
    for name, n_train, n_test in (
        ("MANY", 40, 5), ("JUST", 5, 5), ("FEW", 4, 5), ("RARE", 5, 4), ("NONE", 0, 0),
    ):  # fmt: skip
        column = np.zeros(100, np.uint8)
        column[np.flatnonzero(fold <= 8)[:n_train]] = 1
        column[np.flatnonzero(fold == 10)[:n_test]] = 1
        enough[name] = column
    labels = pd.concat([pd.DataFrame(enough), cohort.labels], axis=1)
    return Cohort(cohort.signals, cohort.table, labels, 100, "statements")


def test_statements_are_scored_from_five_records_with_and_without_on(statements):
    train, validation, test = statements.split()
    assert MINIMUM == 5
    positive = cohort_names(train.labels, 5) & cohort_names(test.labels, 5)
    found = scored_classes(train, test, "all")
    assert set(found) == positive and {"MANY", "JUST"} <= set(found)
    assert not {"FEW", "RARE", "NONE"} & set(found)
    assert found == [name for name in statements.labels if name in found]
    with pytest.raises(ValueError, match="none of 7 statements"):  # fold 9 has but NORM and IMI
        scored_classes(train, validation, "all")
    assert scored_classes(train, test, "superclass") == ["NORM", "MI", "STTC", "CD", "HYP"]
    rare = Cohort(statements.signals, statements.table, statements.labels[["RARE"]], 100, "rare")
    with pytest.raises(ValueError, match="none of 1 statements has 5 positive records"):
        scored_classes(*rare.split()[::2], "all")


def test_a_statement_that_everybody_has_is_not_scored(statements):
    labels = statements.labels.assign(EVERYBODY=np.uint8(1))
    common = Cohort(statements.signals, statements.table, labels, 100, "common")
    train, _, test = common.split()
    assert scored_classes(train, test, "all") == scored_classes(*statements.split()[::2], "all")


def cohort_names(labels, minimum):
    return {n for n in labels if minimum <= labels[n].sum() <= len(labels) - minimum}


def test_all_statements_with_a_budget_that_misses_some(statements, tmp_path):
    train, _, test = statements.split()
    few = train.budget(0.05)
    classes = scored_classes(train, test, "all")
    assert (few.targets("all")[classes].sum() == 0).any()
    options = {**OPTIONS, "budgets": (0.05, 1.0), "subsets": {0.05: 1, 1.0: 1}}
    table = Table(tmp_path / "t.csv")
    frame = label_efficiency(entrants([])[1:3], statements, table, task="all", **options)
    assert set(frame["task"]) == {"all"} and np.isfinite(frame["value"]).all()
    assert len(frame[frame["seed"] == "all"]) == 2 * (1 + 2) + 2 * 2
    assert {rank.shape for rank in table.ranks().values()} == {(len(test), len(classes))}
