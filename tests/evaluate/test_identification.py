import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecgtutorial import encoders
from ecgtutorial.cohort import Cohort, open_cohort
from ecgtutorial.evaluate import identification as module
from ecgtutorial.evaluate.identification import (
    ArcFace,
    equal_error_rate,
    identification,
    identify,
    split,
    split_segments,
    top_k,
    train_identity,
)
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.metrics import patient_weights
from ecgtutorial.runs import Table


class Levels(nn.Module):
    """Mean voltage of each lead, times a weight: who has which offsets can be told apart."""

    width = 12

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.rand(12, generator=generator))

    def forward(self, signals):
        return signals.mean(dim=2) * self.weight


def people(recordings, n_samples=400, fs=100, noise=300):
    """A cohort of patients with the given numbers of recordings, each with offsets of its own."""
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(len(recordings)), recordings)
    offsets = generator.normal(0, 300, (len(recordings), 12))
    day = generator.normal(0, noise, (len(patient), 12, 1))  # a recording's own
    signals = offsets[patient][:, :, None] + day + generator.normal(0, 50, (1, 1, n_samples))
    table = pd.DataFrame({
        "record_id": [f"r{i}" for i in range(len(patient))], "patient_id": patient,
        "fold": patient % 10 + 1,
    })  # fmt: skip
    order = generator.permutation(len(patient))
    table = table.iloc[order].reset_index(drop=True)
    return Cohort(signals[order].astype(np.int16), table, None, fs, "people")


@pytest.fixture(scope="module")
def cohort():
    """Twenty patients with two or three recordings, forty with one."""
    return people([2, 1, 1] * 18 + [3, 1, 1] * 2)


# --- who is tested ----------------------------------------------------------------------------


def test_nobody_is_both_tested_and_trained_on(cohort):
    training, pairs = split(cohort)
    patients = cohort.table["patient_id"]
    counts = patients.value_counts()
    assert set(pairs["patient_id"]) == set(counts.index[counts > 1]) and len(pairs) == 20
    assert not set(training.table["patient_id"]) & set(pairs["patient_id"])
    assert (training.table["fold"] <= 8).all()
    once = patients.map(counts) == 1
    assert len(training) == (once & (cohort.table["fold"] <= 8)).sum()


def test_gallery_and_probe_are_two_recordings_of_one_patient(cohort):
    draws = [split(cohort, seed)[1] for seed in (0, 0, 1)]
    for pairs in draws:
        for side in ("gallery", "probe"):
            patients = cohort.table["patient_id"].iloc[pairs[side]].to_numpy()
            assert (patients == pairs["patient_id"]).all()
        assert (pairs["gallery"] != pairs["probe"]).all()
    assert draws[0].equals(draws[1]) and not draws[0].equals(draws[2])


def test_pieces_of_one_recording_are_not_two_recordings(cohort):
    table = cohort.table.copy()
    first = table["patient_id"] == 0
    table.loc[first, "record_id"] = "one"
    pieces = Cohort(cohort.signals, table, None, 100, "pieces")
    training, pairs = split(pieces)
    assert 0 not in set(pairs["patient_id"]) and 0 in set(training.table["patient_id"])


@pytest.mark.parametrize(
    "recordings, message",
    [
        ([1] * 10, "0 of 10 patients have two recordings"),
        ([2], "1 of 1 patients"),
        ([3, 1, 1], "1 of 3 patients have two"),
        ([2, 2, 2], "nobody to train on"),
    ],
)
def test_a_cohort_that_cannot_be_tested_is_refused(recordings, message):
    with pytest.raises(ValueError, match=message):
        split(people(recordings))


def test_patients_must_be_known(cohort):
    table = cohort.table
    without = Cohort(cohort.signals, table.drop(columns="patient_id"), None, 100, "anonymous")
    with pytest.raises(ValueError, match="'anonymous'.*'patient_id'.*found record_id, fold"):
        split(without)
    holes = table.assign(patient_id=table["patient_id"].where(table.index > 2))
    with pytest.raises(ValueError, match="3 of 82 recordings have no patient_id"):
        split(Cohort(cohort.signals, holes, None, 100, "holes"))


