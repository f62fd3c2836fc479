import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecgtutorial import encoders
from ecgtutorial.cohort import Cohort, open_cohort
from ecgtutorial.datasets.challenge import CLASSES, NORMAL, WEIGHTS
from ecgtutorial.evaluate import any_lead as experiment
from ecgtutorial.evaluate import noise
from ecgtutorial.evaluate.any_lead import any_lead, padded, segments, summarise
from ecgtutorial.evaluate.finetune import fine_tune, predict
from ecgtutorial.evaluate.label_efficiency import Entrant, _prepare, scored_classes
from ecgtutorial.evaluate.probe import linear_probe
from ecgtutorial.evaluate.windows import embed
from ecgtutorial.leads import LEADS, SUBSETS
from ecgtutorial.metrics import class_auc, interval, patient_weights
from ecgtutorial.runs import Table


class Spectrum(nn.Module):
    """Loudness at 1, 2, 3 ... 12 Hz of every lead, each lead with a weight of its own."""

    width = 144

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(12, 1, generator=generator))

    def forward(self, signals):
        return torch.fft.rfft(self.weight * signals)[:, :, 1:13].abs().flatten(1) / 20


def tones(present, loudness, rng):
    """µV (record, lead, time): where `present`, (record,), a tone of so many Hz in some leads."""
    time = np.arange(200) / 100
    signals = rng.normal(0, 250, (len(next(iter(present.values()))), 12, 200))
    for (name, hertz), leads in loudness.items():
        phase = rng.uniform(0, 6, (len(signals), 1))
        wave = 110 * present[name][:, None] * np.sin(2 * np.pi * hertz * time + phase)
        signals[:, [LEADS.index(lead) for lead in leads]] += wave[:, None]
    return signals.round().astype(np.int16)


@pytest.fixture(scope="module")
def cohort():
    """Fibrillation sounds in lead I, tachycardia in V5, and two records in five patients."""
    rng = np.random.default_rng(0)
    person = np.minimum(np.arange(240), 234)
    present = {name: (rng.random(240) < 0.4).astype(np.uint8) for name in ("AFIB", "STACH")}
    signals = tones(present, {("AFIB", 7): ["I", "II"], ("STACH", 3): ["V5"]}, rng)
    table = pd.DataFrame(
        {"record_id": np.arange(240), "patient_id": person, "fold": person % 10 + 1, "axis": 0.0}
    )
    labels = pd.DataFrame(present)
    labels["SR"] = ((labels["AFIB"] == 0) & (labels["STACH"] == 0)).astype(np.uint8)
    labels["AFLT"] = (np.arange(240) == 9).astype(np.uint8)  # one record, in the test fold
    return Cohort(signals, table, labels, 100, "tones")


OPTIONS = {
    "seconds": 1.0, "progress": False, "lead_sets": (12, 2),
    "fine_tuning": {"min_steps": 30, "epochs": 1, "batch_size": 16, "head_lr": 0.05},
}  # fmt: skip


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
    table = Table(tmp_path_factory.mktemp("any") / "any-lead.csv")
    over = {"random": {"twin": "random", "other": "random"}}
    any_lead(entrants(), cohort, table, over=over, **OPTIONS)
    return table


def cells_of(frame):
    return frame[frame["seed"] != "all"]


def summary_of(frame, metric):
    rows = frame[(frame["seed"] == "all") & (frame["metric"] == metric)]
    rows = rows.set_index(["method", "protocol", "leads"])
    assert rows.index.is_unique
    return rows


# --- zero-padding -----------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [6, 3, 2, 1, ("V6", "aVR"), ["avl"], np.int64(3)])
def test_padding_keeps_the_leads_it_names_and_nothing_else(cohort, leads):
    before, print_before = cohort.signals.copy(), cohort.fingerprint
    made = padded(cohort, leads)
    names = SUBSETS[int(leads)] if np.ndim(leads) == 0 else leads
    kept = [LEADS.index({n.lower(): n for n in LEADS}[name.lower()]) for name in names]
    gone = [row for row in range(12) if row not in kept]
    assert made.signals.dtype == np.int16 and made.signals.shape == cohort.signals.shape
    np.testing.assert_array_equal(made.signals[:, kept], cohort.signals[:, kept])
    assert len(gone) + len(kept) == 12 and (made.signals[:, gone] == 0).all()
    assert made.table.equals(cohort.table) and made.labels.equals(cohort.labels)
    assert made.leads == LEADS and made.fs == 100
    assert made.name == "tones, leads " + " ".join(LEADS[row] for row in sorted(kept))
    np.testing.assert_array_equal(cohort.signals, before)
    assert not np.shares_memory(made.signals, cohort.signals)
    assert made.fingerprint != print_before == cohort.fingerprint


