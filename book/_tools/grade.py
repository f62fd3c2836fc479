"""Grade a folder of submissions: marks.csv, and a page of feedback per student and assignment.

    python book/_tools/grade.py submissions
    python book/_tools/grade.py submissions --out marks --jobs 2 --only 1-leads

Laid out as FOLDER/STUDENT/NAME.ipynb, or flat as FOLDER/STUDENT_NAME.ipynb. A renamed notebook is
recognised by its metadata, else by its cells. Each is laid back onto the released assignment and
run in a sandbox of its own (bubblewrap): no network, no file of yours, limits on time and memory.
What cannot be graded gets a row that says why; it never stops the others.

Written answers wait in by_hand.csv. Fill in its column `points` and grade again into the same
folder. A submission that reaches for the grader's inner parts gets its marks withheld until you
have looked at it and name the student after --reviewed.
"""

import argparse
import ast
import csv
import html
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
from assignments import OUT, SOURCES, has_parameters, kind, sources, student_copy, with_seed
from lay_back import defined, lay_back, read, recognise
from sandbox import protected, run
from tqdm import tqdm

# Nothing in an answer needs these; what prints hidden tests or fakes a verdict does.
REACHING = re.compile(
    r"\b(_getframe|_current_frames|currentframe|f_(?:back|locals|globals|code)|[tg][bi]_frame"
    r"|ctypes|_exit|settrace|setprofile|addaudithook|register_at_fork|__subclasses__|__builtins__"
    r"|get_(?:objects|referrers|referents)|mmap|__(?:eq|ne|lt|le|gt|ge|bool|array\w*)__"
    r"|__torch_function__)\b"
    r"|\bimport\s+(?:inspect|builtins|importlib|gc)\b|\b(?:inspect|builtins|importlib)\."
    r"|(?<![.\w])(?:eval|exec|compile|__import__)\s*\(|/proc\b|HIDDEN TESTS"
)


def collect(folder, names):
    """Return (student, path) of every notebook in a folder of submissions, the newest last."""
    found = []
    for path in sorted(folder.rglob("*.ipynb"), key=lambda p: (p.stat().st_mtime, p)):
        parts = path.relative_to(folder).parts
        if any(part.startswith((".", "__MACOSX")) for part in parts) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            continue  # a link, perhaps to the solution
        stem = path.stem
        for name in names:
            stem = stem.replace(name, "")
        student = parts[0] if len(parts) > 1 else stem.strip(" _-.") or path.stem
        found.append((student, path))
    return found


# marks -------------------------------------------------------------------------------------------

EMPTY = {"student": "", "assignment": "", "points": 0, "max": "", "by_hand": 0, "status": "",
         "parts": [], "report": [], "errors": [], "written": {}, "file": None}  # fmt: skip

ENDED = {"time": "took too long", "memory": "needed too much memory",
         "crash": "ended the program", "not reached": "not reached in time"}  # fmt: skip


def said(outcome, secret=False):
    """Say in words how a cell went; of a hidden test only the kind of error."""
    if outcome["ok"]:
        return "passed"
    if "died" in outcome:
        return ENDED.get(outcome["died"], "ended the program")
    if outcome["message"] == "time limit":
        return ENDED["time"]
    what = "did not hold" if outcome["error"] == "AssertionError" else outcome["error"]
    return what if secret or not outcome["message"] else f"{what}: {outcome['message']}"


def judge(source, steps, outcomes, written, by_hand):
    """Return one row per part: id, points (None: waits for a person), max, outcome, hint."""
    went = {s["id"]: o for s, o in zip(steps, outcomes, strict=True) if s["kind"] == "test"}
    parts = []
    for cell in source.cells:
        role = kind(cell)
        if role not in ("test", "manual"):
            continue
        mark = cell.metadata["nbgrader"]
        name, most = mark["grade_id"], mark["points"]
        hint = cell.metadata.get("hint", "")
        if role == "manual":
            given = by_hand.get(name) if written.get(name) else 0
            outcome = "not answered" if not written.get(name) else "marked by hand"
            outcome = "waits to be marked by hand" if given is None else outcome
            earned = None if given is None else min(given, most)
        else:
            secret = "BEGIN HIDDEN TESTS" in cell.source
            outcome = said(went[name], secret)
            earned = most if went[name]["ok"] else 0
        lost = earned is not None and earned < most
        parts.append({"id": name, "points": earned, "max": most, "outcome": outcome,
                      "hint": hint if lost else ""})  # fmt: skip
    return parts


