"""grade.py: what students hand in is laid back, run apart from the grader's files, and marked."""

import copy
import csv
import importlib.util
import json
import os
from pathlib import Path

import assignments
import grade
import lay_back
import nbformat
import pytest
import sandbox
from test_assignments import cell, mark, tiny

ROOT = Path(__file__).resolve().parents[1]
NEW = nbformat.v4
ISOLATED = sandbox.protected()
needs_bwrap = pytest.mark.skipif(not ISOLATED, reason="bwrap is not installed or may not run")


def handed_out(**more):
    return assignments.student_copy(tiny(), "tiny", **more)


def solved(**more):
    """The student's copy with right answers in it."""
    notebook = handed_out(**more)
    for name in ("double", "middle"):
        cell(notebook, name).source = assignments.without(cell(tiny(), name).source, "x" * 9)[0]
    cell(notebook, "text").source = "Twice is not half."
    return notebook


def came(notebook):
    """The cells as grade.py reads them."""
    return [lay_back.tidy_cell(json.loads(json.dumps(c))) for c in notebook.cells]


def laid_back(notebook):
    """Steps as (kind, id, source), written answers, and the report as {cell: text}."""
    steps, written, report = lay_back.lay_back(tiny(), handed_out(), came(notebook))
    texts = {}
    for name, text in report:
        texts[name] = f"{texts.get(name, '')} {text}"
    return [(s["kind"], s["id"], s["source"]) for s in steps], written, texts


def place(notebook, name):
    return [c.id for c in notebook.cells].index(name)


RIGHT = laid_back(solved())


# laying back, nothing is run ---------------------------------------------------------------------


def test_whole_notebook_needs_no_report():
    steps, written, report = RIGHT
    assert [(kind, name) for kind, name, _ in steps] == [
        ("given", "setup"), ("given", "parameters"), ("answer", "double"),
        ("test", "double-check"), ("test", "double-hidden"), ("answer", "middle"),
        ("test", "middle-hidden"),
    ]  # fmt: skip
    assert report == {} and written == {"text": "Twice is not half."}
    assert "seed + 21" in steps[4][2]


def test_copied_cell_runs_where_the_first_stands_and_the_last_counts():
    notebook = solved()
    twin = copy.deepcopy(cell(notebook, "double"))
    twin.id, twin.source = "another", "def double(x):\n    return x + x"
    notebook.cells.append(twin)
    steps, _, report = laid_back(notebook)
    texts = [text for _, name, text in steps if name == "double"]
    assert len(texts) == 2 and texts[1].endswith("x + x") and steps[4][1] == "double-check"
    assert "stands 2 times" in report["double"]


def test_untouched_copy_of_an_answer_is_left_out():
    notebook = solved()
    twin = copy.deepcopy(cell(handed_out(), "double"))
    twin.id = "another"
    notebook.cells.append(twin)
    assert laid_back(notebook)[0] == RIGHT[0]


def test_inserted_cell_runs_behind_the_one_it_followed():
    notebook = solved()
    notebook.cells.insert(place(notebook, "double"), NEW.new_code_cell("two = 2"))
    notebook.cells.insert(0, NEW.new_markdown_cell("My notes"))
    steps, _, report = laid_back(notebook)
    assert steps[2] == ("answer", "yours after parameters", "two = 2")
    assert steps[:2] + steps[3:] == RIGHT[0]
    assert "not in the released notebook" in report["yours after parameters"]


def test_moved_cells_go_back():
    notebook = solved()
    notebook.cells.append(notebook.cells.pop(place(notebook, "double")))
    steps, _, report = laid_back(notebook)
    assert steps == RIGHT[0]
    assert set(report) == {"double"} and "moved" in report["double"]
    notebook = solved()
    notebook.cells.insert(0, notebook.cells.pop(place(notebook, "middle")))
    steps, _, report = laid_back(notebook)
    assert steps == RIGHT[0] and set(report) == {"middle"}


def test_deleted_and_changed_tests_come_from_the_source():
    notebook = solved()
    del notebook.cells[place(notebook, "double-check")]
    cell(notebook, "double-hidden").source = "pass"
    cell(notebook, "setup").source = "import os"
    steps, _, report = laid_back(notebook)
    assert steps == RIGHT[0]
    assert "deleted" in report["double-check"] and "changed" in report["double-hidden"]
    assert "changed" in report["setup"]


def test_deleted_answer_is_reported():
    notebook = solved()
    del notebook.cells[place(notebook, "double")]
    steps, _, report = laid_back(notebook)
    assert [s for s in RIGHT[0] if s[1] != "double"] == steps
    assert "nothing to grade" in report["double"]


