"""Write what an instructor hands out: student copies, instructor copies and a release to upload.

    python book/_tools/assignments.py                         # every assignment, one copy for all
    python book/_tools/assignments.py --students students.txt # a variant for each student
    python book/_tools/assignments.py --students ada,grace --only 1-leads

A source, book/course/assignments/NAME.ipynb, is in nbgrader's cell format (schema 3), so nbgrader
reads all copies, too. _build/course holds afterwards

    student/       the notebooks without solutions, hidden tests and hints; a folder per student
    instructor/    the notebooks with them, and seeds.csv: who got which variant
    release/       NAME-rN.zip, the student copies of release N of one assignment; manifest.json
"""

import argparse
import copy
import csv
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "book" / "course" / "assignments"
OUT = ROOT / "_build" / "course"
CODE_STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # both as nbgrader writes them
TEXT_STUB = "YOUR ANSWER HERE"


def kind(cell):
    """Return what a cell is for: "manual", "test", "answer", "given" or "free"."""
    mark = cell.metadata.get("nbgrader", {})
    if mark.get("solution"):
        return "manual" if mark.get("grade") else "answer"
    if mark.get("grade"):
        return "test"
    return "given" if mark.get("locked") else "free"


def points(notebook):
    """Return the points of every part: grade id to points."""
    marks = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    return {mark["grade_id"]: mark["points"] for mark in marks if mark.get("grade")}


def without(source, region, stub=()):
    """Return a source with what stands between BEGIN and END of a region replaced, and how many."""
    kept, inside, count = [], False, 0
    for line in source.split("\n"):
        if f"BEGIN {region}" in line and not inside:
            indent = re.match(r"\s*", line).group()
            kept += [indent + text for text in stub]
            inside, count = True, count + 1
        elif f"END {region}" in line and inside:
            inside = False
        elif f"BEGIN {region}" in line or f"END {region}" in line:
            raise ValueError(f"BEGIN and END {region} do not alternate")
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"END {region} is missing")
    return "\n".join(kept), count


def check(notebook, name):
    """Raise ValueError, naming the cell, where a source is not what the tools below rely on."""
    release = notebook.metadata.get("assignment", {}).get("release")
    if not isinstance(release, int):
        raise ValueError(f"{name}: metadata assignment.release is {release!r}, not a whole number")
    seen = set()
    for cell in notebook.cells:
        mark, role = cell.metadata.get("nbgrader", {}), kind(cell)
        here = f"{name}, cell {mark.get('grade_id', cell.get('id'))}"
        try:
            solutions = without(cell.source, "SOLUTION")[1]
            hidden = without(cell.source, "HIDDEN TESTS")[1]
        except ValueError as error:
            raise ValueError(f"{here}: {error}") from None
        if solutions and role not in ("answer", "manual"):
            raise ValueError(f"{here}: a solution outside a solution cell would be handed out")
        if hidden and role != "test":
            raise ValueError(f"{here}: hidden tests outside a test cell would be handed out")
        if role == "free":
            continue
        if mark["grade_id"] in seen:
            raise ValueError(f"{here}: this grade_id stands twice")
        seen.add(mark["grade_id"])
        if role in ("test", "manual") and not mark.get("points", -1) >= 0:
            raise ValueError(f"{here}: points is {mark.get('points')!r}, not a number from 0")
    if not points(notebook):
        raise ValueError(f"{name}: no cell carries points")


def read_source(path):
    """Return a source notebook. Raises ValueError if it is not fit to be handed out."""
    notebook = nbformat.read(path, as_version=4)
    check(notebook, Path(path).stem)
    return notebook


def sources(folder=SOURCES, only=()):
    """Return every assignment, name to notebook, in the order of the names."""
    found = {path.stem: path for path in sorted(Path(folder).glob("*.ipynb"))}
    if unknown := sorted(set(only) - set(found)):
        there = ", ".join(found) or "none"
        raise SystemExit(f"{folder}: no assignment {', '.join(unknown)}. There are: {there}.")
    return {name: read_source(path) for name, path in found.items() if not only or name in only}


def seed_of(student, name):
    """Return a student's seed for an assignment, the same on every machine."""
    digest = hashlib.sha256(f"{student}/{name}".encode()).digest()
    return int.from_bytes(digest[:4]) % 1_000_000


def with_seed(source, seed):
    """Return the source of the parameters cell with this seed; None leaves it as it is."""
    if seed is None:
        return source
    return re.sub(r"^seed = [^\s#]+", f"seed = {seed}", source, count=1, flags=re.M)