def test_the_flawed_split_pairs_segments_of_one_recording_and_trains_on_the_rest(cohort):
    segments, training, pairs = split_segments(cohort, 1.0)
    right, right_pairs = split(cohort)
    table = segments.table
    assert len(pairs) == len(right_pairs)  # as many to choose from
    assert set(pairs["patient_id"]) == set(
        cohort.table["record_id"].iloc[right_pairs["gallery"]]
    )  # a recording is somebody
    for side in ("gallery", "probe"):
        assert (table["patient_id"].iloc[pairs[side]].to_numpy() == pairs["patient_id"]).all()
    assert (pairs["gallery"] != pairs["probe"]).all()
    assert set(pairs["patient_id"]) < set(training.table["patient_id"])  # they are trained on
    tested = table["record_id"].iloc[pairs[["gallery", "probe"]].to_numpy().ravel()]
    assert not set(tested) & set(training.table["record_id"])  # but not the same segments
    assert len(training) == 4 * len(right) + 2 * len(pairs)
    source = cohort.table.set_index("record_id").index.get_indexer(table["patient_id"])
    number = table["record_id"].str.split("/").str[1].astype(int)
    for row in (0, 7, len(table) - 1):
        start = 100 * number[row]
        expected = cohort.signals[source[row], :, start : start + 100]
        np.testing.assert_array_equal(segments.signals[row], expected)
    with pytest.raises(ValueError, match="seconds is 2.5: expected at most half .* 2.0 s"):
        split_segments(cohort, 2.5)


# --- training ---------------------------------------------------------------------------------


def unit(angle):
    return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


def head(scale, margin, centres):
    made = ArcFace(2, len(centres), scale, margin).double()
    made.centres.data = torch.cat([3.0 * centre for centre in centres])  # lengths do not count
    return made


def test_arcface_adds_the_margin_to_the_true_angle():
    for theta in (0.3, 1.0, 1.9):
        made = head(10.0, 0.5, [unit(0.0), unit(2.5)])
        logits = made.logits(2.0 * unit(theta), torch.tensor([0]))
        expected = [10 * math.cos(theta + 0.5), 10 * math.cos(2.5 - theta)]
        np.testing.assert_allclose(logits[0].detach(), expected, atol=1e-9)
        loss = made(unit(theta), torch.tensor([0])).item()
        assert np.isclose(loss, math.log1p(math.exp(expected[1] - expected[0])))


def test_without_margin_it_is_cross_entropy_of_scaled_cosines():
    generator = torch.Generator().manual_seed(0)
    embeddings, made = torch.randn(8, 5, generator=generator), ArcFace(5, 4, 7.0, 0.0)
    identities = torch.arange(8) % 4
    cosine = F.cosine_similarity(embeddings[:, None], made.centres[None], dim=2)
    expected = F.cross_entropy(7 * cosine, identities)
    torch.testing.assert_close(made(embeddings, identities), expected)


def test_the_true_logit_falls_all_the_way_to_pi():
    made = head(1.0, 1.0, [unit(0.0)])
    angles = np.linspace(0.01, math.pi, 400)
    logits = [made.logits(unit(a), torch.tensor([0])).item() for a in angles]
    assert (np.diff(logits) < 0).all()
    assert np.abs(np.diff(logits)).max() < 0.02  # without a jump where theta + m passes pi
    assert np.isclose(logits[-1], -2 + math.cos(1), atol=1e-3)


def test_gradients_are_finite_where_the_cosine_is_plus_or_minus_one():
    for sign in (1.0, -1.0):
        made = ArcFace(3, 2)
        embeddings = (sign * made.centres.detach()).requires_grad_()
        made(embeddings, torch.arange(2)).backward()
        assert torch.isfinite(embeddings.grad).all() and torch.isfinite(made.centres.grad).all()


def test_arcface_refuses_settings_without_sense():
    for scale, margin in ((0.0, 0.5), (30.0, -0.1), (30.0, 3.2)):
        with pytest.raises(ValueError, match=f"scale is {scale}, margin {margin}"):
            ArcFace(2, 2, scale, margin)


