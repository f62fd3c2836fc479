"""assignments.py: what students receive holds no solution, no hidden test and no hint."""

import csv
import json
import zipfile

import assignments
import nbformat
import pytest

NEW = nbformat.v4


def mark(grade_id, **more):
    flags = {"grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": {"schema_version": 3, "grade_id": grade_id} | flags | more}


def tiny():
    """An assignment of 10 points with every kind of cell."""
    given, test = {"locked": True}, {"grade": True, "locked": True}
    cells = [
        NEW.new_markdown_cell("# Tiny", id="title"),
        NEW.new_code_cell(
            "import numpy as np\n\n\ndef total(values):\n    return np.sum(values)",
            id="setup", metadata=mark("setup", **given),
        ),
        NEW.new_code_cell("seed = 0  # yours", id="parameters",
                          metadata=mark("parameters", **given) | {"tags": ["parameters"]}),
        NEW.new_code_cell(
            "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
            id="double", metadata=mark("double", solution=True),
        ),
        NEW.new_code_cell("assert double(1) == 2, 'twice 1 is 2'", id="double-check",
                          metadata=mark("double-check", points=1, **test) | {"hint": "Try 1."}),
        NEW.new_code_cell(
            "# Hidden tests: 3 points\n### BEGIN HIDDEN TESTS\nassert double(seed + 21) == 2 * "
            "(seed + 21)\n### END HIDDEN TESTS", id="double-hidden",
            metadata=mark("double-hidden", points=3, **test) | {"hint": "Any number."},
        ),
        NEW.new_code_cell("middle = np.mean([1, 3])", id="middle",
                          metadata=mark("middle", solution=True)),
        NEW.new_code_cell(
            "### BEGIN HIDDEN TESTS\nassert np.isclose(middle, 2)\n### END HIDDEN TESTS",
            id="middle-hidden",
            metadata=mark("middle-hidden", points=2, **test) | {"hint": "Add, then divide."},
        ),
        NEW.new_markdown_cell("What I expect of you.", id="text",
                              metadata=mark("text", grade=True, solution=True, points=4)),
    ]  # fmt: skip
    notebook = NEW.new_notebook(cells=cells)
    notebook.metadata["assignment"] = {"release": 2, "minutes": 1}
    return notebook


def cell(notebook, name):
    [found] = [c for c in notebook.cells if c.id == name]
    return found


def test_source_is_in_order():
    assignments.check(tiny(), "tiny")
    assert assignments.points(tiny()) == {
        "double-check": 1, "double-hidden": 3, "middle-hidden": 2, "text": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("title", {"source": "### BEGIN SOLUTION\n1\n### END SOLUTION"}, "outside a solution cell"),
        ("setup", {"source": "### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS"}, "outside a test"),
        ("double", {"source": "### BEGIN SOLUTION\n1"}, "END SOLUTION is missing"),
        ("double", {"source": "### END SOLUTION\n1"}, "do not alternate"),
        ("double", {"metadata": mark("setup", solution=True)}, "setup: this grade_id stands twice"),
        ("text", {"metadata": mark("text", grade=True)}, "points is None"),
    ],
)
def test_unfit_source_is_refused_by_cell(name, change, message):
    notebook = tiny()
    cell(notebook, name).update(nbformat.from_dict(change))
    with pytest.raises(ValueError, match=f"tiny, cell .*{message}"):
        assignments.check(notebook, "tiny")


def test_source_without_release_or_points_is_refused():
    notebook = tiny()
    notebook.metadata["assignment"] = {}
    with pytest.raises(ValueError, match="assignment.release is None"):
        assignments.check(notebook, "tiny")
    notebook = tiny()
    notebook.cells = notebook.cells[:3]
    with pytest.raises(ValueError, match="no cell carries points"):
        assignments.check(notebook, "tiny")


def test_student_copy_holds_the_task_and_nothing_more():
    copy = assignments.student_copy(tiny(), "tiny", seed=17, student="ada")
    nbformat.validate(copy)
    stub = "    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert cell(copy, "double").source == f"def double(x):\n{stub}"
    assert cell(copy, "middle").source == "# YOUR CODE HERE\nraise NotImplementedError()"
    assert cell(copy, "text").source == "YOUR ANSWER HERE"
    assert cell(copy, "double-check").source == cell(tiny(), "double-check").source
    assert cell(copy, "double-hidden").source == "# Hidden tests: 3 points"
    assert cell(copy, "parameters").source == "seed = 17  # yours"
    text = nbformat.writes(copy)
    for secret in ("return 2", "seed + 21", "np.isclose", "SOLUTION", "HIDDEN TESTS", "Any number"):
        assert secret not in text
    expected = {"name": "tiny", "release": 2, "minutes": 1, "seed": 17, "student": "ada"}
    assert copy.metadata["assignment"] == expected