def has_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def checksum(cell):
    """nbgrader's checksum of a cell, by which it sees that an answer was left untouched."""
    mark, role = cell.metadata["nbgrader"], kind(cell)
    parts = [cell.source, cell.cell_type, mark["grade"], mark["solution"]]
    parts += [role in ("test", "given"), mark["grade_id"]]
    parts += [float(mark["points"])] if mark["grade"] else []
    return hashlib.md5("".join(map(str, parts)).encode()).hexdigest()


def seal(notebook, name, seed, student=None):
    """Set the seed, clear the outputs, and lock and sign the cells, as nbgrader does."""
    assignment = {"name": name, "release": notebook.metadata["assignment"]["release"]}
    if "minutes" in notebook.metadata["assignment"]:
        assignment["minutes"] = notebook.metadata["assignment"]["minutes"]
    if seed is not None:
        assignment["seed"] = seed
    if student is not None:
        assignment["student"] = student
    notebook.metadata["assignment"] = assignment
    for cell in notebook.cells:
        if has_parameters(cell):
            cell.source = with_seed(cell.source, seed)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        role = kind(cell)
        if role != "free":
            cell.metadata["deletable"] = False
            if role in ("test", "given"):
                cell.metadata["editable"] = False
            cell.metadata["nbgrader"]["cell_type"] = cell.cell_type
            cell.metadata["nbgrader"]["checksum"] = checksum(cell)
    return notebook


def student_copy(notebook, name, seed=None, student=None):
    """Return a source without solutions, hidden tests and hints."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("hint", None)
        cell.source = without(cell.source, "HIDDEN TESTS")[0]
        if kind(cell) in ("answer", "manual"):
            stub = CODE_STUB if cell.cell_type == "code" else TEXT_STUB
            text, replaced = without(cell.source, "SOLUTION", stub.split("\n"))
            cell.source = text if replaced else stub
    return seal(notebook, name, seed, student)


def instructor_copy(notebook, name):
    """Return a source with everything in it, locked and signed."""
    return seal(copy.deepcopy(notebook), name, None)


def students_from(text):
    """Return the students of a file with one a line, or of a list with commas."""
    path = Path(text)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    students = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    for student in students:
        if not re.fullmatch(r"[\w.@+-]+", student) or student.startswith("."):
            raise SystemExit(
                f"assignments.py: {student!r} cannot name a folder. "
                "Use letters, digits and . _ - @ +"
            )
    return students


def pack(path, files):
    """Write a zip of texts that is the same whenever it is made."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), text)


def make(notebooks, out, students=()):
    """Write the three folders of all assignments; return the manifest."""
    for folder in ("student", "instructor", "release"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    (out / "instructor").chmod(0o700)
    manifest, seeds = {}, io.StringIO()
    table = csv.writer(seeds, lineterminator="\n")
    table.writerow(["student", "assignment", "seed"])
    for name, notebook in notebooks.items():
        (out / "instructor" / f"{name}.ipynb").write_text(
            nbformat.writes(instructor_copy(notebook, name)), encoding="utf-8"
        )
        copies = {}
        for student in students or [None]:
            seed = None if student is None else seed_of(student, name)
            file = f"{name}.ipynb" if student is None else f"{student}/{name}.ipynb"
            copies[file] = nbformat.writes(student_copy(notebook, name, seed, student))
            if student is not None:
                table.writerow([student, name, seed])
            (out / "student" / file).parent.mkdir(exist_ok=True)
            (out / "student" / file).write_text(copies[file], encoding="utf-8")
        release = notebook.metadata["assignment"]["release"]
        pack(out / "release" / f"{name}-r{release}.zip", copies)
        manifest[name] = {
            "release": release, "points": sum(points(notebook).values()),
            "source": hashlib.sha256(nbformat.writes(notebook).encode()).hexdigest(),
            "copies": {file: hashlib.sha256(text.encode()).hexdigest()
                       for file, text in copies.items()},
        }  # fmt: skip
    (out / "instructor" / "seeds.csv").write_text(seeds.getvalue(), encoding="utf-8")
    text = json.dumps(manifest, indent=1)
    (out / "release" / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--students", default="", help="file with one a line, or a list with commas"
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--sources", type=Path, default=SOURCES)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    try:
        notebooks = sources(arguments.sources, arguments.only)
    except ValueError as error:
        raise SystemExit(f"assignments.py: {error}") from None
    if not notebooks:
        raise SystemExit(f"assignments.py: no notebook in {arguments.sources}")
    students = students_from(arguments.students) if arguments.students else []
    for name, row in make(notebooks, arguments.out, students).items():
        copies = f"{len(row['copies'])} student copies" if students else "one student copy"
        print(f"{name:20} release {row['release']}, {row['points']} points, {copies}")
    print(f"In {arguments.out}: student, instructor (keep it to yourself), release (upload it)")


if __name__ == "__main__":
    main()
