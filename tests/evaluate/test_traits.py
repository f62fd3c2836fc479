import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgtutorial.cohort import Cohort, open_cohort
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate import traits as module
from ecgtutorial.evaluate.finetune import fine_tune, predict
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.evaluate.localisation import _splits
from ecgtutorial.evaluate.probe import linear_probe
from ecgtutorial.evaluate.traits import (
    RIDGE,
    SUBSETS,
    TRAITS,
    by_chance,
    summarise,
    trait_scores,
    trait_values,
    traits,
)
from ecgtutorial.evaluate.windows import embed, over_windows
from ecgtutorial.metrics import class_auc, interval, patient_weights
from ecgtutorial.runs import Table


class Level(nn.Module):
    """Mean of every lead, each with a weight of its own."""

    width = 12

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(12, generator=generator))

    def forward(self, signals):
        return self.weight * signals.mean(dim=2)


@pytest.fixture(scope="module")
def cohort():
    """240 records of 235 patients whose leads stand at a height that tells their traits."""
    rng = np.random.default_rng(0)
    person = np.minimum(np.arange(240), 234)
    age, axis = rng.integers(1, 90, 240).astype(float), rng.integers(-180, 181, 240).astype(float)
    female, turn = rng.random(240) < 0.5, rng.normal(size=(240, 3))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    level = np.zeros((240, 12))
    level[:, 0], level[:, 1] = (age - 45) / 30, female
    level[:, 2], level[:, 3] = np.cos(np.radians(axis)), np.sin(np.radians(axis))
    level[:, 4:7] = turn
    level += rng.normal(0, 0.3, level.shape)
    signals = 1000 * level[:, :, None] + rng.normal(0, 300, (240, 12, 200))  # µV
    table = pd.DataFrame(
        {"record_id": np.arange(240), "patient_id": person, "fold": person % 10 + 1, "age": age,
         "sex": np.where(female, "female", "male"), "axis": axis}
    )  # fmt: skip
    table[["turn_x", "turn_y", "turn_z"]] = turn.round(3)
    table.loc[[0, 9, 19], "age"] = 300.0  # two of them in the test fold
    table.loc[1, "age"] = np.nan
    table.loc[[2, 29], "sex"] = np.nan
    return Cohort(signals.astype(np.int16), table, None, 100, "levels")


OPTIONS = {
    "seconds": 1.0, "progress": False, "budgets": (0.1, 1.0), "subsets": {0.1: 2, 1.0: 1},
    "fine_tuning": {"min_steps": 20, "epochs": 1, "batch_size": 16, "head_lr": 0.1, "mask": 0.0},
}  # fmt: skip
OVER = {"random": {"other": "random"}}
N_CELLS = 2 * 2 * 4 * (2 + 1)  # methods, protocols, traits, subsets
METRICS = {"age": ["mae", "r2"], "sex": ["auc"], "axis": ["mae"], "turn": ["mae"]}


def entrants(names=("random", "other")):
    return [Entrant(n, 0, n, lambda s=5 * (n == "other"): Level(s)) for n in names]


@pytest.fixture(scope="module")
def table(cohort, tmp_path_factory):
    """A whole grid."""
    table = Table(tmp_path_factory.mktemp("traits") / "traits.csv")
    traits(entrants(), cohort, table, over=OVER, **OPTIONS)
    return table


def cells_of(frame):
    return frame[frame["seed"] != "all"]


def changed(cohort, **columns):
    """The same records with other columns of the table, or without those that are None."""
    table = cohort.table.assign(**columns)
    table = table.drop(columns=[name for name, value in columns.items() if value is None])
    return Cohort(cohort.signals, table, None, 100, "changed")


# --- what is learned --------------------------------------------------------------------------


def test_values_of_traits(cohort):
    table = pd.DataFrame({
        "record_id": range(5), "patient_id": range(5), "fold": 1, "age": [300, 95, 5, np.nan, 89],
        "sex": ["female", "male", None, "male", "?"], "axis": [0.0, 90, -180, 45, np.nan],
        "turn_x": [2.0, 0, 0, 1, np.nan], "turn_y": [0.0, -0.5, 0, 1, 0], "turn_z": 0.0,
    })  # fmt: skip
    few = Cohort(cohort.signals[:5], table, None, 100, "five")
    found = {trait: trait_values(few, trait) for trait in TRAITS}
    nan = np.nan
    np.testing.assert_array_equal(found["age"][:, 0], [nan, 95, 5, nan, 89])  # children stay
    np.testing.assert_array_equal(found["sex"][:, 0], [1, 0, nan, 0, nan])
    half = np.sqrt(0.5)
    expected = [[1, 0], [0, 1], [-1, 0], [half, half], [nan, nan]]
    np.testing.assert_allclose(found["axis"], expected, atol=1e-12)
    expected = [[1, 0, 0], [0, -1, 0], [0, 0, 0], [half, half, 0]]
    np.testing.assert_allclose(found["turn"][:4], expected, atol=1e-12)
    assert np.isnan(found["turn"][4]).any()