def bound(notebook):
    """Return the names that the answers are to set, so a given value of that name is not kept."""
    names = set()
    for cell in notebook.cells:
        if kind(cell) == "answer" and cell.cell_type == "code":
            text = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M)
            nodes = ast.walk(ast.parse(text))
            names |= {
                n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
            names |= defined(cell.source)
    return names


def seed_for(student, name, metadata, cells, seeds):
    """Return the seed to grade with, and a note if the copy is another student's."""
    assignment = metadata.get("assignment")
    carried = assignment.get("seed") if isinstance(assignment, dict) else None
    if not isinstance(carried, int):
        lines = [re.match(r"seed = (\d+)", cell["source"]) for cell in cells]
        carried = next((int(line[1]) for line in lines if line), None)
    own = seeds.get((student, name))
    if own is None or carried in (None, own):
        return own if own is not None else carried, ""
    others = [s for (s, n), seed in seeds.items() if n == name and seed == carried]
    whose = f"the copy of {others[0]}" if others else "another copy"
    return own, f"handed in {whose}; graded with the student's own seed"


def grade(submission, notebooks, seeds, by_hand, isolated, seconds=None, reviewed=()):
    """Grade one submission: (student, path) to its row of marks. Raises nothing."""
    student, path = submission
    row = EMPTY | {"student": student, "file": path}
    try:
        cells, metadata = read(path)
        name, how = recognise(cells, metadata, path, notebooks)
        if name is None:
            return row | {"status": "not one of the assignments"}
        return row | grade_as(
            name, how, row, cells, metadata, notebooks[name], seeds, by_hand,
            isolated, seconds, student in reviewed,
        )  # fmt: skip
    except ValueError as error:
        return row | {"assignment": named(path, notebooks), "status": f"unreadable: {error}"}
    except Exception as error:  # a fault of ours: the others are graded all the same
        status = f"grader failed: {type(error).__name__}: {error}"
        return row | {"assignment": named(path, notebooks), "status": status}


def named(path, notebooks):
    return next((name for name in notebooks if name in path.stem), "")


def grade_as(name, how, row, cells, metadata, source, seeds, by_hand, isolated, seconds, reviewed):
    """Grade a submission as this assignment; return what its row gets."""
    assignment, student = source.metadata["assignment"], row["student"]
    seed, note = seed_for(student, name, metadata, cells, seeds)
    source = nbformat.from_dict(source)
    release = student_copy(source, name, seed)
    for cell in source.cells:
        if has_parameters(cell):
            cell.source = with_seed(cell.source, seed)
    steps, written, report = lay_back(source, release, cells)
    notes = [("notebook", note)] if note else []
    if how != "its metadata":
        notes.append(("notebook", f"told by {how} to be {name}"))
    came = metadata.get("assignment")
    came = came.get("release") if isinstance(came, dict) else None
    old = came is not None and came != assignment["release"]
    if old:
        text = f"release {came} was handed in; graded as release {assignment['release']}"
        notes.append(("notebook", text))
    reaching = [(s["id"], REACHING.search(s["source"])) for s in steps if s["kind"] == "answer"]
    reaching = [f"{cell}: {hit[0]}" for cell, hit in reaching if hit]
    seconds = seconds or 60 * assignment.get("minutes", 8)
    outcomes, faked = run(steps, seconds, isolated, bound(source))
    marks = {p: v for (s, n, p), v in by_hand.items() if (s, n) == (student, name)}
    parts = judge(source, steps, outcomes, written, marks)
    replaced = sorted({x for o in outcomes for x in o.get("replaced", [])})
    if replaced:
        notes.append(("notebook", f"put back for the tests: {', '.join(map(str, replaced))}"))
    errors = [(s["id"], said(o, bool(reaching))) for s, o in zip(steps, outcomes, strict=True)
              if s["kind"] != "test" and not o["ok"]]  # fmt: skip
    waits = sum(part["max"] for part in parts if part["points"] is None)
    earned = sum(part["points"] or 0 for part in parts)
    status = ["graded"]
    if waits:
        status = ["written answer to be marked"]
    if any(o.get("died") == "not reached" for o in outcomes):
        status.append("stopped at the time limit")
    first = next((n for n, step in enumerate(steps) if step["kind"] == "answer"), len(steps))
    broken = [f"{s['id']}: {said(o)}" for s, o in zip(steps[:first], outcomes, strict=False)
              if not o["ok"]]  # fmt: skip
    status += [f"a released cell failed, {text}" for text in broken]
    if old:
        status.append("older release" if came < assignment["release"] else "other release")
    status += [note] if note else []
    if faked:
        status, earned = ["withheld: a test that must fail was passed", *status[1:]], 0
    elif reaching and not reviewed:
        status, earned = [f"withheld: {', '.join(reaching)}", *status[1:]], 0
    return {"assignment": name, "points": earned, "max": sum(p["max"] for p in parts),
            "by_hand": waits, "status": "; ".join(status), "parts": parts,
            "report": notes + report, "errors": errors, "written": written}  # fmt: skip


# what is written ---------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
border-bottom: 1px solid #ccc }} td:nth-child(2) {{ white-space: nowrap }}</style></head><body>
<h1>{title}</h1>
<p><strong>{points} of {max} points</strong>{waits}. Status: {status}.</p>
<h2>Parts</h2><table><tr><th>Part</th><th>Points</th><th>How it went</th></tr>{parts}</table>
{errors}{report}</body></html>
"""


def number(value):
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def items(title, rows):
    """Return a list of (cell, text) under a title; nothing if there are none."""
    if not rows:
        return ""
    lines = [f"<li><code>{html.escape(a)}</code>: {html.escape(b)}</li>" for a, b in rows]
    return f"<h2>{title}</h2><ul>{''.join(lines)}</ul>\n"


def page(row):
    """Return the feedback of one submission. No hidden test, and no output, is on it."""
    parts = []
    for part in row["parts"]:
        earned = "?" if part["points"] is None else number(part["points"])
        hint = f"<br>{html.escape(part['hint'])}" if part["hint"] else ""
        parts.append(
            f"<tr><td>{html.escape(part['id'])}</td><td>{earned} of {number(part['max'])}</td>"
            f"<td>{html.escape(part['outcome'])}{hint}</td></tr>"
        )
    waits = f"; {number(row['by_hand'])} more wait to be marked by hand" if row["by_hand"] else ""
    name = row["assignment"] or row["file"].name
    status = row["status"]
    if "withheld" in status:
        status = "marks are withheld until your instructor has looked at the notebook"
    return PAGE.format(
        title=html.escape(f"{name}: {row['student']}"), points=number(row["points"]),
        max=number(row["max"]) or "?", waits=waits, status=html.escape(status),
        parts="".join(parts), errors=items("Cells that stopped", row["errors"]),
        report=items("What was done with your notebook", row["report"]),
    )  # fmt: skip


def read_table(path):
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_by_hand(path):
    """Return the points filled in by hand: {(student, assignment, part): points}."""
    marks = {}
    for line, row in enumerate(read_table(path), start=2):
        if text := (row.get("points") or "").strip():
            try:
                marks[row["student"], row["assignment"], row["part"]] = float(text)
            except ValueError:
                raise SystemExit(f"{path}, line {line}: points is {text!r}, not a number") from None
    return marks


def safe(value):
    """A cell for a spreadsheet, which would run a text that starts like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def write_table(path, columns, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows({key: safe(value) for key, value in row.items()} for row in rows)


def write(rows, out, by_hand):
    """Write marks.csv, by_hand.csv and the pages of feedback."""
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o700)  # marks are nobody else's business
    table, waiting = [], []
    for row in sorted(rows, key=lambda row: (row["student"], row["assignment"])):
        parts = "; ".join(
            f"{p['id']} {'?' if p['points'] is None else number(p['points'])}/{number(p['max'])}"
            for p in row["parts"]
        )
        table.append(row | {"parts": parts, "file": str(row["file"])})
        for part in row["parts"]:
            if text := row["written"].get(part["id"]):
                key = (row["student"], row["assignment"], part["id"])
                waiting.append({"student": key[0], "assignment": key[1], "part": key[2],
                                "points": by_hand.get(key, ""), "max": part["max"],
                                "text": text})  # fmt: skip
        name = row["assignment"] or row["file"].stem
        path = out / "feedback" / row["student"] / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(row), encoding="utf-8")
    columns = ["student", "assignment", "points", "max", "by_hand", "status", "parts", "file"]
    write_table(out / "marks.csv", columns, table)
    write_table(
        out / "by_hand.csv", ["student", "assignment", "part", "points", "max", "text"], waiting
    )