def test_training_leaves_the_encoder_and_the_random_numbers_alone(cohort):
    encoder, training = Levels(), split(cohort)[0]
    before, state = encoder.weight.clone(), torch.random.get_rng_state()
    options = {"seconds": 1.0, "steps": 5, "batch_size": 8}
    trained = [train_identity(encoder, training, seed=s, **options) for s in (0, 0, 1)]
    assert torch.equal(encoder.weight, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(trained[0].weight, before) and not trained[0].training
    assert torch.equal(trained[0].weight, trained[1].weight)
    assert not torch.equal(trained[0].weight, trained[2].weight)


def test_one_patient_is_nobody_to_tell_apart():
    with pytest.raises(ValueError, match="'people' has one patient"):
        train_identity(Levels(), people([3]), seconds=1.0)
    with pytest.raises(ValueError, match="crops of 500 samples do not fit 400"):
        train_identity(Levels(), people([1, 1]), seconds=5.0)


def test_it_learns_to_recognise_patients_it_has_never_seen():
    cohort = open_cohort(
        "simulated", n_patients=150, seed=3, seconds=5, records_per_patient=(0.7, 0.3)
    )
    training, pairs = split(cohort)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = encoders.build("xresnet1d50-small", fs=100)
    options = {"steps": 60, "batch_size": 32, "scale": 30.0, "margin": 0.5}  # gentle
    trained = train_identity(encoder, training, seconds=2.5, **options)
    found = {}
    for name, one in (("untrained", encoder), ("trained", trained)):
        similarity = identify(one, cohort, pairs["gallery"], pairs["probe"], seconds=2.5)
        found[name] = top_k(similarity).mean(), equal_error_rate(similarity)
    assert found["trained"][0] > 10 / len(pairs)  # ten times chance
    assert found["trained"][0] > found["untrained"][0]
    assert found["trained"][1] < 0.25


# --- matching ---------------------------------------------------------------------------------


def test_similarity_is_the_cosine_of_mean_embeddings(cohort):
    _, pairs = split(cohort)
    encoder = Levels()
    found = identify(encoder, cohort, pairs["gallery"], pairs["probe"], seconds=1.0)
    assert found.shape == (20, 20)
    with torch.no_grad():  # windows tile the record: the mean over them is that of the whole
        whole = encoder(torch.from_numpy(cohort.millivolts())).numpy()
    for i, j in ((0, 0), (3, 11)):
        a, b = whole[pairs["probe"][i]], whole[pairs["gallery"][j]]
        assert np.isclose(found[i, j], a @ b / np.linalg.norm(a) / np.linalg.norm(b), atol=1e-5)


def test_the_same_recording_on_both_sides_is_found_and_equal_ones_tie(cohort):
    rows = np.arange(30)
    similarity = identify(Levels(), cohort, rows, rows, seconds=1.0)
    assert top_k(similarity).all() and equal_error_rate(similarity) == 0
    same = np.zeros(30, int)
    assert not top_k(identify(Levels(), cohort, same, same, seconds=1.0)).any()


def test_top_k_by_hand():
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.7, 0.8, 0.6]])
    assert top_k(similarity).tolist() == [True, False, False]
    assert top_k(similarity, 2).tolist() == [True, True, False]
    assert top_k(similarity, 3).all()


def test_alike_is_not_recognised():
    assert not top_k(np.ones((6, 6)), 5).any()
    similarity = np.eye(4)
    similarity[0, 2] = 1
    assert top_k(similarity).tolist() == [False, True, True, True]
    assert top_k(similarity, 2).all()


def test_chance_and_perfection():
    similarity = np.random.default_rng(0).normal(size=(1500, 1500))
    hits = top_k(similarity, 30).mean()
    assert abs(hits - 30 / 1500) < 4 * math.sqrt(0.02 / 1500)
    assert abs(equal_error_rate(similarity) - 0.5) < 0.03
    assert top_k(np.eye(9)).all() and equal_error_rate(np.eye(9)) == 0
    assert equal_error_rate(-np.eye(9)) == 1
    assert equal_error_rate(np.ones((9, 9))) == 0.5


def test_equal_error_rate_by_hand():
    # Genuine 0.9 and 0.3; impostors 0.5 and 0.1: between 0.3 and 0.5 both rates are one half.
    assert equal_error_rate([[0.9, 0.5], [0.1, 0.3]]) == 0.5
    # Genuine 0.9, 0.8, 0.3; one impostor of six passes at 0.5, a third of the genuine is refused
    # until 0.3: accepted rises from 1/6 to 2/6 at 0.4, where the rates meet.
    similarity = np.array([[0.9, 0.5, 0.1], [0.4, 0.8, 0.1], [0.1, 0.1, 0.3]])
    assert np.isclose(equal_error_rate(similarity), 1 / 3)
    # All pairs at one level but one of two genuine: from (0, 1/2) straight to (1, 0).
    assert np.isclose(equal_error_rate([[0.9, 0.5], [0.5, 0.5]]), 1 / 3)