def test_scores_in_closed_form():
    ages, one = np.array([[20.0], [40.0], [60.0]]), np.ones((1, 3))
    assert trait_scores("age", ages, ages, one) == {"mae": [0], "r2": [1]}
    mean = trait_scores("age", ages, np.full((3, 1), 40.0), one)
    assert mean["mae"] == pytest.approx(40 / 3) and mean["r2"] == pytest.approx(0)
    assert trait_scores("age", ages, ages[::-1], one)["r2"] == pytest.approx(-3)
    sex = np.array([[0.0], [1], [1]])
    assert trait_scores("sex", sex, np.array([[0.1], [0.3], [0.2]]), one)["auc"] == [1]
    assert trait_scores("sex", sex, np.zeros((3, 1)), one)["auc"] == [0.5]


def circle(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_angles_go_round_the_circle():
    one = np.ones((1, 1))
    for a, b, angle in ((350, 10, 20), (-170, 170, 20), (0, 180, 180), (30, 30, 0)):
        found = trait_scores("axis", circle(a), 0.3 * circle(b), one)["mae"]  # length is nothing
        assert found == pytest.approx(angle, abs=1e-5)
    assert trait_scores("axis", circle(20), np.zeros((1, 2)), one)["mae"] == pytest.approx(90)
    found = trait_scores("turn", np.eye(3), np.eye(3)[[0, 2, 2]], np.array([[1, 2, 1.0]]))["mae"]
    assert found == pytest.approx(2 * 90 / 4)


def slow_scores(trait, values, answers):
    if trait == "sex":
        return {"auc": class_auc(values.astype(int), answers)[0]}
    if trait == "age":
        error = answers - values
        return {"mae": np.abs(error).mean(), "r2": 1 - (error**2).mean() / values.var()}
    angles = [
        np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        for a, b in zip(values, answers)
    ]
    return {"mae": np.mean(angles)}


def test_resamples_in_which_all_are_alike_have_no_score():
    ages, weights = np.array([[20.0], [40.0]]), np.array([[2.0, 0.0], [1.0, 1.0]])
    found = trait_scores("age", ages, ages + 1, weights)
    assert np.isnan(found["r2"][0]) and found["r2"][1] == pytest.approx(0.99)
    assert np.isnan(trait_scores("sex", np.array([[0.0], [1.0]]), ages, weights)["auc"][0])


# --- the grid ---------------------------------------------------------------------------------


def test_every_cell_of_every_trait(cohort, table):
    cells = cells_of(table.read())
    assert cells["config"].nunique() == N_CELLS
    assert len(cells) == N_CELLS // 4 * sum(map(len, METRICS.values()))
    for trait, one in cells.groupby("statement"):
        assert (one.groupby("config")["metric"].apply(list).map(set) == set(METRICS[trait])).all()
    assert set(cells["task"]) == {"traits"} and {len(v) for v in table.samples().values()} == {1000}
    train = cohort.split()[0]
    for trait, n in (("age", 2), ("sex", 1), ("axis", 0)):  # unknown in the training folds
        rows = cells[(cells["statement"] == trait) & (cells["budget"] == 1)]
        assert (rows["n_records"] == len(train) - n).all()


def by_hand(cohort, trait, protocol, budget, subset):
    """Answers for the test fold, and the values."""
    parts = (cohort.split()[0], cohort.split()[2])
    train, test = (p.select(~np.isnan(trait_values(p, trait)).any(axis=1)) for p in parts)
    part, encoder = train.budget(budget, subset), Level(5).eval()
    values, patients = trait_values(part, trait), part.table["patient_id"]
    options = {**OPTIONS["fine_tuning"], "seconds": 1.0, "seed": subset}
    if trait == "sex" and protocol == "probe":
        features = (embed(encoder, c, 1.0) for c in (part, test))
        answers = linear_probe(next(features), values, patients, next(features), seed=subset)
    elif trait == "sex":
        answers = predict(fine_tune(encoder, part, values, **options), test, 1.0)
    elif protocol == "probe":
        answers = slow_ridge(encoder, part, test, values, _splits(patients, subset))
    else:
        middle = values.mean(axis=0)
        spread = np.sqrt(((values - middle) ** 2).mean())
        z = (values - middle) / spread
        model = fine_tune(encoder, part, z, loss=F.mse_loss, **options)
        answers = middle + spread * over_windows(model, test, 1.0).numpy()
    return trait_values(test, trait), answers, test


def slow_ridge(encoder, part, test, values, splits):
    """By the normal equations, in standardised features."""
    x, z = (embed(encoder, c, 1.0).numpy().astype(float) for c in (part, test))
    z, x = (z - x.mean(axis=0)) / x.std(axis=0), (x - x.mean(axis=0)) / x.std(axis=0)

    def fitted(kept, penalty, asked):
        mean, middle = x[kept].mean(axis=0), values[kept].mean(axis=0)
        gram = (x[kept] - mean).T @ (x[kept] - mean) + penalty * len(x) * np.eye(12)
        weights = np.linalg.solve(gram, (x[kept] - mean).T @ (values[kept] - middle))
        return middle + (asked - mean) @ weights

    errors = [
        sum(((fitted(kept, p, x[~kept]) - values[~kept]) ** 2).mean() for kept in splits)
        for p in RIDGE
    ]
    return fitted(np.ones(len(x), bool), RIDGE[int(np.argmin(errors))], z)


@pytest.mark.parametrize("protocol", ["probe", "fine-tuned"])
@pytest.mark.parametrize("trait", TRAITS)
def test_a_cell_is_what_training_and_testing_by_hand_give(cohort, table, trait, protocol):
    values, answers, test = by_hand(cohort, trait, protocol, 0.1, 1)
    cells = cells_of(table.read()).query(f"statement == '{trait}' and protocol == '{protocol}'")
    cells = cells.query("method == 'other' and budget == 0.1 and subset == 1").set_index("metric")
    counts = patient_weights(test.table["patient_id"])[3].astype(int)
    drawn = np.repeat(np.arange(len(test)), counts)
    resampled = slow_scores(trait, values[drawn], answers[drawn])
    for metric, value in slow_scores(trait, values, answers).items():
        row = cells.loc[metric]
        sample = table.samples()[f"{row['config']}:{metric}"]
        assert row["value"] == pytest.approx(value, rel=1e-4, abs=1e-4)
        assert sample[3] == pytest.approx(resampled[metric], rel=1e-4, abs=1e-4)
        assert [row["low"], row["high"]] == pytest.approx(interval(sample), rel=1e-4, abs=1e-4)


def test_what_stands_in_the_records_is_found(cohort, table):
    cells = cells_of(table.read()).query("budget == 1 and protocol == 'probe'")
    found = cells.groupby(["statement", "metric"])["value"].mean()
    chance = by_chance(cohort.split()[0], cohort.split()[2])
    assert found["age", "r2"] > 0.7 and found["sex", "auc"] > 0.9
    for trait in ("age", "axis", "turn"):
        assert found[trait, "mae"] < 0.5 * chance.loc[trait, "mae"]


def test_the_summary_is_that_of_a_slow_recomputation(table):
    frame, samples = table.read(), table.samples()
    cells = cells_of(frame)

    def mean(method, protocol, row, metric):
        one = cells[(cells["method"] == method) & (cells["protocol"] == protocol)]
        one = one[(one["statement"] == row.statement) & (one["metric"] == metric)]
        one = one[one["budget"] == row.budget]
        n = len(one)
        assert n == OPTIONS["subsets"][row.budget]
        subsets = np.random.default_rng(2).multinomial(n, [1 / n] * n, 1000).T / n
        total = sum(subsets[int(c.subset)] * samples[f"{c.config}:{metric}"]
                    for c in one.itertuples())  # fmt: skip
        return one["value"].mean(), total

    rows = frame[frame["seed"] == "all"]
    for row in rows.itertuples():
        metric, _, kind = row.metric.partition("_")
        value, sampled = mean(row.method, row.protocol, row, metric)
        if kind:
            other = {"gain": "fine-tuned", "over_random": row.protocol}[kind]
            other_value, other_sampled = mean("random", other, row, metric)
            sign = -1 if metric == "mae" else 1  # a smaller error is a gain
            value, sampled = sign * (value - other_value), sign * (sampled - other_sampled)
        expected = [value, *np.nanquantile(sampled, [0.025, 0.975])]
        assert [row.value, row.low, row.high] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    # per metric of a trait and budget: 4 means, 2 gains, 2 over random
    assert len(rows) == 5 * 2 * (4 + 2 + 2)


def test_the_summary_needs_no_cohort(table):
    before = table.read()
    table.replace_summary(summarise(Table(table.path), over=OVER))
    pd.testing.assert_frame_equal(before, table.read())


def test_a_grid_goes_on_where_it_was_killed(cohort, tmp_path, monkeypatch):
    options = OPTIONS | {"which": ("age", "sex")}
    whole = traits(entrants(["random"]), cohort, tmp_path / "whole.csv", **options)
    calls, plain = [], module.fine_tune

    def dies(*arguments, **others):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*arguments, **others)

    monkeypatch.setattr(module, "fine_tune", dies)
    with pytest.raises(KeyboardInterrupt):
        traits(entrants(["random"]), cohort, tmp_path / "t.csv", **options)
    resumed = traits(entrants(["random"]), cohort, tmp_path / "t.csv", **options)
    assert len(calls) == 6 + 1  # the one that died is done again, and no other
    pd.testing.assert_frame_equal(whole, resumed)
    traits(entrants(["random"]), cohort, tmp_path / "t.csv", **options)
    assert len(calls) == 7


