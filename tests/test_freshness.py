"""The committed outputs come from the code that stands beside them: each chapter's stamp says so.

A chapter that is named here shows what another code computed. Execute it again (`make outputs
CHAPTER=...`), or, if no number or picture of it moves, say so with `book/_tools/fresh.py --stamp`.
"""

import ast
import sys
from pathlib import Path

import fresh
import nbformat
import pytest
from tidy import tidy

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("[!_]*/*.ipynb"))

PACKAGE = {
    "__init__.py": "def __getattr__(name):\n    from . import cohort\n    return cohort\n",
    "cohort.py": """
from ecgtutorial.datasets import ptbxl, simulated
def open_cohort(name):
    return ptbxl.open() if name == "ptb-xl" else simulated.open()
class Cohort:
    def targets(self):
        return SUPERCLASSES
SUPERCLASSES = ("NORM", "MI")
""",
    "datasets/__init__.py": "",
    "datasets/ptbxl.py": "def open():\n    return 1\n",
    "datasets/simulated.py": """
from .. import cohort
def open(seed=0):
    return cohort.Cohort()
""",
    "encoders/__init__.py": "from .recurrent import Recurrent\n",
    "encoders/recurrent.py": "class Recurrent:\n    '''Of paper B.'''\n    width = 8\n",
    "losses.py": "import math\ndef nt_xent(z):\n    return math.log(_rows(z))\n"
    "def _rows(z):\n    return len(z)\ndef other(z):\n    return 0\n",
}
CHAPTER = """
import ecgtutorial as ecg
from ecgtutorial import encoders, losses as L
cohort = ecg.open_cohort("simulated")
encoder = encoders.Recurrent()
L.nt_xent([1])
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package on disk, in place of the real one."""
    for name, text in PACKAGE.items():
        path = tmp_path / "ecgtutorial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "results/ptb-xl").mkdir(parents=True)
    (tmp_path / "results/ptb-xl/any-lead.csv").write_text("1")
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    return tmp_path / "ecgtutorial"


def chapter(*sources):
    new, names = nbformat.v4, ("setup", "parameters", "first", "second")
    cells = [new.new_code_cell(source, id=name) for name, source in zip(names, sources)]
    return new.new_notebook(cells=cells)


@pytest.fixture
def stamped(package):
    notebook = chapter("%pip install x", "seed = 0", CHAPTER, 'table = load("any-lead")')
    notebook.metadata[fresh.KEY] = nbformat.from_dict(fresh.stamp(notebook))
    assert fresh.stale(notebook) == []
    return notebook


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def whole():
    return fresh.Package()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_outputs_come_from_the_code_of_today(path, whole):
    notebook = nbformat.read(path, as_version=4)
    made = notebook.metadata.get(fresh.KEY, {}).get("versions", {}).get("python", "")
    here = sys.version.split()[0]
    if made and made.rpartition(".")[0] != here.rpartition(".")[0]:
        pytest.skip(f"stamped with Python {made}, and hashes of code are of {here} here")
    changes = fresh.stale(notebook, whole)
    assert not changes, f"{path.relative_to(ROOT)} is stale: {'; '.join(changes)}"


def test_a_chapter_reaches_what_it_uses_and_what_that_uses(stamped):
    assert list(stamped.metadata[fresh.KEY]["definitions"]) == [
        "cohort.Cohort", "cohort.SUPERCLASSES", "cohort.open_cohort", "datasets.simulated.open",
        "encoders.recurrent.Recurrent", "losses._rows", "losses.nt_xent",
    ]  # fmt: skip
    assert list(stamped.metadata[fresh.KEY]["tables"]) == ["results/ptb-xl/any-lead.csv"]
    assert list(stamped.metadata[fresh.KEY]["cells"]) == ["parameters", "first", "second"]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("losses.py", "len(z)", "len(z) + 1", ["definition losses._rows has changed"]),
        ("cohort.py", '"MI")', '"CD")', ["definition cohort.SUPERCLASSES has changed"]),
        ("encoders/recurrent.py", "8", "9",
         ["definition encoders.recurrent.Recurrent has changed"]),
        ("../results/ptb-xl/any-lead.csv", "1", "2",
         ["table results/ptb-xl/any-lead.csv has changed"]),
        ("losses.py", "return 0", "return 1", []),  # not used
        ("datasets/ptbxl.py", "return 1", "return 2", []),  # another cohort
        ("encoders/recurrent.py", "Of paper B.", "Of paper A.", []),  # a docstring
        ("losses.py", "import math", "import math  # the usual one", []),
    ],
)  # fmt: skip
def test_a_change_behind_the_outputs_is_named(stamped, package, file, old, new, says):
    change(package / file, old, new)
    assert fresh.stale(stamped) == says


def test_a_helper_that_is_gone_is_named(stamped, package):
    change(package / "losses.py", "_rows", "_count")
    assert fresh.stale(stamped) == [
        "definition losses._rows is gone", "definition losses.nt_xent has changed",
    ]  # fmt: skip


def test_a_changed_cell_is_named_but_not_the_setup_cell(stamped):
    setup, parameters, first, _ = stamped.cells
    setup.source = "%pip install something else"
    parameters.source = "seed = 0  # of everything"
    assert fresh.stale(stamped) == []
    parameters.source, first.id = "seed = 1", "renamed"
    assert fresh.stale(stamped) == [
        "cell first is gone", "cell parameters has changed", "cell renamed is new",
    ]  # fmt: skip


def test_a_notebook_without_a_stamp_is_stale(package):
    assert fresh.stale(chapter("", "seed = 0")) == ["it has no stamp"]


def test_tidy_keeps_the_stamp(stamped):
    stamped.metadata["papermill"] = {"duration": 1}
    before = dict(stamped.metadata[fresh.KEY])
    metadata = tidy(stamped).metadata
    assert metadata[fresh.KEY] == before and "papermill" not in metadata


def test_the_simulated_tachycardias_count_where_they_are_named(whole):
    named = whole.reached(ast.parse('ecg.open_cohort("simulated-vt")'))
    assert "datasets.simulated_vt.open" in named
    assert "datasets.simulated_vt.open" not in whole.reached(ast.parse("1"))