def test_code_turned_to_markdown_is_code_again():
    notebook = solved()
    wrong = cell(notebook, "double")
    notebook.cells[place(notebook, "double")] = NEW.new_markdown_cell(
        wrong.source, id="double", metadata=wrong.metadata
    )
    steps, _, report = laid_back(notebook)
    assert steps == RIGHT[0] and "type was changed" in report["double"]


@pytest.mark.parametrize("ids", ["kept", "in the metadata", "lost"])
def test_metadata_lost_on_the_way(ids):
    notebook = solved()
    for number, one in enumerate(notebook.cells):
        one.metadata = nbformat.from_dict({"id": one.id} if ids == "in the metadata" else {})
        one.id = one.id if ids == "kept" else f"cell-{number}"
    steps, written, report = laid_back(notebook)
    assert steps == RIGHT[0] and written == RIGHT[1]
    assert "metadata was lost" in report["double"]


def test_metadata_lost_moved_and_turned_to_markdown():
    notebook = solved()
    cells = [NEW.new_code_cell(c.source) for c in notebook.cells if c.id not in ("title", "text")]
    cells[2] = NEW.new_markdown_cell(cells[2].source)
    cells.append(NEW.new_markdown_cell("Twice is not half."))
    steps, written, _ = laid_back(NEW.new_notebook(cells=cells))
    assert steps == RIGHT[0] and written == RIGHT[1]


def test_empty_notebook_lays_back_to_the_tests_alone():
    steps, written, report = laid_back(NEW.new_notebook())
    assert {kind for kind, _, _ in steps} == {"given", "test"} and written == {"text": ""}
    assert "nothing to grade" in report["double"] and "nothing to grade" in report["text"]


def test_older_release_keeps_its_answers():
    """Release 1 asked for ``middle`` first, had another check and one part less."""
    notebook = solved(seed=0)
    notebook.metadata["assignment"]["release"] = 1
    cell(notebook, "double-check").source = "assert double(2) == 4"
    del notebook.cells[place(notebook, "middle-hidden")]
    middle = notebook.cells.pop(place(notebook, "middle"))
    notebook.cells.insert(place(notebook, "double"), middle)
    assert laid_back(notebook)[0] == RIGHT[0]


# what is handed in, and by whom ------------------------------------------------------------------


def test_students_by_folder_or_by_file(tmp_path):
    for name in (
        "ada/tiny.ipynb", "grace_tiny.ipynb", "tiny-emmy.ipynb", "ada/.ipynb_checkpoints/x.ipynb",
        "__MACOSX/ada/._tiny.ipynb", "lise/deep/answer.ipynb",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "maria").mkdir()
    found = grade.collect(tmp_path, ["tiny"])
    assert sorted(student for student, _ in found) == ["ada", "emmy", "grace", "lise"]
    [row] = [r for r in grade.without_notebook(tmp_path, found) if r["student"] == "maria"]
    assert row["status"] == "no notebook found"


def test_renamed_notebook_is_recognised():
    notebooks = {"other": NEW.new_notebook(), "tiny": tiny()}
    other = NEW.new_code_cell("import os", metadata=mark("elsewhere", locked=True))
    notebooks["other"].cells = [other]
    notebook, path = solved(), Path("Untitled (1).ipynb")
    assert lay_back.recognise(came(notebook), notebook.metadata, path, notebooks)[0] == "tiny"
    assert lay_back.recognise(came(notebook), {}, path, notebooks) == ("tiny", "its cells")
    assert lay_back.recognise([], {}, Path("ada tiny.ipynb"), notebooks) == (
        "tiny",
        "its file name",
    )
    assert lay_back.recognise([], {"assignment": 3}, path, notebooks) == (None, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "not a readable notebook"),
        ("[" * 100_000, "not a readable notebook"),
        ("[1, 2]", "no list of cells"),
        ('{"cells": 3}', "no list of cells"),
        ("\x00PK\x03", "not a readable notebook"),
    ],
)
def test_unreadable_file_is_a_row(tmp_path, text, message):
    path = tmp_path / "tiny.ipynb"
    path.write_text(text)
    row = grade.grade(("ada", path), {"tiny": tiny()}, {}, {}, ISOLATED)
    assert row["status"].startswith("unreadable") and message in row["status"]
    assert (row["assignment"], row["points"]) == ("tiny", 0)