def test_all_leads_are_the_cohort_itself(cohort):
    assert padded(cohort, 12) is cohort and padded(cohort, LEADS[::-1]) is cohort
    part = cohort.select([3, 1])
    np.testing.assert_array_equal(padded(part, 1).signals[:, 0], cohort.signals[[3, 1], 0])


@pytest.mark.parametrize(
    "leads, message",
    [
        (4, "leads is 4: expected a size among"),
        (0, "leads is 0: expected a size among"),
        ("V1", "leads is 'V1': expected a sequence of lead names"),
        ((), "expected a sequence of lead names"),
        (("I", "V7"), "unknown lead 'V7': expected one of I, II"),
    ],
)
def test_lead_sets_that_do_not_exist_are_refused(cohort, leads, message):
    with pytest.raises(ValueError, match=message):
        padded(cohort, leads)


def test_a_lead_that_the_cohort_has_not_is_refused(cohort):
    one = cohort.select([0, 1])
    few = Cohort(one.signals[:, :2], one.table, one.labels, 100, "few", LEADS[:2])
    assert padded(few, 2) is few
    with pytest.raises(ValueError, match=r"leads \['V2'\] are not in cohort 'few': it has I, II"):
        padded(few, 3)


# --- the grid ---------------------------------------------------------------------------------


def test_two_rows_a_cell(cohort, table):
    cells = cells_of(table.read())
    assert len(cells) == 2 * (3 * 2 * 2 * 2)  # metrics x methods x seeds x protocols x lead sets
    assert set(cells.groupby("config")["metric"].apply(frozenset)) == {
        frozenset({"macro_auc", "challenge_score"})
    }
    assert cells["config"].nunique() == 24 and (cells["budget"] == 1).all()
    train = cohort.split()[0]
    assert set(cells["n_records"]) == {len(train)} and set(cells["task"]) == {"challenge"}
    assert set(cells["n_patients"]) == {train.table["patient_id"].nunique()}
    assert {v.shape for v in table.samples().values()} == {(1000,)} and not table.ranks()
    assert len(table.samples()) == len(cells)


def slow_score(target, predicted):
    """The Challenge score, record by record and pair by pair."""

    def total(answers):
        value = 0.0
        for true, given in zip(target, answers):
            either = max(1, sum(1 for t, g in zip(true, given) if t or g))
            for i in np.flatnonzero(true):
                for j in np.flatnonzero(given):
                    value += WEIGHTS[i][j] / either
        return value

    inactive = np.zeros_like(target)
    inactive[:, NORMAL] = 1
    idle = total(inactive)
    return (total(predicted) - idle) / (total(target) - idle)


@pytest.mark.parametrize("protocol", ["probe", "fine-tuned"])
def test_a_cell_is_what_training_and_testing_by_hand_give(cohort, table, protocol):
    train, _, test = cohort.split()
    short, short_test = padded(train, 2), padded(test, 2)
    classes, encoder = ["AF", "NSR", "STach"], Spectrum(5).eval()
    columns = [CLASSES.index(name) for name in classes]
    labels = train.targets("challenge")[classes].to_numpy()
    if protocol == "probe":
        features, test_features = (embed(encoder, part, 1.0) for part in (short, short_test))
        logits = linear_probe(features, labels, train.table["patient_id"], test_features)
        scores = torch.sigmoid(torch.from_numpy(logits)).numpy()
    else:
        options = OPTIONS["fine_tuning"]
        model = fine_tune(encoder, short, labels, seconds=1.0, **options)
        scores = predict(model, short_test, 1.0)
    target = test.targets("challenge").to_numpy().astype(int)
    predicted = np.zeros_like(target)
    predicted[:, columns] = scores > 0.5
    assert target[:, CLASSES.index("AFL")].sum() == 1  # counts as missed, though never trained
    expected = {
        "macro_auc": np.mean(class_auc(target[:, columns], scores)),
        "challenge_score": slow_score(target, predicted),
    }
    cells = cells_of(table.read())
    cells = cells[(cells["method"] == "other") & (cells["seed"] == "0") & (cells["leads"] == 2)]
    cells = cells[cells["protocol"] == protocol].set_index("metric")
    counts = patient_weights(test.table["patient_id"])[3].astype(int)
    drawn = np.repeat(np.arange(len(test)), counts)
    resampled = {
        "macro_auc": np.mean(class_auc(target[drawn][:, columns], scores[drawn])),
        "challenge_score": slow_score(target[drawn], predicted[drawn]),
    }
    for metric, value in expected.items():
        row = cells.loc[metric]
        sample = table.samples()[f"{row['config']}:{metric}"]
        assert np.isclose(row["value"], value, atol=2e-5)
        assert np.isclose(sample[3], resampled[metric], atol=2e-5)
        np.testing.assert_allclose([row["low"], row["high"]], interval(sample), atol=2e-5)


