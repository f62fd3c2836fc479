"""All methods in one harness: who meets, what the tables hold, and that finished cells stay."""

import importlib
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

import ecgtutorial as ecg
from ecgtutorial import experiments, grid, runs
from ecgtutorial.cohort import Cohort
from ecgtutorial.evaluate import health, label_efficiency, subgroups, traits
from ecgtutorial.experiments import common, everyone, gopal, oh

command = importlib.import_module("ecgtutorial.experiments.__main__")
KEPT = {"random-xresnet", "random-cpc", "simclr", "cpc"}
NETWORKS = {f"random-{network}" for network in ("xresnet", "cpc", "transformer", "single-lead")}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(monkeypatch, tmp_path, one_thread):
    """The experiments at a size for tests: two methods, one budget, a run store of its own."""
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    little = {
        "pretraining": {"epochs": 1, "batch_size": 64},
        "fine_tuning": {"epochs": 1, "min_steps": 1, "batch_size": 64},
    }
    for scales in (common.SCALES, oh.OH_SCALES):
        monkeypatch.setitem(scales, "quick", scales["quick"] | little)
    monkeypatch.setitem(common.SIMULATED, "quick", {"n_patients": 20, "pretraining": {}})
    monkeypatch.setattr(everyone, "ALL_NETWORKS", {"simclr": "xresnet", "cpc": "cpc"})
    whole = everyone.all_entrants
    monkeypatch.setattr(
        everyone, "all_entrants",
        lambda *rest, **more: (one for one in whole(*rest, **more) if one.method in KEPT),
    )  # fmt: skip
    monkeypatch.setitem(everyone.ALL_SUBSETS, "quick", {1.0: 1})
    for name in ("UNLABELLED_BUDGETS", "TRAIT_SUBSETS"):
        monkeypatch.setattr(everyone, name, {1.0: 1})
    monkeypatch.setattr(gopal, "GOPAL_SUBSETS", {1.0: 1})
    monkeypatch.setattr(label_efficiency, "MINIMUM", 2)
    return tmp_path


@pytest.fixture(scope="module")
def cohort():
    return ecg.open_cohort("simulated", n_patients=60, seed=0, fs=100)


def filled_once(run, cohort, tiny, monkeypatch, **more):
    """The table of an experiment and what is said of it; a second call computes nothing."""
    path = tiny / "results" / "table.csv"
    frame = run(cohort, "quick", (0,), path, progress=False, **more)
    before = sorted(path.read_text().splitlines())
    with monkeypatch.context() as patch:
        patch.setattr(grid, "_computed", None)  # to be called is an error
        run(cohort, "quick", (0,), path, progress=False, **more)
    assert sorted(path.read_text().splitlines()) == before
    about = runs.load_provenance(path)
    train, _, test = cohort.split()
    assert about["cohort_fingerprint"] == cohort.fingerprint and about["cohort"] == cohort.name
    assert (about["scale"], about["seeds"]) == ("quick", [0])
    assert (about["n_train_records"], about["n_test_records"]) == (len(train), len(test))
    assert {"settings", "methods", "pretraining", "seconds", "versions", "device"} <= about.keys()
    assert runs.changed_definitions(about) == []
    return frame, about


def cells_of(frame, metric):
    cells = frame[(frame["seed"] != "all") & (frame["metric"] == metric)]
    assert np.isfinite(cells["value"]).all()
    return cells


# --- who meets whom ----------------------------------------------------------------------------


def test_every_method_is_held_against_its_own_network(monkeypatch, tmp_path, cohort, one_thread):
    """Of equal parameters, whatever the encoder's name says."""
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    little = {"pretraining": {"epochs": 1, "batch_size": 8}}
    for scales in (common.SCALES, oh.OH_SCALES):
        monkeypatch.setitem(scales, "quick", scales["quick"] | little)
    entrants = everyone.all_entrants(cohort, "quick", progress=False)
    untrained = {one.method: one.make for one in entrants if one.method in NETWORKS}
    assert set(untrained) == NETWORKS
    records = cohort.select(range(8))  # one step each
    for name, network in experiments.ALL_NETWORKS.items():
        other, protocol = experiments.ALL_REFERENCE[name]
        assert (other, protocol) == (f"random-{network}", "fine-tuned")
        assert experiments.ALL_OVER["random"][name] == other
        mine = everyone.all_encoder(name, records, "quick", progress=False)
        theirs = untrained[other]()
        assert type(mine) is type(theirs)
        shapes = [{k: v.shape for k, v in e.state_dict().items()} for e in (mine, theirs)]
        assert shapes[0] == shapes[1], name
        assert mine(torch.zeros(1, 12, 250)).shape == theirs(torch.zeros(1, 12, 250)).shape
    assert set(experiments.ALL_REFERENCE) == set(experiments.ALL_NETWORKS)