def test_cells_in_any_state_are_read(tmp_path):
    path = tmp_path / "tiny.ipynb"
    cells = [{"source": ["a\r\n", "b"]}, {}, 3, {"metadata": {"nbgrader": []}, "source": None}]
    path.write_text(json.dumps({"cells": cells, "metadata": None}))
    read, metadata = lay_back.read(path)
    assert [c["source"] for c in read] == ["a\nb", "", "None"] and metadata == {}


def test_seed_of_another_student_is_noticed():
    seeds = {("ada", "tiny"): 5, ("grace", "tiny"): 6}
    assert grade.seed_for("ada", "tiny", {"assignment": {"seed": 5}}, [], seeds) == (5, "")
    seed, note = grade.seed_for("ada", "tiny", {"assignment": {"seed": 6}}, [], seeds)
    assert seed == 5 and "the copy of grace" in note
    assert grade.seed_for("emmy", "tiny", {}, [{"source": "seed = 9"}], seeds) == (9, "")


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys._getframe(1)", "getattr(sys, '_getframe')", "import inspect", "eval('1')",
        "class A:\n    def __eq__(self, other): return True", "open('/proc/self/mem')",
    ],
)  # fmt: skip
def test_reaching_for_the_grader_is_seen(text):
    assert grade.REACHING.search(text)


@pytest.mark.parametrize(
    "text",
    ["model.eval()", "re.compile('a')", "torch.compile(f)", "# inspect the data", "a == b",
     "executed = 1", "def __init__(self): super().__init__()", "frame['f'].back", "process(x)"],
)  # fmt: skip
def test_honest_code_is_not(text):
    assert not grade.REACHING.search(text)


# running -----------------------------------------------------------------------------------------


def do(*steps, seconds=40, memory=sandbox.MEMORY, free=()):
    """Run (kind, source) pairs; return whether each went well, and the outcomes."""
    steps = [{"kind": kind, "id": "x", "source": source} for kind, source in steps]
    outcomes, faked = sandbox.run(steps, seconds, ISOLATED, free, memory)
    assert not faked
    return [o["ok"] for o in outcomes], outcomes


def test_what_answers_change_does_not_help_in_tests():
    good, outcomes = do(
        ("given", "import numpy as np\nfour = 4\ndef total(x):\n    return np.sum(x)"),
        ("answer", "import builtins\nall = len = lambda x: True\nnp.allclose = lambda *a: True"),
        ("answer", "builtins.sum = lambda x: 3\nfour = 5\nnp = None\nvalue = 7"),
        ("answer", "get_ipython().ast_transformers.append(None)\nimport sys\nsys.settrace(print)"),
        ("test", "assert value == 7 and total([1, 2]) == 3 and four == 4 and len([1]) == 1"),
        ("test", "assert np.allclose(1, 2)"),
        ("test", "assert all([0])"),
        ("test", "assert sum([1]) == 3"),
    )
    assert good[4:] == [True, False, False, False]
    assert "numpy.allclose" in outcomes[5]["replaced"]


def test_a_test_leaves_nothing_behind():
    good, _ = do(
        ("answer", "seen = []\ndef answer(x):\n    seen.append(x)\n    return x"),
        ("test", "secret = 5\nassert answer(secret) == 5"),
        ("answer", "assert not seen and 'secret' not in globals()"),
        ("answer", "assert 'secret' not in str(In) + str(get_ipython().history_manager.__dict__)"),
    )
    assert all(good)


def test_functions_that_leave_instead_of_answering_earn_nothing():
    good, outcomes = do(
        ("answer", "import os, sys\ndef leave(): os._exit(0)\ndef stop(): sys.exit(0)"),
        ("test", "leave()"),
        ("test", "stop()"),
        ("test", "assert True"),
        ("answer", "os._exit(0)"),
        ("test", "stop"),
    )
    assert good == [True, False, False, True, False, True]
    assert outcomes[1]["died"] == "crash"


def test_endless_loops_cost_only_their_cell(monkeypatch):
    monkeypatch.setattr(sandbox, "ANSWER", 1 / 40)
    good, outcomes = do(
        ("answer", "def f(): return 1\nwhile True: pass"),
        ("test", "assert f() == 1"),
        ("answer", "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile 1: pass"),
        ("test", "assert f() == 1"),
    )
    assert good == [False, True, False, True]
    assert [grade.said(outcomes[i]) for i in (0, 2)] == ["took too long"] * 2