def test_what_is_missing_is_missed(table):
    """Tachycardia sounds in V5 alone: six leads less it cannot be heard."""
    means = summary_of(table.read(), "macro_auc")["value"].unstack("leads")
    assert (means[12] > means[2]).all() and means[12].between(0.7, 0.999).all()
    assert means[2].between(0.5, 0.9).all()


def test_the_summary_is_that_of_a_slow_recomputation(table):
    frame, samples = table.read(), table.samples()
    cells = cells_of(frame)
    draws = np.random.default_rng(1).multinomial(2, [0.5, 0.5], 1000)  # how often each seed counts

    def mean(method, protocol, leads, metric):
        which = cells[(cells["method"] == method) & (cells["protocol"] == protocol)]
        which = which[(which["leads"] == leads) & (which["metric"] == metric)].set_index("seed")
        values = [samples[f"{which['config'][seed]}:{metric}"] for seed in ("0", "1")]
        return which["value"].mean(), (draws[:, 0] * values[0] + draws[:, 1] * values[1]) / 2

    checked = 0
    for metric in ("macro_auc", "challenge_score"):
        for row in frame[frame["seed"] == "all"].itertuples():
            if not row.metric.startswith(metric):
                continue
            value, sampled = mean(row.method, row.protocol, row.leads, metric)
            other = {
                "": None,
                "_gain": ("random", "fine-tuned", row.leads),
                "_over_random": ("random", row.protocol, row.leads),
                "_drop": (row.method, row.protocol, 12),
            }[row.metric.removeprefix(metric)]
            if other:
                other_value, other_sampled = mean(*other, metric)
                sign = -1 if row.metric.endswith("drop") else 1
                value, sampled = sign * (value - other_value), sign * (sampled - other_sampled)
            expected = [value, *np.quantile(sampled, [0.025, 0.975])]
            np.testing.assert_allclose([row.value, row.low, row.high], expected, atol=2e-5)
            checked += 1
    # per metric and lead set: 6 means, 4 gains, 4 over random; and 6 drops at two leads
    assert checked == (frame["seed"] == "all").sum() == 2 * (2 * 14 + 6)


def test_gains_are_paired(table):
    frame = table.read()
    for metric in ("macro_auc", "challenge_score"):
        gain = summary_of(frame, f"{metric}_gain")
        assert set(gain.index.get_level_values("method")) == {"twin", "other"}
        twin = gain.loc["twin", "fine-tuned"][["value", "low", "high"]]
        assert (twin.abs() < 1e-6).all(axis=None)  # the same encoder under another name
        other = gain.loc["other", "fine-tuned"]
        alone = summary_of(frame, metric).loc["other", "fine-tuned"]
        assert ((other["high"] - other["low"]) < (alone["high"] - alone["low"])).all()


def test_each_method_may_have_its_own_reference(table):
    own = {"other": ("twin", "probe"), "twin": ("twin", "probe")}
    rows = pd.DataFrame(summarise(table, reference=own))
    gain = summary_of(rows, "challenge_score_gain")["value"]
    means = summary_of(rows, "challenge_score")["value"]
    assert len(gain) == 2 * (2 + 1)  # no gain of the probe over itself
    for (method, protocol, leads), value in gain.items():
        assert np.isclose(value, means[method, protocol, leads] - means["twin", "probe", leads])