def test_the_run_of_a_method_is_the_one_of_its_paper(monkeypatch):
    asked = []
    mehari = importlib.import_module("ecgtutorial.experiments.mehari")
    monkeypatch.setattr(
        runs, "pretrained", lambda method_class, records, **more: asked.append((records, more))
    )
    for name in experiments.ALL_NETWORKS:
        everyone.all_run(name, "records", "full", seed=3, times=0.5)
        records, halved = asked[-1]
        assert records == "records" and halved["seed"] == 3
        everyone.all_run(name, "records", "full")
        own = {
            "w2v+cmsc+rlm": oh.OH_SCALES["full"]["pretraining"],
            **{known: mehari.mehari(known, "full")[2] for known in mehari.MEHARI},
        }.get(name, common.SCALES["full"]["pretraining"])
        assert asked[-1][1]["epochs"] == own["epochs"] == 2 * halved["epochs"]
    assert asked[0][1]["method"]["encoder"] == "xresnet1d50-small"  # SimCLR of paper B, not D


def test_scales_and_rates_are_known_of_every_experiment():
    for name in experiments.EXPERIMENTS:
        assert experiments.rate_of(name) in (None, 100)
    for name in ("label-efficiency-all", "unlabelled", "health", "traits", "noise-robustness"):
        assert experiments.rate_of(name) == experiments.MEHARI_FS  # at every scale
    for name in ("label-efficiency", "subgroups", "augmentation-grid", "any-lead"):
        assert experiments.rate_of(name) is None  # 500 Hz at scale `paper`
    named = set(experiments._AT_THE_SCALES_RATE)
    assert named <= set(experiments.EXPERIMENTS)
    for scale in experiments.SCALES:
        assert set(experiments.ALL_SUBSETS[scale]) <= set(label_efficiency.BUDGETS)
        options = experiments.all_options(scale)
        assert options["task"] == "superclass" and "reference" not in options
        assert options["fine_tuning"]["head_lr"] == 5e-3
    subsets = experiments.ALL_SUBSETS["full"]
    assert all(subsets[budget] >= 5 for budget in subsets if budget <= 0.1)
    assert set(subsets) == set(label_efficiency.BUDGETS)


# --- the tables --------------------------------------------------------------------------------


def test_label_efficiency_of_all(tiny, cohort, monkeypatch):
    frame, about = filled_once(everyone.run_label_efficiency_all, cohort, tiny, monkeypatch)
    assert about["experiment"] == "label-efficiency-all"
    cells = cells_of(frame, "macro_auc").set_index(["method", "protocol"])["value"]
    assert set(cells.index) == {
        (m, p) for m in KEPT for p in ("probe", "fine-tuned")
    } and cells.index.is_unique  # fmt: skip
    assert set(frame["task"]) == {"superclass"}
    summary = frame[frame["seed"] == "all"].set_index(["metric", "method", "protocol"])["value"]
    for name, network in everyone.ALL_NETWORKS.items():
        for protocol in label_efficiency.PROTOCOLS:
            mine, other = cells[name, protocol], f"random-{network}"
            assert summary["macro_auc_gain", name, protocol] == pytest.approx(
                mine - cells[other, "fine-tuned"], abs=2e-6
            )
            assert summary["macro_auc_over_random", name, protocol] == pytest.approx(
                mine - cells[other, protocol], abs=2e-6
            )
    assert set(about["own_fine_tuning"]) == KEPT