def test_filling_the_memory_costs_only_its_cell():
    good, outcomes = do(
        ("answer", "def f(): return 1"),
        ("answer", "x = []\nwhile True: x.append(bytearray(1 << 26))"),
        ("test", "assert f() == 1"),
        ("test", "x = []\nwhile True: x.append(bytearray(1 << 26))"),
        ("test", "assert f() == 1"),
        memory=512 << 20,
    )
    assert good == [True, False, True, False, True]
    assert grade.said(outcomes[1]) == "needed too much memory"


def test_time_limit_of_the_whole_notebook():
    _, outcomes = do(*[("answer", "while True: pass")] * 9, seconds=3)
    assert outcomes[-1]["died"] == "not reached"


@needs_bwrap
def test_submission_sees_neither_the_graders_files_nor_the_network(tmp_path):
    secret = tmp_path / "hidden.txt"
    secret.write_text("a hidden test")
    good, outcomes = do(
        ("answer", f"open({str(secret)!r})"),
        ("answer", f"open({str(ROOT / 'book/_tools/grade.py')!r})"),
        ("answer", f"open({str(ROOT / 'tests/test_grade.py')!r})"),
        ("answer", "import ecgtutorial\nopen(ecgtutorial.__file__, 'a')"),
        ("answer", "import os\nassert 'ECGTUTORIAL_DATA' not in os.environ\nopen('x', 'w')"),
        ("answer", "import os\nassert len([p for p in os.listdir('/proc') if p.isdigit()]) < 20"),
        ("answer", "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=2)"),
    )
    assert good == [False, False, False, False, True, True, False]
    assert [o["error"] for o in outcomes[:4]] == ["FileNotFoundError"] * 3 + ["OSError"]


def test_forged_replies_are_not_believed():
    """A worker whose verdicts are all the same is found out by the test that must fail."""
    forge = (
        "import os, json\nwrite = os.write\n"
        "os.write = lambda fd, b: write(fd, b.replace(b'\"ok\": false', b'\"ok\": true '))"
    )
    steps = [{"kind": "answer", "id": "x", "source": forge}]
    steps += [{"kind": "test", "id": "y", "source": "import os\nassert False"}]
    outcomes, faked = sandbox.run(steps, 40, ISOLATED)
    assert faked or not outcomes[1]["ok"]


# from a folder to marks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A class: student to row, and the folder of results."""
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    seeds = {("right", "tiny"): 12, ("empty", "tiny"): 13}

    def hand_in(student, notebook, name="tiny.ipynb", **sources):
        for key, text in sources.items():
            cell(notebook, key.replace("_", "-")).source = text
        (folder / student).mkdir()
        nbformat.write(notebook, folder / student / name)

    hand_in("right", solved(seed=12))
    hand_in("empty", handed_out(seed=13))
    hand_in("guess", solved(), "Copy of Untitled.ipynb", double="def double(x):\n    return 2")
    hand_in("broken", solved(), middle="middle = 1 / 0", double_check="assert True")
    peek = "import sys\ndef double(x):\n    raise ValueError(sys._getframe(1).f_code.co_consts)"
    hand_in("peek", solved(), double=peek)
    hand_in("old", solved())
    path = folder / "old/tiny.ipynb"
    path.write_text(path.read_text().replace('"release": 2', '"release": 1'))
    (folder / "torn").mkdir()
    (folder / "torn/tiny.ipynb").write_text(nbformat.writes(solved())[:500])
    (folder / "nobody").mkdir()
    notebooks = {"tiny": tiny()}
    grade.grade_folder(folder, out, notebooks, isolated=ISOLATED, jobs=2, seeds=seeds)
    with (out / "marks.csv").open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}, out, folder


def test_marks(graded):
    rows = graded[0]
    points = {student: float(row["points"]) for student, row in rows.items()}
    assert points == {
        "right": 6, "empty": 0, "guess": 3, "broken": 4, "peek": 0, "old": 6, "torn": 0, "nobody": 0
    }  # fmt: skip
    assert rows["right"]["max"] == "10" and rows["right"]["by_hand"] == "4"
    assert rows["empty"]["by_hand"] == "0"  # nothing was written
    assert rows["empty"]["parts"].endswith("text 0/4")
    assert "double-hidden 0/3" in rows["guess"]["parts"]
    status = {student: row["status"] for student, row in rows.items()}
    assert status["peek"] == "withheld: double: _getframe" and status["empty"] == "graded"
    assert "older release" in status["old"] and status["torn"].startswith("unreadable")