def test_locks_and_checksums_are_nbgraders():
    copy = assignments.student_copy(tiny(), "tiny")
    locked = [c.id for c in copy.cells if c.metadata.get("editable") is False]
    assert locked == ["setup", "parameters", "double-check", "double-hidden", "middle-hidden"]
    assert not cell(copy, "double").metadata["deletable"]
    # md5 of source, type, grade, solution, locked, grade_id and points, as nbgrader 0.9.6 has it
    assert cell(copy, "text").metadata["nbgrader"]["checksum"] == "7688a8210d93d8631013714c460719a8"
    assert (
        cell(copy, "double-check").metadata["nbgrader"]["checksum"]
        == "cfde20a1196226d2a0ecb471acb5e8d4"
    )


def test_seed_is_the_same_everywhere_and_differs_between_students():
    assert assignments.seed_of("ada", "tiny") == assignments.seed_of("ada", "tiny") == 978911
    seeds = {assignments.seed_of(f"student-{n}", "tiny") for n in range(200)}
    assert len(seeds) > 195
    assert assignments.seed_of("ada", "other") != assignments.seed_of("ada", "tiny")


def test_three_folders_for_two_students(tmp_path):
    manifest = assignments.make({"tiny": tiny()}, tmp_path, ["ada", "grace"])
    assert manifest["tiny"]["points"] == 10
    solution = nbformat.read(tmp_path / "instructor/tiny.ipynb", 4)
    assert "return 2 * x" in cell(solution, "double").source
    assert "seed + 21" in cell(solution, "double-hidden").source
    with (tmp_path / "instructor/seeds.csv").open() as file:
        seeds = {row["student"]: int(row["seed"]) for row in csv.DictReader(file)}
    for student in ("ada", "grace"):
        copy = nbformat.read(tmp_path / f"student/{student}/tiny.ipynb", 4)
        assert cell(copy, "parameters").source == f"seed = {seeds[student]}  # yours"
    with zipfile.ZipFile(tmp_path / "release/tiny-r2.zip") as archive:
        assert archive.namelist() == ["ada/tiny.ipynb", "grace/tiny.ipynb"]
        assert b"return 2" not in archive.read("ada/tiny.ipynb")
    assert json.loads((tmp_path / "release/manifest.json").read_text()) == manifest
    packed = (tmp_path / "release/tiny-r2.zip").read_bytes()
    assignments.make({"tiny": tiny()}, tmp_path, ["ada", "grace"])
    assert (tmp_path / "release/tiny-r2.zip").read_bytes() == packed  # the same, whenever made


def test_one_copy_for_all(tmp_path):
    assignments.make({"tiny": tiny()}, tmp_path)
    copy = nbformat.read(tmp_path / "student/tiny.ipynb", 4)
    assert cell(copy, "parameters").source == "seed = 0  # yours"
    assert "seed" not in copy.metadata["assignment"]


def test_students_come_from_a_list_or_a_file(tmp_path):
    (tmp_path / "class.txt").write_text("ada\n\ngrace\nada\n", encoding="utf-8")
    assert assignments.students_from(str(tmp_path / "class.txt")) == ["ada", "grace"]
    assert assignments.students_from("ada, grace") == ["ada", "grace"]
    for name in ("../up", "a/b", ".hidden"):
        with pytest.raises(SystemExit, match="cannot name a folder"):
            assignments.students_from(name)


def test_unknown_assignment_is_named(tmp_path):
    nbformat.write(tiny(), tmp_path / "tiny.ipynb")
    assert list(assignments.sources(tmp_path)) == ["tiny"]
    with pytest.raises(SystemExit, match="no assignment huge. There are: tiny"):
        assignments.sources(tmp_path, ["huge"])


SOURCES = assignments.sources()


@pytest.mark.parametrize("name", SOURCES)
def test_what_the_book_hands_out(name):
    """20 points each, an independent look for solutions, and a hint for every test."""
    source = SOURCES[name]
    assert sum(assignments.points(source).values()) == 20
    copy = assignments.student_copy(source, name, seed=1)
    text = nbformat.writes(copy)
    assert not any(word in text for word in ("BEGIN ", "END SOLUTION", "END HIDDEN", '"hint"'))
    for original, handed in zip(source.cells, copy.cells, strict=True):
        secret = False
        for line in original.source.splitlines():
            secret |= "### BEGIN" in line
            if secret and len(line.strip()) > 12:
                assert line not in handed.source
            secret &= "### END" not in line
        if assignments.kind(original) == "test":
            assert original.metadata.get("hint"), f"{original.id} has no hint"
    assert any("seed = 1" in c.source for c in copy.cells if assignments.has_parameters(c))
