"""Attempts and the chosen recipe: who meets, how attempts are called, and the teacher."""

import functools

import pytest
import torch

import ecgtutorial as ecg
from ecgtutorial import experiments, runs
from ecgtutorial.evaluate import label_efficiency, recipe
from ecgtutorial.evaluate.label_efficiency import Entrant
from ecgtutorial.experiments import beyond, common


@pytest.fixture(scope="module")
def cohort():
    return ecg.open_cohort("simulated", n_patients=60, seed=0, fs=100)


def test_every_attempt_is_told_and_made(cohort):
    everyone = list(beyond.attempts_entrants(cohort, "full", (0,), progress=False))
    made = {f"{one.method}, {protocol}" for one in everyone for protocol in one.protocols}
    assert made == set(experiments.ATTEMPTS)
    assert len({(one.identity, one.method, one.protocols) for one in everyone}) == len(everyone)
    assert all(len(text) > 20 and text.endswith(".") for text in experiments.ATTEMPTS.values())


def test_the_best_from_scratch_is_the_published_one(cohort):
    """The same hash as in the label efficiency of all methods, so that its cells can be taken."""
    hashes = []
    for entrants in (experiments.all_entrants, experiments.beyond_entrants):
        one = next(e for e in entrants(cohort, "full", (0,), False) if e.method == beyond.BEST)
        options = experiments.all_options("full")
        *_, settings = label_efficiency._prepare(
            cohort, "superclass", "test", options["seconds"], options["overlap"],
            options["fine_tuning"],
        )  # fmt: skip
        hashes.append(label_efficiency._cell_hash(settings, one, "fine-tuned", 0.1, 0))
    assert hashes[0] == hashes[1]


def test_attempts_answer_for_fold_9(cohort, monkeypatch, tmp_path):
    little = {"pretraining": {}, "n_patients": 20}
    monkeypatch.setitem(common.SIMULATED, "quick", little)
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(
        common.SCALES,
        "quick",
        common.SCALES["quick"] | {"fine_tuning": {"epochs": 1, "min_steps": 1, "batch_size": 16}},
    )
    monkeypatch.setitem(beyond.TEACHER, "quick", {"epochs": 1, "batch_size": 10})
    monkeypatch.setitem(beyond.ATTEMPTS_SUBSETS, "quick", {1.0: 1})

    def some(cohort, scale, seeds, progress):
        make = functools.partial(beyond.scratch, 0)
        yield Entrant(beyond.SCRATCH, 0, "xresnet 64", make, ("fine-tuned",))
        make = functools.partial(beyond._reader, scale, (0,), False)
        yield Entrant(beyond.TRUTH, 0, "reader", make, recipe.PROTOCOLS, beyond.CONTINUED)

    monkeypatch.setattr(beyond, "attempts_entrants", some)
    path = tmp_path / "attempts.csv"
    frame = experiments.run_attempts(cohort, "quick", (0,), path, progress=False)
    summary = frame[frame["seed"] == "all"]
    assert set(summary["method"]) <= set(experiments.ATTEMPTS)
    assert set(summary["metric"]) == {
        "macro_auc_fold9", "macro_auc_gain_fold9", "macro_auc_to_own_full_fold9"
    }  # fmt: skip
    assert (summary["task"] == "attempt").all()
    cells = frame[frame["seed"] != "all"]
    assert len(cells) == 5
    how = runs.load_provenance(path)
    assert how["attempts"] == experiments.ATTEMPTS and how["settings"]["reference"]
    before = path.read_bytes()
    experiments.run_attempts(cohort, "quick", (0,), path, progress=False)
    assert path.read_bytes() == before


def test_real_statistics_are_of_real_signals(cohort, monkeypatch):
    monkeypatch.setattr(beyond, "_encoder", lambda *_: beyond.scratch(0).eval())
    train = cohort.select(slice(0, 30))
    encoder = beyond._real_statistics(train, "quick", 0, False, n_batches=4, batch_size=8)
    before = beyond.scratch(0)
    assert not encoder.training
    for name, value in before.named_parameters():
        torch.testing.assert_close(value, dict(encoder.named_parameters())[name])
    first = encoder.stem[0][1]
    assert not torch.equal(first.running_mean, before.stem[0][1].running_mean)