def test_a_cell_does_not_depend_on_what_else_is_asked(cohort, table, tmp_path):
    one = {**OPTIONS, "budgets": (1.0,)}
    frame = traits(entrants(["other"]), cohort, tmp_path / "t.csv", which=["axis"], **one)
    there = cells_of(table.read()).set_index("config")
    cells = cells_of(frame).set_index("config")
    assert len(cells) == 2
    pd.testing.assert_frame_equal(cells, there.loc[cells.index], check_dtype=False)


def test_without_a_choice_all_traits_that_the_table_has(cohort, tmp_path):
    real = changed(cohort, axis=None, turn_x=None)
    frame = traits(entrants(["random"]), real, tmp_path / "t.csv", **OPTIONS | {"budgets": (1.0,)})
    assert set(frame["statement"]) == {"age", "sex"}


# --- chance, and what is refused --------------------------------------------------------------


def test_by_chance():
    def of(ages, axes):
        n = len(ages)
        table = pd.DataFrame({"record_id": range(n), "patient_id": range(n), "fold": 1,
                              "age": ages, "axis": axes})  # fmt: skip
        table["sex"] = ["female", "male"] * (n // 2)
        return Cohort(np.zeros((n, 12, 10), np.int16), table, None, 100, "chance")

    found = by_chance(of([20.0, 40, 30, 300], [350, 10, 350, 10]), of([30.0, 60], [20, -30]))
    assert list(found.index) == ["age", "sex", "axis"]
    assert found.loc["age"].to_list()[:2] == pytest.approx([15, 1 - (0 + 900) / (2 * 225)])
    assert found.loc["axis", "mae"] == pytest.approx(25)  # mean direction 0, not 180
    assert found.loc["sex", "auc"] == 0.5
    assert found.notna().sum().to_dict() == {"mae": 2, "r2": 1, "auc": 1}


def test_traits_that_cannot_be_learned_are_refused(cohort, tmp_path):
    def fill(cohort, **options):
        return traits([], cohort, tmp_path / "t.csv", seconds=1.0, **options)

    with pytest.raises(ValueError, match="'changed' lacks axis: its table .* to learn axis; found"):
        fill(changed(cohort, axis=None), which=["axis"])
    with pytest.raises(ValueError, match="lacks turn_y"):
        fill(changed(cohort, turn_y=None), which=["age", "turn"])
    with pytest.raises(ValueError, match="sex in the training folds .* always .'male'.; expected"):
        fill(changed(cohort, sex="male"))
    with pytest.raises(ValueError, match="age in the test fold .* 23 of 23 .* always .50.0."):
        fill(changed(cohort, age=cohort.table["age"].where(cohort.table["fold"] < 9, 50.0)))
    with pytest.raises(ValueError, match="0 of 194 records have a value, none usable"):
        fill(changed(cohort, age=300.0), which=["age"])
    with pytest.raises(ValueError, match="trait 'height': expected one of age, sex, axis, turn"):
        fill(cohort, which=["height"])
    nothing = changed(cohort, **dict.fromkeys(("age", "sex", "axis", "turn_x")))
    with pytest.raises(ValueError, match="'changed' has no trait: .* age, sex, axis, turn_x"):
        fill(nothing)
    with pytest.raises(ValueError, match="part is 'train'"):
        fill(cohort, part="train")
    with pytest.raises(ValueError, match=r"subsets has no number for the budgets \[0.3\]"):
        fill(cohort, budgets=(0.3,))
    assert SUBSETS == {0.1: 3, 1.0: 1}


# --- end to end -------------------------------------------------------------------------------


def test_simulated_records_end_to_end(tmp_path):
    cohort = open_cohort("simulated", n_patients=100, seconds=5)
    frame = traits(
        [Entrant("random", 0, "r", SingleLeadCNN)], cohort, tmp_path / "t.csv", seconds=2.5,
        overlap=0.5, budgets=(1.0,), part="validation", progress=False,
        fine_tuning={"min_steps": 3, "epochs": 1, "batch_size": 8},
    )  # fmt: skip
    cells = cells_of(frame)
    assert len(cells) == 2 * 5 and set(cells["statement"]) == set(TRAITS)
    assert np.isfinite(cells[["value", "low", "high"]]).all(axis=None)
    assert (cells["low"] <= cells["high"]).all()
