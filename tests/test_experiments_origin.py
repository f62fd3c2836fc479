"""Paper C's experiments: who meets, what the tables hold and say, and that finished cells stay."""

import importlib
import json

import numpy as np
import pytest
import torch

import ecgtutorial as ecg
from ecgtutorial import experiments, runs
from ecgtutorial.evaluate import any_lead, arrhythmia, label_efficiency, localisation
from ecgtutorial.leads import LEADS
from ecgtutorial.methods.spatio_temporal import SpatioTemporal

mehari = importlib.import_module("ecgtutorial.experiments.mehari")  # not the function

EVERYBODY = experiments.RAN_ABLATION
NETWORKS = ("xresnet", "cpc", "transformer", "single-lead")
PROTOCOLS = {"probe", "fine-tuned"}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The experiments at a size for tests, with a run store of their own and one thread."""
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    little = {
        "pretraining": {"epochs": 1, "batch_size": 64},
        "fine_tuning": {"epochs": 1, "min_steps": 1, "batch_size": 64},
    }
    ran = {"patients": (5, 20), "subsets": {5: 2, 20: 1}, "some": (20,)}
    ran["origin"] = little["fine_tuning"]
    for scales, more in (("SCALES", little), ("OH_SCALES", little), ("RAN_SCALES", ran)):
        quick = getattr(experiments, scales)["quick"]
        monkeypatch.setitem(getattr(experiments, scales), "quick", quick | more)
    monkeypatch.setitem(experiments.RAN_FINE_TUNING, "quick", {"head_lr": 0.01})
    monkeypatch.setattr(experiments.ran, "RAN_BUDGETS", {0.5: 1, 1.0: 1})
    monkeypatch.setattr(experiments.everyone, "ALL_BUDGETS", {1.0: 1})
    kept = experiments.RAN | {"no lead numbers": EVERYBODY["no lead numbers"]}
    for module in (experiments, experiments.ran):
        monkeypatch.setattr(module, "RAN_ABLATION", kept)
    monkeypatch.setattr(label_efficiency, "MINIMUM", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cohort():
    return ecg.open_cohort("simulated", n_patients=100, seed=0, fs=100, seconds=5)


@pytest.fixture(scope="module")
def tachycardias():
    return ecg.open_cohort("simulated-vt", n_patients=40, seed=0, fs=100, seconds=5)


def cells_of(frame, metric):
    cells = frame[(frame["seed"] != "all") & (frame["metric"] == metric)]
    assert cells["config"].is_unique and np.isfinite(cells[["value", "low", "high"]]).all(axis=None)
    return cells


def filled_once(run, cohort, tiny, monkeypatch):
    """The table of an experiment and its provenance; a second call trains nothing."""
    path = tiny / "results" / "table.csv"
    frame = run(cohort, "quick", (0,), path, progress=False)
    before, seconds = path.read_bytes(), runs.load_provenance(path)["seconds"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "pretrained", None)  # to be called is an error
        patch.setattr(experiments.common.encoders, "build", None)
        again = run(cohort, "quick", (0,), path, progress=False)
    assert path.read_bytes() == before and again.equals(frame)
    about = runs.load_provenance(path)
    train, _, test = cohort.split()
    assert about["cohort_fingerprint"] == cohort.fingerprint and about["cohort"] == cohort.name
    assert (about["scale"], about["seeds"]) == ("quick", [0]) and about["seconds"] >= seconds
    assert (about["n_train_records"], about["n_test_records"]) == (len(train), len(test))
    assert about["n_train_patients"] == train.table["patient_id"].nunique()
    assert about["n_test_patients"] == test.table["patient_id"].nunique()
    assert {"code", "versions", "device", "methods", "pretraining"} <= about.keys()
    return frame, about


# --- arrhythmias ------------------------------------------------------------------------------


def test_paper_cs_table_of_arrhythmias(tiny, cohort, monkeypatch):
    frame, about = filled_once(experiments.run_spatio_temporal, cohort, tiny, monkeypatch)
    assert about["experiment"] == "spatio-temporal"
    assert set(frame["task"]) == {"challenge-2020"}
    for metric in ("macro_auc", "exact_match", "class_accuracy"):
        cells = cells_of(frame, metric)
        assert len(cells) == 2 * 2 * 2  # methods, protocols, budgets
        assert set(cells["method"]) == {"random", "spatio-temporal"}
        assert set(cells["protocol"]) == PROTOCOLS and set(cells["budget"]) == {0.5, 1.0}
    assert set(arrhythmia.equals_full(frame)["method"]) == {"random", "spatio-temporal"}
    settings = about["settings"]
    assert settings["seconds"] == 2.5 and settings["overlap"] == 0.5
    assert settings["fine_tuning"]["head_lr"] == 0.01
    assert about["own_fine_tuning"] == {
        "random": {}, "spatio-temporal": experiments.MEHARI_GRADUAL
    }  # fmt: skip


def test_what_each_choice_decides(tiny, cohort, monkeypatch):
    silent, plain = {}, arrhythmia.arrhythmias

    def spy(everyone, evaluated, *rest, **options):
        for one in everyone:
            silent[one.method] = [n for n, x in zip(LEADS, evaluated.signals[0]) if not x.any()]
        return plain(everyone, evaluated, *rest, **options)

    monkeypatch.setattr(arrhythmia, "arrhythmias", spy)
    frame, about = filled_once(experiments.run_spatio_temporal_parts, cohort, tiny, monkeypatch)
    assert about["experiment"] == "spatio-temporal-parts"
    cells = cells_of(frame, "macro_auc")
    eight = {experiments.RAN_EIGHT, experiments.RANDOM_EIGHT}
    assert set(cells["method"]) == {"random", *experiments.RAN_ABLATION, *eight}
    assert len(cells) == 7 and set(cells["protocol"]) == {"probe"}
    # The eight leads have a summary of their own and are held against their own random network.
    value = cells.set_index("method")["value"]
    over = frame[frame["metric"] == "macro_auc_over_random"].set_index("method")["value"]
    assert set(over.index) == {experiments.RAN_EIGHT, *experiments.RAN_ABLATION}
    for name in over.index:
        other = experiments.RANDOM_EIGHT if name == experiments.RAN_EIGHT else "random"
        assert over[name] == pytest.approx(value[name] - value[other], abs=2e-6)
    gain = frame[frame["metric"] == "macro_auc_gain"].set_index("method")["value"]
    assert set(gain.index) == set(cells["method"]) - {"spatio-temporal"}  # over the whole method
    for name, leads in silent.items():
        assert leads == (["III", "aVR", "aVL", "aVF"] if name in eight else [])


def test_a_cell_is_the_same_whichever_experiment_asks_for_it(tiny, cohort):
    identities = [
        {e.method: (e.identity, e.seed) for e in experiments.ran_entrants(cohort, "quick", **more)}
        for more in ({}, {"names": tuple(experiments.RAN_ABLATION)})
    ]
    assert identities[0].items() <= identities[1].items()
    (_, eight) = experiments.ran_entrants(
        cohort, "quick", (0,), (experiments.RAN_EIGHT,), independent=True
    )
    assert eight.identity not in [one for one, _ in identities[1].values()]
    assert len({one for one, _ in identities[1].values()}) == 1 + len(experiments.RAN_ABLATION)


def test_variants_are_what_their_names_say():
    assert set(experiments.RAN) < set(EVERYBODY)
    for changes in EVERYBODY.values():
        SpatioTemporal(**changes)
    assert SpatioTemporal(**EVERYBODY["mask only"]).shuffle == 0
    assert SpatioTemporal(**EVERYBODY["shuffle only"]).ratio is None
    assert SpatioTemporal(**EVERYBODY["shuffle one in six"]).shuffle * 12 == 2
    assert len({json.dumps(changes) for changes in EVERYBODY.values()}) == len(EVERYBODY)
    for scale in ("quick", "full", "paper"):
        settings = experiments.RAN_SCALES[scale]
        assert set(settings["some"]) <= set(settings["patients"])
        assert {n for n in settings["patients"] if n} >= set(settings["subsets"])


def test_the_run_of_a_variant_has_its_arguments(tiny, cohort):
    train = cohort.split()[0]
    run = experiments.ran_run("mask only", train, "quick", seed=2, progress=False, hide="limb")
    assert run.config["arguments"] == {
        "encoder": "xresnet1d50-small", "seconds": 2.5, "shuffle": 0.0, "hide": "limb",
    }  # fmt: skip
    assert run.config["training"] == {"epochs": 1, "batch_size": 64, "seed": 2}
    again = experiments.ran_run("mask only", train, "quick", seed=2, progress=False, hide="limb")
    assert again.loaded and again.hash == run.hash


# --- all methods ------------------------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    """Fewer of the book's methods: one of each kind of fine-tuning."""
    kept = {n: experiments.ALL_NETWORKS[n] for n in ("spatio-temporal", "w2v+cmsc+rlm", "3kg-l")}
    for module in (experiments, experiments.everyone):
        monkeypatch.setattr(module, "ALL_NETWORKS", kept)