def test_health_of_all(tiny, cohort, monkeypatch):
    frame, about = filled_once(everyone.run_health, cohort, tiny, monkeypatch)
    assert about["experiment"] == "health" and set(about["settings"]) == {"seconds", "overlap"}
    assert {name.rpartition(".")[0] for name in about["code"]} >= {"evaluate.health"}
    for measure in health.MEASURES:
        assert sorted(cells_of(frame, measure)["method"]) == sorted(KEPT)


def test_traits_of_all(tiny, cohort, monkeypatch):
    kept = {name: traits.TRAITS[name] for name in ("age", "turn")}
    monkeypatch.setattr(traits, "TRAITS", kept)
    frame, about = filled_once(everyone.run_traits, cohort, tiny, monkeypatch)
    assert about["experiment"] == "traits"
    assert not {"task", "fine_tuning"} & about["settings"].keys()  # probes
    cells = frame[frame["seed"] != "all"]
    assert set(cells["statement"]) == set(kept)
    one = cells_of(frame, "mae")
    one = one[one["statement"] == "age"].set_index("method")["value"]
    assert set(one.index) == KEPT and one.index.is_unique
    gains = frame[(frame["metric"] == "mae_gain") & (frame["statement"] == "age")]
    assert set(gains["method"]) == {"simclr", "cpc"}
    for row in gains.itertuples():  # years by which the error is smaller
        expected = one[f"random-{everyone.ALL_NETWORKS[row.method]}"] - one[row.method]
        assert row.protocol == "probe" and row.value == pytest.approx(expected, abs=2e-4)


@pytest.fixture
def foreign(tmp_path, write_record):
    """A folder of twelve unlabelled records at a rate of its own."""
    rng = np.random.default_rng(1)
    for k in range(12):
        digital = rng.integers(-800, 800, (12, 2500))
        write_record(tmp_path / "foreign" / f"r{k:02d}", digital, fs=250)
    return tmp_path / "foreign"


def test_unlabelled_records(tiny, cohort, foreign, monkeypatch):
    run = everyone.run_unlabelled
    frame, about = filled_once(run, cohort, tiny, monkeypatch, more=str(foreign))
    assert about["experiment"] == "unlabelled" and "fine_tuning" not in about["settings"]
    cells = cells_of(frame, "macro_auc").set_index("method")["value"]
    names = {f"{m}@{kind}" for m in ("simclr", "cpc") for kind in everyone.UNLABELLED}
    assert set(cells.index) == (KEPT & NETWORKS) | names and cells.index.is_unique
    assert set(frame["protocol"]) == {"probe"}
    summary = frame[frame["seed"] == "all"].set_index(["metric", "method"])["value"]
    over = frame.loc[frame["metric"] == "macro_auc_over_real", "method"]
    assert set(over) == {name for name in names if not name.endswith("@real")}
    for name in names:
        method, kind = name.split("@")
        network = f"random-{everyone.ALL_NETWORKS[method]}"
        gain = summary["macro_auc_gain", name]
        assert gain == pytest.approx(cells[name] - cells[network], abs=2e-6)
        if kind != "real":
            expected = cells[name] - cells[f"{method}@real"]
            assert summary["macro_auc_over_real", name] == pytest.approx(expected, abs=2e-6)
    train = cohort.split()[0]
    n_records = about["n_pretraining_records"]
    assert n_records["real"] == len(train) and n_records["more"] == len(train) + 12
    # Without the folder the same cells, but for those that need it: nothing is computed.
    with monkeypatch.context() as patch:
        patch.setattr(grid, "_computed", None)
        run(cohort, "quick", (0,), tiny / "results" / "table.csv", progress=False)
    about = runs.load_provenance(tiny / "results" / "table.csv")
    assert list(about["n_pretraining_records"]) == ["real", "simulated"]


