import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial import runs
from ecgtutorial.cohort import Cohort
from ecgtutorial.methods.simclr import SimCLR


@pytest.fixture
def cohort():
    signals = np.random.default_rng(0).integers(-900, 900, (24, 12, 150), dtype=np.int16)
    table = pd.DataFrame({"record_id": range(24), "patient_id": range(24)})
    return Cohort(signals, table, None, 100, "noise")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


ARGUMENTS = {"method": {"seconds": 1.0}, "epochs": 2, "batch_size": 8, "progress": False}


def test_a_run_is_made_once_and_loaded_after(cohort, store):
    made = runs.pretrained(SimCLR, cohort, **ARGUMENTS)
    assert not made.loaded and len(made.log) == 6
    again = runs.pretrained(SimCLR, cohort, **ARGUMENTS)
    assert again.loaded and again.hash == made.hash and again.log["loss"].equals(made.log["loss"])
    for ours, theirs in zip(made.method.parameters(), again.method.parameters()):
        assert torch.equal(ours, theirs)
    assert [p.name for p in store.iterdir()] == [made.hash]
    about = json.loads((store / made.hash / "run.json").read_text())
    assert about["versions"]["torch"] == torch.__version__


def test_any_change_of_configuration_is_another_run(cohort):
    base = runs.pretrained(SimCLR, cohort, **ARGUMENTS).hash
    other = [
        runs.pretrained(SimCLR, cohort, seed=1, **ARGUMENTS),
        runs.pretrained(SimCLR, cohort, **(ARGUMENTS | {"epochs": 1})),
        runs.pretrained(SimCLR, cohort, **(ARGUMENTS | {"method": {"seconds": 0.5}})),
        runs.pretrained(SimCLR, cohort.select(np.arange(23)), **ARGUMENTS),
    ]
    assert len({base, *(run.hash for run in other)}) == 5


def test_an_interrupted_run_is_resumed_to_the_same_weights(cohort, store, monkeypatch):
    straight = runs.pretrained(SimCLR, cohort, **ARGUMENTS)
    monkeypatch.setenv("ECGTUTORIAL_RUNS", str(store) + "-2")
    loss, calls = SimCLR.loss, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(self, batch)

    monkeypatch.setattr(SimCLR, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.pretrained(SimCLR, cohort, checkpoint_seconds=0.0, **ARGUMENTS)
    resumed = runs.pretrained(SimCLR, cohort, checkpoint_seconds=0.0, **ARGUMENTS)
    assert len(calls) == 5 + 2  # four steps stood in the checkpoint
    for ours, theirs in zip(straight.method.parameters(), resumed.method.parameters()):
        assert torch.equal(ours, theirs)


def test_the_hash_of_a_configuration_ignores_order_and_rejects_objects():
    assert runs.config_hash({"a": 1, "b": [2]}) == runs.config_hash({"b": [2], "a": 1})
    assert runs.config_hash({"a": 1}) != runs.config_hash({"a": 2})
    with pytest.raises(TypeError):
        runs.config_hash({"a": object()})


def row(config, **values):
    return {"method": "m", "seed": "0", "metric": "macro_auc", "value": 0.5, "budget": 0.1,
            "protocol": "probe", "subset": 0, "config": config, **values}  # fmt: skip


def test_a_table_grows_and_keeps_answers_as_ranks(tmp_path):
    table = runs.Table(tmp_path / "deep" / "table.csv")
    assert len(table.read()) == 0
    scores = np.array([[0.2, 5.0], [0.1, 7.0], [0.2, 6.0]])
    table.add([row("aa")], {"aa": scores})
    table.add([row("000000000012", value=0.7)])
    frame = table.read()
    assert list(frame.columns) == list(runs.COLUMNS)
    assert list(frame["config"]) == ["aa", "000000000012"]  # text, not a number
    np.testing.assert_array_equal(table.ranks()["aa"], [[1, 0], [0, 2], [1, 1]])
    table.replace_summary([row("", seed="all")])
    table.replace_summary([row("", seed="all", value=0.9)])
    assert (table.read()["seed"] == "all").sum() == 1 and len(table.read()) == 3
    with pytest.raises(ValueError, match="columns.*'colour'"):
        table.add([row("bb", colour="red")])


def test_a_table_keeps_bootstrap_values_beside_ranks(tmp_path):
    table = runs.Table(tmp_path / "table.csv")
    assert table.samples() == {} and table.ranks() == {}
    scores, values = np.array([[0.2], [0.1], [0.3]]), np.array([0.51, 0.49, 0.5])  # 64 bits
    table.add([row("aa")], {"aa": scores}, {"aa:challenge": values})
    table.add([row("bb", metric="challenge")], samples={"bb:challenge": values + 1})
    table.add([row("cc")], {"cc": scores})
    table.add([row("dd")])
    assert set(table.ranks()) == {"aa", "cc"}
    found = table.samples()
    assert set(found) == {"aa:challenge", "bb:challenge"}
    assert found["aa:challenge"].dtype == np.float32  # as they are, not ranks
    np.testing.assert_allclose(found["bb:challenge"], values + 1, rtol=1e-7)
    table.add([row("aa")], samples={"aa:challenge": values[:2]})  # a cell done again
    assert table.samples()["aa:challenge"].shape == (2,)
    np.testing.assert_array_equal(table.ranks()["aa"], [[1], [0], [2]])


def test_two_processes_may_write_one_table(tmp_path):
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_add_many, args=(tmp_path / "table.csv", name)) for name in "ab"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(runs.Table(tmp_path / "table.csv").read()["config"]) == [
        f"{name}{k}" for name in "ab" for k in range(5)
    ]