def test_feedback_helps_and_gives_nothing_away(graded):
    pages = {p.parent.name: p.read_text() for p in (graded[1] / "feedback").glob("*/*.html")}
    assert set(pages) == set(graded[0])
    assert "Any number." in pages["guess"] and "Try 1." not in pages["guess"]
    assert "Add, then divide." in pages["broken"] and "ZeroDivisionError" in pages["broken"]
    assert "Any number." not in pages["right"]
    for text in pages.values():
        assert "seed + 21" not in text and "np.isclose" not in text and "HIDDEN" not in text
    assert "_getframe" not in pages["peek"] and "withheld" in pages["peek"]


def test_marks_by_hand_are_kept(graded, tmp_path):
    _, out, folder = graded
    with (out / "by_hand.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"student": "right", "assignment": "tiny", "part": "text", "points": "", "max": "4",
            "text": "Twice is not half."} in rows  # fmt: skip
    for row in rows:
        row["points"] = "3.5" if row["student"] == "right" else ""
    grade.write_table(tmp_path / "by_hand.csv", list(rows[0]), rows)
    only = tmp_path / "in"
    (only / "right").mkdir(parents=True)
    (only / "right/tiny.ipynb").write_bytes((folder / "right/tiny.ipynb").read_bytes())
    [row] = grade.grade_folder(only, tmp_path, {"tiny": tiny()}, isolated=ISOLATED)
    assert (row["points"], row["by_hand"], row["status"]) == (9.5, 0, "graded")


def test_text_is_no_formula_in_a_spreadsheet():
    assert grade.safe("=HYPERLINK(1)") == "'=HYPERLINK(1)" and grade.safe(-1) == -1


def test_newest_counts_unless_unreadable():
    row = {"student": "ada", "assignment": "tiny", "status": "graded"}
    first, second = row | {"file": Path("1")}, row | {"file": Path("2")}
    [kept] = grade.newest([copy.copy(first), copy.copy(second)])
    assert kept["file"].name == "2" and "also handed in: 1" in kept["status"]
    [kept] = grade.newest([first, second | {"status": "unreadable: empty"}])
    assert kept["file"].name == "1"


def test_without_a_sandbox_it_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "protected", lambda: False)
    monkeypatch.setattr("sys.argv", ["grade.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="apt-get install bubblewrap"):
        grade.main()


# the book's own assignments ----------------------------------------------------------------------

EVERY = os.environ.get("ECGTUTORIAL_COURSE") == "all"  # make check-course
NAMES = list(assignments.sources())[: None if EVERY else 1]


def wrong_answers(name):
    path = ROOT / "tests" / "course" / f"wrong_{name.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location("wrong", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def groups(wrong):
    """Wrong answers that share neither cells nor tests can stand in one notebook, to save time."""
    kept = []
    for answers in wrong.values():
        sources = {k: v for k, v in answers.items() if k != "points"}
        for group in kept if not EVERY else ():
            if not set(sources) & set(group[0]) and not set(answers["points"]) & set(group[1]):
                group[0].update(sources)
                group[1].update(answers["points"])
                break
        else:
            kept.append((sources, dict(answers["points"])))
    return kept


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_solution_empty_copy_and_wrong_answers_of_the_book(name, tmp_path):
    source = assignments.sources(only=[name])[name]
    most = assignments.points(source)
    solution = assignments.instructor_copy(source, name)
    expected = {"solution": most, "empty": dict.fromkeys(most, 0)}
    handed = {"solution": solution, "empty": assignments.student_copy(source, name)}
    wrong = wrong_answers(name)
    assert len(wrong) >= 6
    for number, (sources, points) in enumerate(groups(wrong)):
        notebook = copy.deepcopy(solution)
        for one in notebook.cells:
            one.source = sources.get(one.metadata.get("nbgrader", {}).get("grade_id"), one.source)
        handed[f"wrong-{number}"], expected[f"wrong-{number}"] = notebook, most | points
    for student, notebook in handed.items():
        (tmp_path / "in" / student).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "in" / student / f"{name}.ipynb")
    rows = grade.grade_folder(
        tmp_path / "in", tmp_path / "out", {name: source}, isolated=ISOLATED, jobs=2
    )
    for row in rows:
        got = {part["id"]: part["points"] for part in row["parts"] if part["points"] is not None}
        wanted = {k: v for k, v in expected[row["student"]].items() if k in got}
        assert got == wanted, (row["student"], row["status"], row["errors"])
        lost = [p for p in row["parts"] if got.get(p["id"], p["max"]) < p["max"]]
        assert all(p["hint"] for p in lost if p["outcome"] != "not answered")