def test_unlabelled_entrants_differ_in_their_records_alone(tiny, cohort, foreign, monkeypatch):
    asked = {}
    monkeypatch.setitem(common.SCALES["quick"]["pretraining"], "epochs", 40)

    def note(name, records, scale, seed, progress, times):
        asked[name, records.name, seed] = round(40 * times) * len(records)

    monkeypatch.setattr(everyone, "all_encoder", note)
    records = everyone.unlabelled_records(cohort, "quick", str(foreign))
    found = list(everyone.unlabelled_entrants(cohort, "quick", (0, 1), False, records))
    assert len(found) == 2 * (2 + 2 * 3) and len({(e.method, e.seed) for e in found}) == len(found)
    identities = {e.method: e.identity for e in found if "@" in e.method}
    assert len(set(identities.values())) == len(identities)
    usual = {e.method: e.identity for e in everyone.all_entrants(cohort, "quick", progress=False)}
    for name, identity in identities.items():
        assert (identity == usual[name.split("@")[0]]) == name.endswith("@real")
    for one in found:
        if "@" in one.method and not one.method.endswith("@real"):
            one.make()
    assert len(asked) == 2 * 2 * 2
    usual = 40 * len(cohort.split()[0])  # records seen
    assert all(abs(seen / usual - 1) < 0.05 for seen in asked.values())


def test_joined_cohorts_have_the_records_of_both(cohort):
    first, second = cohort.select(range(5)), cohort.select(range(3, 6))
    both = experiments.joined(first, second)
    assert len(both) == 8 and both.fs == 100 and both.leads == cohort.leads
    assert both.labels.shape == (8, 0) and both.signals.dtype == np.int16
    assert (both.signals[:5] == first.signals).all() and (both.signals[5:] == second.signals).all()
    assert both.table["record_id"].is_unique  # though both hold two of the same
    patients = first.table["patient_id"].nunique() + second.table["patient_id"].nunique()
    assert both.table["patient_id"].nunique() == patients
    assert both.fingerprint != experiments.joined(second, first).fingerprint


def test_cohorts_that_do_not_fit_are_not_joined(cohort):
    def like(signals, fs=100, leads=cohort.leads):
        table = pd.DataFrame({"record_id": [0], "patient_id": [0]})
        return Cohort(signals, table, None, fs, "other", leads)

    others = (
        like(np.zeros((1, 12, 500), np.int16)),
        like(np.zeros((1, 12, 1000), np.int16), fs=200),
        like(np.zeros((1, 12, 1000), np.int16), leads=cohort.leads[::-1]),
    )
    for other in others:
        with pytest.raises(ValueError, match="simulated.*other.*rate, leads and length"):
            experiments.joined(cohort, other)


def test_the_grid_of_augmentations(tiny, cohort, monkeypatch):
    kept = {name: gopal.AUGMENTATIONS[name] for name in ("nothing", "rotate 45, mask")}
    monkeypatch.setattr(gopal, "AUGMENTATIONS", kept)
    frame, about = filled_once(gopal.run_augmentation_grid, cohort, tiny, monkeypatch)
    assert about["experiment"] == "augmentation-grid"
    assert about["methods"] == {"nothing": {}, "rotate 45, mask": {"rotation": 45.0, "mask": 0.5}}
    cells = cells_of(frame, "macro_auc").set_index("method")["value"]
    assert set(cells.index) == {"random", *kept} and set(frame["protocol"]) == {"probe"}
    assert set(frame.loc[frame["metric"] == "macro_auc_gain", "method"]) == set(kept)
    over = frame[frame["metric"] == "macro_auc_over_nothing"].set_index("method")["value"]
    assert list(over.index) == ["rotate 45, mask"]
    assert over.iloc[0] == pytest.approx(cells["rotate 45, mask"] - cells["nothing"], abs=2e-6)


def test_the_rows_of_paper_ds_tables():
    assert len(gopal.AUGMENTATIONS) == 14 and gopal.AUGMENTATIONS["nothing"] == {}
    for name, changes in gopal.AUGMENTATIONS.items():
        view = gopal.ThreeKG(variant="A", **(gopal._OFF | changes))
        assert (view.encoder is not None) and ("mask" in name) == ("mask" in changes)
    assert {n: gopal.AUGMENTATIONS[n]["rotation"] for n in ("rotate 5", "rotate 45")} == {
        "rotate 5": 5.0, "rotate 45": 45.0
    }  # fmt: skip
    assert gopal.AUGMENTATIONS["scale 1.05"] == {"scaling": 1.05}
    assert {"cmsc", "cmlc", "cmsmlc", "patients", "simcg-l"} < set(gopal.CONTRASTS)
    entrants = list(gopal.contrast_entrants(_Split(), "quick"))
    assert len({one.identity for one in entrants}) == len(entrants) - 1  # supervised starts random