def _add_many(path, name):
    for k in range(5):
        runs.Table(path).add([row(f"{name}{k}")])


def test_results_that_are_not_there_say_what_is(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path)
    (tmp_path / "ptb-xl").mkdir()
    (tmp_path / "ptb-xl" / "other.csv").write_text("method\n")
    with pytest.raises(FileNotFoundError, match="no result table.*other.csv"):
        runs.load_results("ptb-xl", "label-efficiency")


# --- what the code behind a table was -----------------------------------------------------------

SOURCE = '''
"""A module."""

import math

LIMIT = 3.0  # mV
FIRST, SECOND = 1, 2


def area(width, height=2):
    """Of a rectangle."""
    return width * height  # mm^2


class Box:
    """With a lid."""

    def open(self):
        """Lift it."""
        return area(1)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder of its own: `changed(new source, ...)` names what changed since `SOURCE`."""
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    (tmp_path / "evaluate").mkdir()
    code = runs._definitions(SOURCE, "evaluate.boxes")

    def changed(source, **said):
        (tmp_path / "evaluate" / "boxes.py").write_text(source)
        return runs.changed_definitions({"code": code, **said})

    changed.code = code
    return changed


def test_definitions_are_functions_classes_and_constants(package):
    names = {name.removeprefix("evaluate.boxes.") for name in package.code}
    assert names >= {"LIMIT", "area", "Box"} and not {"math", "open"} & names
    assert all(len(text) == 8 for text in package.code.values())
    found = runs.definitions(runs)
    assert {"runs.definitions", "runs.Table", "runs.COLUMNS"} <= found.keys()
    assert found == {**runs.definitions(runs), **found}  # the same again
    assert package(SOURCE) == []


def test_words_and_layout_are_no_change(package):
    assert package(SOURCE.replace("# mV", "# of what an electrode picks up")) == []
    assert package(SOURCE.replace("Of a rectangle", "Width times height")) == []
    assert package(SOURCE.replace('        """Lift it."""\n', "")) == []
    assert package(SOURCE.replace('    """With a lid."""\n\n', "")) == []
    assert package(SOURCE.replace("width * height", "(width\n        * height)")) == []
    assert package(SOURCE.replace('"""A module."""', "").replace("import math", "")) == []


def test_new_definitions_are_no_change_and_others_are(package):
    assert package(SOURCE + "\n\ndef new():\n    return 1\n\n\nOTHER = 4\n") == []
    assert package(SOURCE.replace("LIMIT = 3.0", "LIMIT = 3.5")) == ["evaluate.boxes.LIMIT"]
    assert package(SOURCE.replace("height=2", "height=3")) == ["evaluate.boxes.area"]
    assert package(SOURCE.replace("width * height", "width + height")) == ["evaluate.boxes.area"]
    assert package(SOURCE.replace("area(1)", "area(2)")) == ["evaluate.boxes.Box"]
    assert package(SOURCE.replace("Box", "Crate")) == ["evaluate.boxes.Box"]
    assert package("") == sorted(package.code)  # all are gone


def test_a_removed_module_has_lost_all_it_defined(package, tmp_path):
    assert runs.changed_definitions({"code": package.code}) == sorted(package.code)
    assert runs.changed_definitions({"code": {}}) == []


def test_a_reviewed_change_is_named_no_more_until_the_next(package):
    name = "evaluate.boxes.area"
    once = SOURCE.replace("width * height", "height * width")
    now = runs._definitions(once, "evaluate.boxes")[name]
    assert package(once) == [name]
    assert package(once, reviewed={name: now}) == []
    assert package(once, reviewed={name: "00000000"}) == [name]
    again = SOURCE.replace("width * height", "height * width * 1.0")
    assert package(again, reviewed={name: now}) == [name]
    gone = SOURCE.replace("area", "surface")
    assert package(gone, reviewed={name: "gone"}) == ["evaluate.boxes.Box"]
    assert package(gone, reviewed={name: now}) == ["evaluate.boxes.Box", name]
    assert package(SOURCE, reviewed={name: now}) == []  # changed back


def test_two_processes_of_torchrun_share_one_run(tmp_path):
    script = tmp_path / "my_pretraining.py"
    script.write_text("""
import ecgtutorial as ecg, os
from ecgtutorial import runs
from ecgtutorial.methods.simclr import SimCLR

cohort = ecg.open_cohort("simulated", n_patients=40)
run = runs.pretrained(SimCLR, cohort, method={"seconds": 1.0}, epochs=2, batch_size=16,
                      accelerator="cpu", progress=False)
print(f"rank {os.environ['RANK']}: {run.hash} {len(run.log)}")
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for _ in range(2):  # made, then loaded
        done = subprocess.run(
            [*command, script], check=True, timeout=300, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ECGTUTORIAL_CACHE": str(tmp_path)},
        )  # fmt: skip
        said = sorted(re.findall(r"rank (\d): (\w+) (\d+)", done.stdout))
        assert [rank for rank, *_ in said] == ["0", "1"] and said[0][1:] == said[1][1:]
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "run.json").exists()