def test_the_summary_needs_no_labels_and_no_records(table):
    before = table.read()
    names = cells_of(before)["config"].unique()
    over = {"random": {"twin": "random", "other": "random"}}
    table.replace_summary(summarise(Table(table.path), names, over=over))
    pd.testing.assert_frame_equal(before, table.read())


def test_only_named_cells_count(table):
    cells = cells_of(table.read())
    names = set(cells[cells["seed"] == "0"]["config"])
    rows = pd.DataFrame(summarise(table, names))
    ones = cells[cells["config"].isin(names)].set_index(["method", "protocol", "leads", "metric"])
    for row in rows[rows["metric"] == "macro_auc"].itertuples():
        value = ones.loc[(row.method, row.protocol, row.leads, row.metric), "value"]
        assert value == row.value


class Killed(Exception):
    pass


def test_a_grid_goes_on_where_it_was_killed(cohort, tmp_path, monkeypatch):
    trained, stored, made = [], [], []
    for name in ("fine_tune", "fit_probe"):
        plain = getattr(noise, name)

        def spy(*arguments, plain=plain, name=name, **options):
            trained.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(noise, name, spy)
    add = Table.add

    def add_or_die(table, rows, scores=None, samples=None, die=True):
        if die and len(stored) == 3:  # one lead set of the fine-tuned is done
            raise Killed
        add(table, rows, scores, samples)
        assert len(rows) == 2 and {row["config"] for row in rows} == {rows[0]["config"]}
        stored.append(rows[0]["config"])

    def make():
        made.append(1)
        return Spectrum()

    one = [Entrant("random", 0, "r", make)]
    whole = any_lead(one, cohort, tmp_path / "whole.csv", **OPTIONS)
    assert trained == ["fit_probe"] * 2 + ["fine_tune"] * 2 and len(made) == 1

    table = Table(tmp_path / "t.csv")
    monkeypatch.setattr(Table, "add", add_or_die)
    with pytest.raises(Killed):
        any_lead(one, cohort, table, **OPTIONS)
    monkeypatch.setattr(Table, "add", lambda *a, **k: add_or_die(*a, **k, die=False))
    trained.clear()
    resumed = any_lead(one, cohort, table, **OPTIONS)
    assert trained == ["fine_tune"] and len(stored) == len(set(stored)) == 4
    pd.testing.assert_frame_equal(whole, resumed)

    trained.clear(), made.clear()
    again = any_lead(one, cohort, table, **OPTIONS)
    assert not trained and not made and len(stored) == 4
    pd.testing.assert_frame_equal(again, resumed)
    any_lead(one, cohort, table, **OPTIONS | {"lead_sets": (12, 3)})
    assert len(stored) == 6  # the cells of three leads are all that is new


def test_another_task_has_no_challenge_score(cohort, tmp_path):
    one = [Entrant("random", 0, "r", Spectrum, ("probe",))]
    frame = any_lead(one, cohort, tmp_path / "t.csv", task="all", **OPTIONS)
    assert set(cells_of(frame)["metric"]) == {"macro_auc"} and set(frame["task"]) == {"all"}


@pytest.mark.parametrize("sets", [(12, 4), ("I",), (("I", "II"),), (["I"],)])
def test_sizes_that_do_not_exist_are_refused_before_training(cohort, tmp_path, sets):
    with pytest.raises(ValueError, match=r"lead_sets holds .*: expected sizes among \[12, 6"):
        any_lead(entrants(), cohort, tmp_path / "t.csv", seconds=1.0, lead_sets=sets)


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="part is 'train'"):
        any_lead([], cohort, tmp_path / "t.csv", seconds=1.0, part="train")


# --- classes that are scored ------------------------------------------------------------------


def test_rare_challenge_classes_are_not_scored(cohort):
    train, validation, test = cohort.split()
    assert scored_classes(train, test, "challenge") == ["AF", "NSR", "STach"]
    assert scored_classes(train, validation, "challenge") == ["AF", "NSR", "STach"]
    assert _prepare(cohort, "challenge", "test", 1.0, 0.0, {})[-1]["minimum"] == 5
    assert "minimum" not in _prepare(cohort, "rhythm", "test", 1.0, 0.0, {})[-1]
    rare = Cohort(cohort.signals, cohort.table, cohort.labels[["AFLT"]], 100, "rare")
    with pytest.raises(ValueError, match="task 'challenge': none of 26"):
        scored_classes(*rare.split()[::2], "challenge")


# --- segments, and the flawed split -----------------------------------------------------------