def test_everybody_meets_with_a_network_from_scratch(tiny, cohort):
    everyone = list(experiments.all_entrants(cohort, "quick", (0, 1), progress=False))
    names = [one.method for one in everyone]
    assert names[: len(names) // 2] == names[len(names) // 2 :]
    assert set(names) == {f"random-{n}" for n in NETWORKS} | set(experiments.ALL_NETWORKS)
    assert len(names) == 2 * (4 + 7) and {one.protocols for one in everyone} == {
        ("probe", "fine-tuned")
    }
    by_name = {one.method: one for one in everyone}
    for name, (reference, protocol) in experiments.ALL_REFERENCE.items():
        network = by_name[reference].make()
        assert reference in by_name and protocol == "fine-tuned"
        trained, scratch = by_name[name].fine_tuning, by_name[reference].fine_tuning
        assert scratch.items() <= trained.items()  # what the network needs, both have
        assert set(trained) - set(scratch) <= {"layer_decay", "head_share"}
        assert network(torch.zeros(1, 12, 250)).shape[0] == 1
    # SimCLR is in two papers: here it is paper B's, on the network of the others.
    mehari = {e.method: e for e in experiments.mehari_entrants(cohort, "quick")}
    assert {e.identity for e in everyone if e.method == "simclr"} == {mehari["simclr"].identity}
    for one in experiments.all_entrants(cohort, "quick", origin=True):
        assert set(one.fine_tuning) <= {"layer_decay", "head_share"}


def test_the_table_of_all_methods(tiny, three, cohort, monkeypatch):
    frame, about = filled_once(experiments.run_all_methods, cohort, tiny, monkeypatch)
    assert about["experiment"] == "all-methods"
    everyone = {f"random-{n}" for n in NETWORKS} | set(experiments.ALL_NETWORKS)
    cells = cells_of(frame, "macro_auc")
    assert set(cells["method"]) == everyone and len(cells) == 7 * 2
    gain = frame[frame["metric"] == "macro_auc_gain"].set_index(["method", "protocol"])["value"]
    value = cells.set_index(["method", "protocol"])["value"]
    for name, network in experiments.ALL_NETWORKS.items():
        expected = value[name, "probe"] - value[f"random-{network}", "fine-tuned"]
        assert gain[name, "probe"] == pytest.approx(expected, abs=2e-6)
    assert about["own_fine_tuning"]["random-transformer"]["views"] is None
    assert about["own_fine_tuning"]["random-xresnet"] == {}
    assert {"w2v+cmsc+rlm", "3kg-l", "spatio-temporal"} <= about["own_fine_tuning"].keys()


# --- origins ----------------------------------------------------------------------------------


def test_the_table_of_origins(tiny, tachycardias, monkeypatch):
    run = experiments.run_ventricular_origin
    frame, about = filled_once(run, tachycardias, tiny, monkeypatch)
    assert about["experiment"] == "ventricular-origin"
    metrics = set(frame.loc[frame["seed"] != "all", "metric"])
    assert metrics >= {"distance_median", "distance_p90", "region_accuracy"}
    for metric in metrics:
        cells = cells_of(frame, metric)
        met = {(m, p) for m in ("random", *experiments.RAN) for p in PROTOCOLS}
        assert set(zip(cells["method"], cells["protocol"])) == met
        assert len(cells) == len(met) * (2 + 1)  # subsets of both numbers
        assert set(cells["n_patients"]) == {5, 20}
    over = frame[frame["metric"] == "distance_median_over_random"]
    assert set(over["method"]) == set(experiments.RAN)
    origin = experiments.RAN_SCALES["quick"]["origin"]
    assert about["settings"]["fine_tuning"] == {"mask": 0.0} | origin  # no views: see the chapter


def test_the_table_of_origins_by_all_methods(tiny, three, tachycardias, monkeypatch):
    run = experiments.run_ventricular_origin_all
    frame, about = filled_once(run, tachycardias, tiny, monkeypatch)
    assert about["experiment"] == "ventricular-origin-all"
    everyone = {f"random-{n}" for n in NETWORKS} | set(experiments.ALL_NETWORKS)
    cells = cells_of(frame, "distance_median")
    assert set(cells["method"]) == everyone and len(cells) == 7 * 2
    assert set(cells["n_patients"]) == {20}
    gains = frame[frame["metric"] == "distance_median_gain"]
    assert set(experiments.ALL_NETWORKS) <= set(gains["method"])


def test_a_cohort_without_origins_is_told_before_anything_is_trained(tiny, cohort):
    with pytest.raises(ValueError, match="lacks region.*to learn origins"):
        experiments.run_ventricular_origin(cohort, "quick", (0,), tiny / "t.csv", progress=False)
    assert not list((tiny / "runs").glob("*/checkpoint.safetensors"))


def test_the_cohort_of_a_scale_is_opened(tiny, monkeypatch):
    monkeypatch.setitem(experiments.RAN_SCALES["quick"], "n_patients", 4)
    small = experiments.open_for("quick", "simulated-vt")
    assert small.table["patient_id"].nunique() == 4 and small.fs == 100
    assert localisation.origins(small)[1].shape == (len(small), 3)


# --- what tables of papers A and B say stays ---------------------------------------------------


def test_tables_of_other_papers_still_say_all_they_said(tiny, cohort, monkeypatch):
    said = []
    monkeypatch.setattr(runs.Table, "describe", lambda self, **about: said.append(about))
    monkeypatch.setattr(mehari, "NOISE_TRAINING", ("supervised-xresnet",))
    experiments.run_noise_training(cohort, "quick", (0,), tiny / "b.csv", progress=False)
    monkeypatch.setattr(experiments.oh, "oh_ablation", lambda *args: [])
    monkeypatch.setattr(
        any_lead, "any_lead", lambda everyone, cohort, table, **options: table.read()
    )
    experiments.run_local_global_parts(cohort, "quick", (0,), tiny / "a.csv", progress=False)
    everywhere = {
        "experiment", "cohort", "cohort_fingerprint", "scale", "seeds", "settings", "methods",
        "n_train_records", "n_test_records", "n_train_patients", "n_test_patients", "code",
        "seconds",
    }  # fmt: skip
    paper_b, paper_a = said
    assert set(paper_b) == everywhere | {"own_fine_tuning", "classes"}
    assert set(paper_a) == everywhere | {"n_pretraining_records", "n_identified_patients"}
    assert paper_b["settings"]["gradual"] == experiments.MEHARI_GRADUAL
    assert paper_b["settings"]["task"] == "superclass" and len(paper_b["classes"]) == 5
    assert paper_a["settings"]["lead_sets"] == (12, 1) and "identity" in paper_a["settings"]
    for now, published in ((paper_b, "noise-training"), (paper_a, "any-lead")):
        about = runs.load_results("ptb-xl", published)[1]
        assert set(now) == about.keys() - {"versions", "device", "reviewed"}