class _Split:
    """Stands for a cohort where nothing is trained."""

    fs = 100

    def split(self):
        return None, None, None


def test_subgroups_of_disease(tiny, cohort, monkeypatch):
    kept = {name: gopal.CONTRASTS[name] for name in ("simclr", "patients")}
    monkeypatch.setattr(gopal, "CONTRASTS", kept)
    frame, about = filled_once(gopal.run_subgroups, cohort, tiny, monkeypatch)
    assert about["experiment"] == "subgroups" and set(about["methods"]) == set(kept)
    assert {n.rpartition(".")[0] for n in about["code"]} >= {
        "methods.segments",
        "evaluate.subgroups",
    }
    cells = cells_of(frame, "macro_auc").set_index("method")
    assert cells["protocol"].to_dict() == {
        "random": "probe", "supervised": "fine-tuned", "simclr": "probe", "patients": "probe"
    }  # fmt: skip
    assert set(frame["task"]) == {subgroups.TASK}
    summary = frame[frame["seed"] == "all"].set_index(["metric", "method"])["value"]
    value = cells["value"]
    for metric, other in (("gain", "supervised"), ("over_random", "random")):
        for name in kept:
            expected = value[name] - value[other]
            assert summary[f"macro_auc_{metric}", name] == pytest.approx(expected, abs=2e-6)
    over = frame.loc[frame["metric"] == "macro_auc_over_simclr", "method"]
    assert list(over) == ["patients"]


# --- the command line --------------------------------------------------------------------------


def test_two_processes_fill_the_table_that_one_does(tiny, cohort, monkeypatch):
    monkeypatch.setattr(everyone, "ALL_NETWORKS", {})  # the networks from scratch are enough
    joblib.externals.loky.get_reusable_executor().shutdown()  # workers of other tests
    frames = []
    for jobs in (1, 2):
        with command.workers(jobs):
            assert joblib.effective_n_jobs(None) == jobs
            assert common.alone(True) == (jobs == 1)
            path = tiny / f"{jobs}.csv"
            frames.append(everyone.run_health(cohort, "quick", (0,), path, progress=False))
    joblib.externals.loky.get_reusable_executor().shutdown()
    by = ["seed", "method", "metric"]
    one, two = (frame.sort_values(by).reset_index(drop=True) for frame in frames)
    assert set(one["method"]) == KEPT & NETWORKS
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)


def test_the_command_says_how_it_is_used():
    said = subprocess.run(
        [sys.executable, "-m", "ecgtutorial.experiments", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--scheduler" in said and "--more" in said and "--jobs" in said
    assert all(name in said for name in experiments.EXPERIMENTS)


@pytest.mark.parametrize("name", ["unlabelled", "health"])
def test_the_command_fills_a_table(name, monkeypatch, tmp_path, capsys):
    asked = []

    def run(cohort, scale, seeds, path, **more):
        asked.append((cohort, scale, seeds, path, more, joblib.effective_n_jobs(None)))
        row = {"protocol": "probe", "method": "simclr@real", "budget": 1.0, "seed": "all"}
        row |= {"metric": "macro_auc" if name == "unlabelled" else "rank", "value": 0.8125}
        return pd.DataFrame([row]).reindex(columns=list(runs.COLUMNS))

    monkeypatch.setitem(experiments.EXPERIMENTS, name, run)
    monkeypatch.setattr(command, "open_for", lambda *arguments: arguments)
    words = f"{name} ptb-xl --data d --more m --scale quick --seeds 0 4 --out {tmp_path} --jobs 2"
    monkeypatch.setattr(sys, "argv", ["experiments", *words.split()])
    command.main()
    (found,) = asked
    more = {"more": "m"} if name == "unlabelled" else {}
    path = f"{tmp_path}/ptb-xl/{name}.csv"
    assert found == (("quick", "ptb-xl", "d", 100), "quick", [0, 4], path, more, 2)
    assert "simclr@real" in capsys.readouterr().out