def newest(rows):
    """Keep the newest of what a student handed in for one assignment; rows: the newest last."""
    kept = {}
    for row in rows:
        key = row["student"], row["assignment"] or row["file"].name
        older = kept.get(key)
        if older and row["status"].startswith("unreadable"):
            row, older = older, row
        if older:
            row["status"] += f"; also handed in: {older['file'].name}"
        kept[key] = row
    return list(kept.values())


def without_notebook(folder, found):
    """Return rows for the students' folders in which there is no notebook."""
    empty = EMPTY | {"status": "no notebook found"}
    students = {student for student, _ in found}
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return [empty | {"student": p.name, "file": p} for p in folders
            if p.name not in students and p.name != "__MACOSX"]  # fmt: skip


def grade_folder(
    folder, out, notebooks, *, isolated=True, jobs=1, seconds=None, reviewed=(), seeds=None
):
    """Grade every submission in a folder and write the results to ``out``; return the rows."""
    found = collect(folder, sorted(notebooks, key=len, reverse=True))
    by_hand = read_by_hand(out / "by_hand.csv")
    one = partial(
        grade, notebooks=notebooks, seeds=seeds or {}, by_hand=by_hand, isolated=isolated,
        seconds=seconds, reviewed=reviewed,
    )  # fmt: skip
    with ThreadPoolExecutor(jobs) as pool:
        rows = list(tqdm(pool.map(one, found), total=len(found), unit=" notebooks", ncols=80))
    rows = newest(rows) + without_notebook(folder, found)
    write(rows, out, by_hand)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="FOLDER/STUDENT/NAME.ipynb, or flat")
    parser.add_argument("--out", type=Path, default=OUT / "marks")
    parser.add_argument("--sources", type=Path, default=SOURCES)
    parser.add_argument("--seeds", type=Path, default=OUT / "instructor" / "seeds.csv")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="for a notebook; its own limit if not named")
    parser.add_argument("--reviewed", nargs="*", default=[], metavar="STUDENT")
    parser.add_argument("--unprotected", action="store_true", help="run without a sandbox")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        raise SystemExit(f"grade.py: no folder {arguments.folder}")
    if not arguments.unprotected and not protected():
        raise SystemExit(
            "grade.py: bwrap, which keeps submissions away from your files, is not there or may "
            "not run.\nInstall it (apt-get install bubblewrap), or grade in a Linux container. "
            "--unprotected runs the\nsubmissions as you, with all that you may read: only for "
            "notebooks that you trust."
        )
    try:
        notebooks = sources(arguments.sources, arguments.only)
    except ValueError as error:
        raise SystemExit(f"grade.py: {error}") from None
    seeds = {(row["student"], row["assignment"]): int(row["seed"])
             for row in read_table(arguments.seeds)}  # fmt: skip
    rows = grade_folder(
        arguments.folder, arguments.out, notebooks, isolated=not arguments.unprotected,
        jobs=arguments.jobs, seconds=arguments.minutes and 60 * arguments.minutes,
        reviewed=arguments.reviewed, seeds=seeds,
    )  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["student"], row["assignment"])):
        score = f"{number(row['points'])}/{number(row['max'])}"
        print(f"{row['student']:16.16} {row['assignment']:18} {score:>7}  {row['status']}")
    print(f"In {arguments.out}: marks.csv, by_hand.csv, feedback")


if __name__ == "__main__":
    main()
