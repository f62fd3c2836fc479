"""The tables in `results/` behind which code or configuration has changed since.

A table that is named here was made by other code, or holds other cells, than the experiment of its
name would make today: fill it again, or say in its JSON why it stands.
"""

import contextlib
import sys

import pandas as pd
import pytest

from ecgtutorial import experiments, grid, runs
from ecgtutorial.experiments import common

TABLES = sorted(runs.results_folder().glob("*/*.json"))
FILLED = [path for path in TABLES if path.stem in experiments.EXPERIMENTS]


def called(path):
    return f"{path.parent.name}/{path.stem}"


# --- code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TABLES, ids=called)
def test_no_code_behind_a_table_has_changed(path):
    how = runs.load_provenance(path)
    if not isinstance(how.get("code"), dict):
        pytest.skip("its JSON names no definitions")
    minor, now = (v.rpartition(".")[0] for v in (how["versions"]["python"], sys.version.split()[0]))
    if minor != now:  # `ast.unparse` may write the same code in another way
        pytest.skip(f"made with Python {minor}, and hashes of definitions are of {now} here")
    changed = runs.changed_definitions(how)
    assert not changed, (
        f"{called(path)} was made before a change of {', '.join(changed)}. Fill it again (`make "
        f"results`), or, if no number of it moves, note in {path.name} under `reviewed` each of "
        'these names with its hash of today, or with "gone"'
    )


# --- configuration -----------------------------------------------------------------------------


class Asked(Exception):
    """Raised where an experiment begins to compute."""


@pytest.fixture
def wanted(monkeypatch):
    """`wanted(name, cohort, scale, seeds, path)`: {hash: (method, seed)} that it would fill."""
    found = {}

    def fill(table, jobs, progress=True):
        for job in jobs:
            found.update(dict.fromkeys(job.cells, (job.entrant.method, str(job.entrant.seed))))
        raise Asked

    def filled(*arguments, **options):  # an experiment may call it several times
        with contextlib.suppress(Asked):
            common.filled(*arguments, **options)

    monkeypatch.setattr(grid, "fill", fill)
    for name, module in list(sys.modules.items()):
        if name.startswith("ecgtutorial.experiments.") and hasattr(module, "filled"):
            if module is not common:
                monkeypatch.setattr(module, "filled", filled)

    def ask(name, cohort, scale, seeds, path, **more):
        found.clear()
        experiments.EXPERIMENTS[name](cohort, scale, seeds, path, progress=False, **more)
        return dict(found)

    return ask


@pytest.fixture(scope="session")
def open_once(request):
    """Cohorts of the tables, each opened or made once."""
    cohorts = {}

    def open_for(path):
        name, how = path.parent.name, runs.load_provenance(path)
        rate = experiments.rate_of(path.stem) or experiments.SCALES[how["scale"]]["fs"]
        key = name, how["scale"], rate
        if key not in cohorts:
            data = request.getfixturevalue("ptbxl_folder") if name == "ptb-xl" else None
            cohorts[key] = experiments.open_for(how["scale"], name, data, rate)
        return cohorts[key]

    return open_for


def amiss(asked, there, seeds, not_run=()):
    """What is wrong with the cells of a table, in words; empty if nothing is.

    `asked`, `there`: {hash: (method, seed)} of the cells that an experiment would fill and of those
    in its table. A method may be missing at a seed altogether, if it is there at another, or if the
    table's JSON says so under `not_run`.
    """
    present, methods = set(there.values()), {method for method, _ in there.values()}
    missing = pd.Series(
        [who for h, who in asked.items() if h not in there
         and (who in present or who[0] not in methods | set(not_run))],
        dtype=object,
    )  # fmt: skip
    strange = pd.Series([who for h, who in there.items() if h not in asked], dtype=object)
    return [
        f"{n} cells of {method}, seed {seed}, {what}"
        for what, cells in (
            ("are missing", missing),
            (f"would not be filled today (seeds {seeds})", strange),
        )
        for (method, seed), n in cells.value_counts().sort_index().items()
    ]


@pytest.mark.parametrize("path", FILLED, ids=called)
def test_a_table_holds_the_cells_of_its_experiment(
    path, wanted, open_once, tmp_path, monkeypatch, request
):  # fmt: skip
    how, cohort = runs.load_provenance(path), open_once(path)
    more, unseen = {}, ()
    if path.stem == "unlabelled":  # its simulated hearts take minutes to make: without them
        monkeypatch.setitem(common.SIMULATED, how["scale"], {"n_patients": 20, "pretraining": {}})
        more, unseen = {"more": request.getfixturevalue("cinc2011_folder")}, "@simulated"
    assert cohort.fingerprint == how["cohort_fingerprint"], (
        f"{called(path)} is of {how['cohort_fingerprint']}; {cohort!r} has {cohort.fingerprint}"
    )
    table = tmp_path / "table.csv"
    asked = wanted(path.stem, cohort, how["scale"], how["seeds"], table, **more)
    frame = runs.Table(path.with_suffix(".csv")).read()
    cells = frame[frame["seed"] != "all"]
    there = dict(zip(cells["config"], zip(cells["method"], cells["seed"])))
    if unseen:
        asked, there = (
            {h: who for h, who in cells.items() if not who[0].endswith(unseen)}
            for cells in (asked, there)
        )
    assert asked and there
    wrong = amiss(asked, there, how["seeds"], how.get("not_run", ()))
    assert not wrong, (
        f"{called(path)}: {'; '.join(wrong)}. Its experiment's settings have changed since: fill "
        "it again (`make results`), which computes what is missing, and take out what is strange"
    )


def test_cells_that_are_missing_or_strange_are_named():
    asked = {"a": ("cpc", "0"), "b": ("cpc", "0"), "c": ("cpc", "1"), "d": ("byol", "0")}
    assert amiss(asked, asked, [0, 1]) == []
    assert amiss(asked, {h: asked[h] for h in "abd"}, [0, 1]) == []  # of cpc seed 1 nothing
    assert amiss(asked, {h: asked[h] for h in "bcd"}, [0, 1]) == [
        "1 cells of cpc, seed 0, are missing"
    ]
    assert amiss(asked, {h: asked[h] for h in "abc"}, [0, 1]) == [
        "1 cells of byol, seed 0, are missing"
    ]
    assert amiss(asked, {h: asked[h] for h in "abc"}, [0, 1], ["byol"]) == []
    assert amiss(asked, asked | {"e": ("cpc", "2")}, [0, 1]) == [
        "1 cells of cpc, seed 2, would not be filled today (seeds [0, 1])"
    ]


def test_a_changed_setting_is_noticed(wanted, open_once, tmp_path, monkeypatch):
    """On simulated hearts, which are always there."""
    path = runs.results_folder() / "simulated" / "linear-evaluation.json"
    cohort = open_once(path)
    name, seeds, table = "linear-evaluation", [0], tmp_path / "table.csv"
    before = wanted(name, cohort, "full", seeds, table)
    assert before == wanted(name, cohort, "full", seeds, table) and not table.exists()
    changed = experiments.SCALES["full"]["fine_tuning"] | {"epochs": 7}
    monkeypatch.setitem(experiments.SCALES["full"], "fine_tuning", changed)
    after = wanted(name, cohort, "full", seeds, table)
    new = {who for h, who in after.items() if h not in before}
    assert {method for method, _ in new} == {
        "supervised-xresnet", "supervised-cpc", *experiments.MEHARI
    }  # fmt: skip
    assert len(set(after) & set(before)) == len(after) // 2  # probes stay