def test_segments_are_stretches_of_their_records(cohort):
    cut = segments(cohort, 0.6)  # 3 of 60 samples; 20 are left off
    assert cut.signals.shape == (720, 12, 60) and cut.table["record_id"].is_unique
    for row in (0, 1, 2, 400, 719):
        record, number = divmod(row, 3)
        part = cohort.signals[record, :, 60 * number : 60 * (number + 1)]
        np.testing.assert_array_equal(cut.signals[row], part)
        assert cut.table["record_id"][row] == f"{record}/{number}"
        assert cut.table["segment"][row] == number
        assert cut.labels.iloc[row].tolist() == cohort.labels.iloc[record].tolist()
        for column in ("patient_id", "fold"):
            assert cut.table[column][row] == cohort.table[column][record]
    assert sum(map(len, cut.split())) == 720  # no patient is in two parts
    again = segments(cut, 0.6)
    np.testing.assert_array_equal(again.signals, cut.signals)
    with pytest.raises(ValueError, match="segments of 300 samples do not fit records of 200"):
        segments(cohort, 3.0)


def test_the_flawed_split_deals_segments(cohort):
    cut = segments(cohort, 0.5)
    train, test = experiment._dealt(cut, "test")
    validation = experiment._dealt(cut, "validation")[1]
    names = [set(part.table["record_id"]) for part in (train, validation, test)]
    assert list(map(len, names)) == [768, 96, 96] and len(set.union(*names)) == 960
    known = test.table["patient_id"].isin(train.table["patient_id"])
    assert known.mean() > 0.9


def test_the_flawed_split_flatters(tmp_path):
    """Labels by lot: nobody can know them, except of patients met in training."""
    rng = np.random.default_rng(3)
    second = np.sin(2 * np.pi * np.arange(1, 13)[:, None] * np.arange(100) / 100)
    own = rng.normal(0, 100, (120, 12, 12)) @ second  # what every second of a record sounds like
    signals = np.tile(own, (1, 1, 4)) + rng.normal(0, 20, (120, 12, 400))
    number = np.arange(120)
    table = pd.DataFrame({"record_id": number, "patient_id": number, "fold": number % 10 + 1})
    table["axis"] = 0.0
    label = number // 10 % 2 == 0  # as often in each fold
    labels = pd.DataFrame({"SR": label, "AFIB": ~label}, dtype=np.uint8)
    cohort = Cohort(signals.astype(np.int16), table, labels, 100, "lots")
    one = [Entrant("random", 0, "r", Spectrum, ("probe",))]
    options = OPTIONS | {"lead_sets": (12,)}
    cut = segments(cohort, 1.0)
    right = any_lead(one, cut, tmp_path / "right.csv", **options)
    wrong = any_lead(one, cut, tmp_path / "wrong.csv", by_segment=True, **options)
    same = any_lead(one, cohort, tmp_path / "same.csv", by_segment=True, **options)
    right, wrong, same = (cells_of(f).set_index("metric") for f in (right, wrong, same))
    assert right["low"]["macro_auc"] < 0.5 < right["high"]["macro_auc"]
    assert (wrong["low"] > right["value"]).all() and wrong["low"]["macro_auc"] > 0.7
    assert wrong["value"].equals(same["value"])  # records are cut, segments are taken as they are
    assert set(wrong["n_records"]) == {384} and wrong["n_patients"].max() <= 120
    assert not set(wrong["config"]) & set(right["config"])


# --- end to end -------------------------------------------------------------------------------


def test_simulated_records_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr("ecgtutorial.evaluate.label_efficiency.MINIMUM", 2)  # few are in fold 9
    cohort = open_cohort("simulated", n_patients=100, seconds=5)
    make = lambda: encoders.build("xresnet1d50-small")  # noqa: E731
    frame = any_lead(
        [Entrant("random", 0, "r", make)], cohort, tmp_path / "t.csv", seconds=2.5,
        lead_sets=(12, 1), fine_tuning={"min_steps": 3, "epochs": 1, "batch_size": 8},
        part="validation", progress=False,
    )  # fmt: skip
    cells = cells_of(frame)
    assert len(cells) == 2 * 2 * 2 and np.isfinite(cells[["value", "low", "high"]]).all(axis=None)
    assert (cells["low"] <= cells["value"]).all() and (cells["value"] <= cells["high"]).all()
