import importlib
import json

import pytest

from ecgtutorial import augment, experiments, runs

mehari = importlib.import_module("ecgtutorial.experiments.mehari")  # not the function


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    settings = {
        "fs": 100, "seconds": 2.5, "n_patients": 60, "budgets": (0.5,), "subsets": {0.5: 1},
        "pretraining": {"epochs": 1, "batch_size": 16},
        "fine_tuning": {"min_steps": 2, "epochs": 1},
    }  # fmt: skip
    monkeypatch.setitem(experiments.SCALES, "quick", settings)


def test_the_label_efficiency_table_is_filled_and_says_how(tiny, tmp_path):
    cohort = experiments.open_for("quick", "simulated")
    path = tmp_path / "results" / "label-efficiency.csv"
    frame = experiments.run_label_efficiency(cohort, "quick", [0], path)
    cells = frame[frame["seed"] == "0"]
    assert set(cells["method"]) == {"random", "supervised", *experiments.METHODS}
    assert len(cells) == 1 + 1 + 2 * len(experiments.METHODS)
    how = json.loads(path.with_suffix(".json").read_text())
    assert how["cohort_fingerprint"] == cohort.fingerprint and how["scale"] == "quick"
    assert {"versions", "settings", "methods", "code", "seconds"} <= how.keys()

    before = path.read_bytes()
    experiments.run_label_efficiency(cohort, "quick", [0], path)  # nothing is left to do
    assert path.read_bytes() == before


def test_the_transfer_table_is_filled_and_says_how(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(experiments.SIMULATED, "quick", {"n_patients": 40, "pretraining": {}})
    monkeypatch.setattr(experiments.gopal, "TRANSFER_BUDGETS", (0.5,))
    cohort = experiments.open_for("quick", "simulated")
    path = tmp_path / "results" / "simulated-to-real.csv"
    frame = experiments.run_simulated_to_real(cohort, "quick", [0], path, progress=False)
    cells = frame[frame["seed"] == "0"]
    assert set(cells["method"]) == {"random", "real", "simulated"}
    assert set(cells["protocol"]) == {"probe"}
    gains = frame[frame["metric"] == "macro_auc_gain"]
    assert set(gains["method"]) == {"random", "simulated"}  # over `real`
    how = json.loads(path.with_suffix(".json").read_text())
    assert how["simulated"] == {"n_patients": 40, "pretraining": {}}


def test_the_table_on_noise_in_training_is_filled_and_says_how(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(mehari, "NOISE_TRAINING", ("supervised-xresnet",))
    cohort = experiments.open_for("quick", "simulated")
    path = tmp_path / "results" / "noise-training.csv"
    frame = experiments.run_noise_training(cohort, "quick", [0], path, progress=False)
    cells = frame[frame["seed"] == "0"]
    methods = {f"supervised-xresnet{way}" for way in ("", "+noise", "+long")}
    assert set(zip(cells["method"], cells["noise"])) == {(m, n) for m in methods for n in (0, 2, 4)}
    assert cells["config"].is_unique and len(cells) == 9
    drops = frame[frame["metric"] == "macro_auc_drop"]
    assert set(zip(drops["method"], drops["noise"])) == {(m, n) for m in methods for n in (2, 4)}
    how = json.loads(path.with_suffix(".json").read_text())
    assert how["settings"]["levels"] == [0, 2, 4] and how["experiment"] == "noise-training"
    assert how["own_fine_tuning"]["supervised-xresnet+long"] == {"epochs": 3, "min_steps": 6}


def test_three_ways_to_fine_tune_differ_in_one_thing_each(tiny):
    cohort = experiments.open_for("quick", "simulated")
    ways = {e.method: e for e in experiments.noise_training_entrants(cohort, "quick")}
    assert len(ways) == 4 * 3 and {e.protocols for e in ways.values()} == {("fine-tuned",)}
    usual = experiments.MEHARI_GRADUAL
    assert ways["cpc"].fine_tuning == usual and ways["supervised-cpc"].fine_tuning == {}
    assert ways["cpc+long"].fine_tuning == usual | {"epochs": 3, "min_steps": 6}
    views = ways["supervised-cpc+noise"].fine_tuning["views"]
    assert views == augment.MEHARI_VIEWS | augment.NOISE_LEVELS[2]


def test_random_and_supervised_start_from_the_same_weights():
    first, again = (experiments.random_encoder(100, 3) for _ in range(2))
    other = experiments.random_encoder(100, 4)
    weights = [e.layers[0].weight for e in (first, again, other)]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])


def test_the_paper_scale_is_the_papers():
    paper = experiments.SCALES["paper"]
    assert (paper["fs"], paper["seconds"]) == (500, 5.0)
    assert (paper["pretraining"]["batch_size"], paper["pretraining"]["lr"]) == (512, 1e-3)


def test_the_published_table_is_whole():
    frame, how = runs.load_results("ptb-xl", "label-efficiency")
    cells = frame[frame["seed"] != "all"]
    assert set(cells["seed"]) == {"0", "1", "2"} == set(map(str, how["seeds"]))
    for budget in (0.02, 0.1):
        fine = cells[(cells["budget"] == budget) & (cells["protocol"] == "fine-tuned")]
        counts = fine.groupby(["method", "seed"]).size()
        assert (counts >= 5).all() and len(counts) == 4 * 3
    assert cells["config"].is_unique and cells["value"].between(0, 1).all()
    summary = frame[(frame["seed"] == "all") & (frame["metric"] == "macro_auc")]
    assert ((summary["low"] < summary["value"]) & (summary["value"] < summary["high"])).all()


def test_the_published_transfer_table_is_whole():
    frame, how = runs.load_results("ptb-xl", "simulated-to-real")
    cells = frame[frame["seed"] != "all"]
    assert set(cells["method"]) == {"random", "real", "simulated"}
    assert set(cells["seed"]) == {"0", "1", "2"} == set(map(str, how["seeds"]))
    assert set(cells["budget"]) == set(experiments.gopal.TRANSFER_BUDGETS)
    assert how["simulated"] == experiments.SIMULATED["full"]
    summary = frame[(frame["seed"] == "all") & (frame["metric"] == "macro_auc")]
    value = summary.set_index(["method", "budget"])["value"]
    for budget in experiments.gopal.TRANSFER_BUDGETS:
        assert value["simulated", budget] > value["random", budget] + 0.05


def test_the_published_table_on_noise_in_training_is_whole():
    frame, how = runs.load_results("ptb-xl", "noise-training")
    cells = frame[frame["seed"] != "all"]
    assert cells["config"].is_unique
    assert len(cells) == 4 * 3 * 3 * 3  # networks, ways, levels, seeds
    assert set(cells["noise"]) == set(mehari.NOISE_TRAINING_LEVELS)
    everywhere = runs.load_results("ptb-xl", "noise-robustness")[0].set_index("config")["value"]
    usual = cells[cells["method"].isin(mehari.NOISE_TRAINING)].set_index("config")["value"]
    assert usual.eq(everywhere[usual.index]).all()  # the same cells as in the other table


def test_the_published_comparison_with_real_records_is_whole():
    frame, how = runs.load_results("ptb-xl", "realism")
    wide = frame[frame["task"] == "realism"].pivot(index="metric", columns="method")
    median, low, high = (wide[c] for c in ("value", "low", "high"))
    inside = median["simulated"].between(low["real"], high["real"])
    assert len(inside) == how["features"] and inside.sum() == how["inside"] >= 54
    assert {"heart_rate (beats/min)", "pr (ms)", "qrs (ms)", "qt (ms)"} <= set(inside[inside].index)