def slow_equal_error_rate(genuine, impostors):
    """Both rates at every threshold, and where the line between two neighbours crosses."""
    before = (0.0, 1.0)
    for threshold in sorted({*genuine, *impostors}, reverse=True):
        now = np.mean(np.array(impostors) >= threshold), np.mean(np.array(genuine) < threshold)
        if now[0] >= now[1]:
            a, b = before[0] - before[1], now[0] - now[1]
            return before[0] + (now[0] - before[0]) * -a / (b - a)
        before = now


@pytest.mark.parametrize("decimals", [1, 9])  # with many ties, and with none
def test_resamples_equal_the_slow_version_with_copied_patients(decimals):
    generator = np.random.default_rng(1)
    similarity = (generator.normal(size=(12, 12)) + np.eye(12)).round(decimals)
    counts = patient_weights(np.arange(12), 20)
    found = equal_error_rate(similarity, counts)
    for weight, value in zip(counts.astype(int), found):
        drawn = np.repeat(np.arange(12), weight)
        genuine = [similarity[i, i] for i in drawn]
        impostors = [similarity[i, j] for i in drawn for j in drawn if i != j]
        assert np.isclose(value, slow_equal_error_rate(genuine, impostors))
    assert np.isclose(
        equal_error_rate(similarity, np.ones((1, 12)))[0], equal_error_rate(similarity)
    )


def test_the_order_of_patients_does_not_matter():
    generator = np.random.default_rng(2)
    similarity = generator.normal(size=(40, 40)) + 2 * np.eye(40)
    order = generator.permutation(40)
    turned = similarity[np.ix_(order, order)]
    np.testing.assert_array_equal(top_k(turned, 5), top_k(similarity, 5)[order])
    assert np.isclose(equal_error_rate(turned), equal_error_rate(similarity))
    grown = np.exp(3 * similarity)  # nor does any rising scale of similarity
    assert np.isclose(equal_error_rate(grown), equal_error_rate(similarity))
    np.testing.assert_array_equal(top_k(grown, 5), top_k(similarity, 5))


def test_a_resample_of_one_patient_has_no_impostor():
    found = equal_error_rate(np.eye(3), np.array([[3, 0, 0], [2, 1, 0]]))
    assert np.isnan(found[0]) and found[1] == 0


def test_what_is_no_similarity_is_refused():
    for metric in (top_k, equal_error_rate):
        with pytest.raises(ValueError, match=r"shape \(3, 4\): expected \(patient, patient\)"):
            metric(np.zeros((3, 4)))
        with pytest.raises(ValueError, match="1 of 3 probes hold NaN"):
            metric(np.where(np.arange(9).reshape(3, 3) == 4, np.nan, 0))
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.eye(3), 0)
    with pytest.raises(ValueError, match=r"counts has shape \(3,\): expected \(resample, 3\)"):
        equal_error_rate(np.eye(3), np.ones(3))


# --- the experiment ---------------------------------------------------------------------------


def entrants():
    both = module.PROTOCOLS
    return [
        Entrant("random", 0, "r0", Levels, both),
        Entrant("other", 0, "o0", lambda: Levels(1), both),
        Entrant("other", 1, "o1", lambda: Levels(2), both, {"lr": 0.01}),
    ]


