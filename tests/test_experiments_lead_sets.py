"""Paper A's experiments: who meets, what the tables hold, and that a finished cell stays."""

import pytest
import torch

import ecgtutorial as ecg
from ecgtutorial import experiments, runs
from ecgtutorial.evaluate import label_efficiency
from ecgtutorial.leads import SUBSETS
from ecgtutorial.methods.local_global import LocalGlobal


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The experiments at a size for tests, with a run store of their own."""
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    settings = experiments.OH_SCALES["quick"] | {
        "pretraining": {"epochs": 1, "batch_size": 16},
        "fine_tuning": {"epochs": 1, "min_steps": 2, "batch_size": 16},
        "identity": {"steps": 2, "batch_size": 16},
    }
    monkeypatch.setitem(experiments.OH_SCALES, "tiny", settings)
    monkeypatch.setattr(label_efficiency, "MINIMUM", 2)
    methods = {name: experiments.OH[name] for name in ("w2v+cmsc", "w2v+cmsc+rlm")}
    monkeypatch.setattr(experiments.oh, "OH", methods)
    names = experiments.oh_entrants.__defaults__
    defaults = tuple(tuple(methods) if value and value == tuple(ALL) else value for value in names)
    monkeypatch.setattr(experiments.oh_entrants, "__defaults__", defaults)
    return tmp_path


ALL = tuple(experiments.OH)


@pytest.fixture(scope="module")
def cohort():
    return ecg.open_cohort("simulated", n_patients=200, seed=0, fs=100)


def test_all_methods_of_paper_a_can_be_made():
    assert ALL == (
        "w2v", "cmsc", "w2v+cmsc", "w2v+rlm", "cmsc+rlm", "w2v+cmsc+rlm", "simclr+rlm", "3kg",
    )  # fmt: skip
    for method_class, arguments in experiments.OH.values():
        method = method_class(fs=100, encoder="transformer-small", **arguments)
        assert method.encoder(torch.zeros(2, 12, 250)).shape == (2, 96)
    for changes in experiments.OH_ABLATION.values():
        LocalGlobal(**{**experiments.OH_PARTS["w2v+cmsc+rlm"], **changes})


def test_the_table_of_lead_sets_is_filled_once_and_summarised(tiny, cohort):
    path = tiny / "any-lead.csv"
    frame = experiments.run_any_lead(cohort, "tiny", (0,), path, progress=False)
    cells = frame[frame["seed"] != "all"]
    assert set(cells["method"]) == {"random", "w2v+cmsc", "w2v+cmsc+rlm"}
    assert set(cells["leads"]) == set(SUBSETS)
    assert len(cells) == 3 * 2 * 5 * 2  # methods, protocols, lead sets, metrics
    metrics = set(frame.loc[frame["seed"] == "all", "metric"])
    assert {"macro_auc_gain", "macro_auc_over_without_rlm", "challenge_score_drop"} <= metrics
    about = runs.load_provenance(path)
    assert about["experiment"] == "any-lead" and about["n_identified_patients"] > 1
    again = experiments.run_any_lead(cohort, "tiny", (0,), path, progress=False)
    assert again.equals(frame)


def test_who_is_tested_was_not_pre_trained_on(tiny, cohort):
    frame = experiments.run_identification(cohort, "tiny", (0,), tiny / "id.csv", progress=False)
    about = runs.load_provenance(tiny / "id.csv")
    train = cohort.split()[0]
    assert about["n_pretraining_records"] < len(train)
    assert set(frame["n_patients"]) == {about["n_identified_patients"]}
    assert set(frame["protocol"]) == {"untrained", "fine-tuned"}
    assert set(frame.loc[frame["method"] == "median-beat", "protocol"]) == {"untrained"}


def test_pretraining_on_fewer_leads_and_segments(tiny, cohort, monkeypatch):
    monkeypatch.setattr(experiments.oh, "SUBSETS", {12: SUBSETS[12], 1: SUBSETS[1]})
    monkeypatch.setattr(experiments.oh, "OH_TABLE_2", ("w2v+cmsc",))
    frame = experiments.run_any_lead_pretraining(
        cohort, "tiny", (0,), tiny / "pre.csv", progress=False
    )
    cells = frame[(frame["seed"] != "all") & (frame["metric"] == "macro_auc")]
    assert len(cells) == 2 * 2 * 2  # lead sets, methods with the random one, protocols
    assert cells["config"].nunique() == len(cells)
    for leaky in (False, True):
        frame = experiments.run_segments(
            cohort, "tiny", (0,), tiny / f"{leaky}.csv", progress=False, leaky=leaky
        )
        assert set(frame["method"]) == {"random"} and set(frame["leads"]) == {12}