OPTIONS = {
    "seconds": 1.0, "progress": False, "lead_sets": (12, 1), "n_resamples": 30,
    "training": {"steps": 20, "batch_size": 16}, "over": {"random": {"other": "random"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def frame(cohort, tmp_path_factory):
    return identification(entrants(), cohort, tmp_path_factory.mktemp("id") / "t.csv", **OPTIONS)


def test_a_cell_has_a_row_a_metric(frame):
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 3 * 2 * 2 * 3 and cells["config"].nunique() == 3 * 2 * 2
    assert set(cells["metric"]) == {"top1", "top5", "equal_error_rate"}
    assert (cells["task"] == "identification").all()
    assert (cells["n_patients"] == 20).all() and (cells["n_records"] == 40).all()
    assert cells["value"].between(0, 1).all()
    assert (cells["low"] <= cells["high"]).all()
    wide = cells.pivot(index="config", columns="metric", values="value")
    assert (wide["top1"] <= wide["top5"]).all()
    # Offsets of twelve leads tell twenty patients apart, the sign of one lead cannot.
    top1 = cells[cells["metric"] == "top1"].groupby(["protocol", "leads"])["value"].mean()
    assert top1["untrained", 12] > 0.4 and top1["untrained", 1] < 0.2


def test_the_summary_is_a_mean_over_seeds_with_paired_differences(frame):
    cells, summary = frame[frame["seed"] != "all"], frame[frame["seed"] == "all"]
    summary = summary.set_index(["metric", "method", "protocol", "leads"])
    assert summary.index.is_unique
    for (metric, method, protocol, size), group in cells.groupby(
        ["metric", "method", "protocol", "leads"]
    ):
        row = summary.loc[metric, method, protocol, size]
        assert np.isclose(row["value"], group["value"].mean(), atol=1e-5)
        if method == "other":
            over = summary.loc[f"{metric}_over_random", method, protocol, size]
            base = summary.loc[metric, "random", protocol, size]["value"]
            assert np.isclose(over["value"], row["value"] - base, atol=1e-5)
            assert over["low"] <= over["high"]


def test_a_cell_equals_its_parts_and_its_bootstrap_is_kept(cohort, frame, tmp_path):
    training, pairs = split(cohort)
    trained = train_identity(Levels(), training, seconds=1.0, steps=20, batch_size=16, seed=0)
    similarity = identify(trained, cohort, pairs["gallery"], pairs["probe"], seconds=1.0)
    one = frame[(frame["method"] == "random") & (frame["seed"] == "0") & (frame["leads"] == 12)]
    one = one[one["protocol"] == "fine-tuned"].set_index("metric")["value"]
    assert np.isclose(one["top1"], top_k(similarity).mean(), atol=1e-5)
    assert np.isclose(one["equal_error_rate"], equal_error_rate(similarity), atol=1e-5)

    table = Table(tmp_path / "t.csv")
    again = identification(entrants()[:1], cohort, table, **OPTIONS)
    cells = again[again["seed"] != "all"]
    samples = table.samples()
    assert set(samples) == set(cells["config"] + ":" + cells["metric"]) and not table.ranks()
    assert all(len(values) == 30 for values in samples.values())


def test_what_stands_in_the_table_is_not_computed_again(cohort, tmp_path, monkeypatch):
    trained = []

    def spy(*arguments, **options):
        trained.append(options)
        return train_identity(*arguments, **options)

    monkeypatch.setattr(module, "train_identity", spy)
    path = tmp_path / "t.csv"
    first = identification(entrants(), cohort, path, **OPTIONS)
    assert len(trained) == 3 * 2
    assert [o["lr"] for o in trained if "lr" in o] == [0.01] * 2  # an entrant's own
    pd.testing.assert_frame_equal(identification(entrants(), cohort, path, **OPTIONS), first)
    assert len(trained) == 6
    identification(entrants(), cohort, path, **OPTIONS | {"training": {"steps": 2}})
    assert len(trained) == 12  # other settings are other cells; untrained ones stay
    cells = pd.read_csv(path).query("seed != 'all'")
    assert cells.groupby("protocol")["config"].nunique().to_dict() == {
        "fine-tuned": 12, "untrained": 6,
    }  # fmt: skip


def test_the_flawed_setting_is_another_task_and_flatters(cohort, frame, tmp_path):
    flawed = identification(
        entrants(), cohort, tmp_path / "t.csv", by_segment=True, **OPTIONS
    ).query("seed == 'all' and metric == 'top1' and method == 'other' and leads == 12")
    right = frame.query("seed == 'all' and metric == 'top1' and method == 'other' and leads == 12")
    assert (flawed["task"] == "identification by segment").all()
    assert (flawed["n_patients"] == 20).all()
    assert flawed["value"].min() > right["value"].max() + 0.1  # the day's offset gives it away


def test_settings_that_do_not_exist_are_refused(cohort, tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(ValueError, match=r"lead_sets holds \[4\]"):
        identification([], cohort, path, **OPTIONS | {"lead_sets": (12, 4)})
    with pytest.raises(ValueError, match="'random' has protocol 'probe'"):
        identification([Entrant("random", 0, "r", Levels)], cohort, path, **OPTIONS)


def test_the_median_beat_knows_a_shape_whatever_its_size_and_place():
    cohort = open_cohort("simulated", n_patients=40, seed=0, fs=100)
    signals = torch.from_numpy(cohort.millivolts(slice(0, 4)))  # (record, lead, time)
    encoder = module.MedianBeat(100)
    beats = encoder(signals)
    assert beats.shape == (4, encoder.width)
    assert torch.allclose(beats.mean(dim=1), torch.zeros(4), atol=1e-6)
    louder = encoder(2 * signals)
    assert torch.allclose(F.cosine_similarity(beats, louder), torch.ones(4), atol=1e-4)
    assert not encoder(torch.zeros(1, 12, 250)).any()  # no beat, no opinion
