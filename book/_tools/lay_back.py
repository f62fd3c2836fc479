"""Read what a student handed in, and lay it back onto the released assignment.

Cells get copied, moved, deleted and turned to Markdown, and lose their metadata on the way. What
can be told is put back in its place; locked cells and tests always come from the source. Nothing
is run here.
"""

import difflib
import json
import re
from collections import defaultdict

import nbformat
from assignments import has_parameters, kind

LARGEST = 256 << 20  # bytes of a submitted file
DEFINED = re.compile(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=[^=]", re.M)


def read(path):
    """Return (cells, metadata) of a submitted notebook. Raises ValueError saying what is wrong."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    if size > LARGEST:
        raise ValueError(f"the file has {size >> 20} MB; clear its outputs")
    try:
        notebook = json.loads(path.read_bytes().decode("utf-8-sig"))
        if isinstance(notebook, dict) and "worksheets" in notebook:
            notebook = nbformat.convert(nbformat.from_dict(notebook), 4)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a readable notebook ({type(error).__name__})") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("not a notebook: it has no list of cells")
    cells = [tidy_cell(cell) for cell in notebook["cells"] if isinstance(cell, dict)]
    metadata = notebook.get("metadata")
    return cells, metadata if isinstance(metadata, dict) else {}


def tidy_cell(cell):
    """Return what grading needs of a cell, whatever state it is in."""
    source = cell.get("source", "")
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    metadata = cell["metadata"] if isinstance(cell.get("metadata"), dict) else {}
    mark = metadata.get("nbgrader")
    grade_id = mark.get("grade_id") if isinstance(mark, dict) else None
    return {
        "type": cell.get("cell_type"), "source": source.replace("\r\n", "\n"),
        "grade_id": grade_id if isinstance(grade_id, str) else None,
        "ids": {str(cell.get("id")), str(metadata.get("id"))},  # Colab moves it to the metadata
    }  # fmt: skip


def recognise(cells, metadata, path, notebooks):
    """Return the assignment that a submission answers, and how it was told; None, "" if none."""
    assignment = metadata.get("assignment")
    name = assignment.get("name") if isinstance(assignment, dict) else None
    if isinstance(name, str) and name in notebooks:
        return name, "its metadata"
    texts = {cell["source"].strip() for cell in cells}
    found = {cell["grade_id"] for cell in cells} | set().union(*(cell["ids"] for cell in cells))
    scores = {}
    for name, notebook in notebooks.items():
        known = [cell for cell in notebook.cells if kind(cell) != "free"]
        hits = [
            cell.metadata["nbgrader"]["grade_id"] in found or cell.source.strip() in texts
            for cell in known
        ]
        scores[name] = sum(hits) / len(known)
    best = max(scores, key=scores.get, default=None)
    if best is not None and scores[best] >= 0.3:
        return best, "its cells"
    for name in notebooks:
        if name in path.stem:
            return name, "its file name"
    return None, ""


def alike(a, b):
    """How alike two texts are, 0 to 1; 0 where they are clearly not."""
    matcher = difflib.SequenceMatcher(None, a[:4000], b[:4000], autojunk=False)
    if matcher.real_quick_ratio() < 0.6 or matcher.quick_ratio() < 0.6:
        return 0.0
    return matcher.ratio()


def defined(source):
    return {a or b for a, b in DEFINED.findall(source)}


def match(source, released, cells):
    """Return which released cell each submitted cell is: {submitted place: released place}.

    First by grade id, then by cell id, then by the text, or by the names that an answer defines as
    the solution does, then by what is left over between two neighbours.
    """
    ids = {c.metadata["nbgrader"]["grade_id"]: n for n, c in enumerate(released) if marked(c)}
    place = {i: ids[cell["grade_id"]] for i, cell in enumerate(cells) if cell["grade_id"] in ids}
    by_id = {c.id: n for n, c in enumerate(released)}
    for i, cell in enumerate(cells):
        hits = [by_id[x] for x in cell["ids"] if x in by_id and by_id[x] not in place.values()]
        if i not in place and hits:
            place[i] = hits[0]
    pairs = []
    for n, cell in enumerate(released):
        names = defined(source[n].source) if kind(cell) == "answer" else set()
        for i in range(len(cells)) if n not in place.values() else ():
            if i not in place and cells[i]["source"].strip():
                score = alike(cell.source, cells[i]["source"])
                if names and len(names & defined(cells[i]["source"])) >= len(names) / 2:
                    score = max(score, 0.9)
                pairs.append((score, -n, -i))
    for score, n, i in sorted(pairs, reverse=True):
        if score >= 0.6 and -i not in place and -n not in place.values():
            place[-i] = -n
    return fill_gaps(released, cells, place)


def marked(cell):
    return kind(cell) != "free"


def fill_gaps(released, cells, place):
    """Give what is left between two matched cells to the answer that is missing there."""
    for n, cell in enumerate(released):
        if kind(cell) not in ("answer", "manual") or n in place.values():
            continue
        after = max((i for i, m in place.items() if m < n), default=-1)
        before = min((i for i, m in place.items() if m > n and i > after), default=len(cells))
        between = [i for i in range(after + 1, before) if i not in place]
        wanted = [i for i in between if cells[i]["type"] == cell.cell_type]
        wanted = [i for i in wanted if cells[i]["source"].strip()]
        place.update(dict.fromkeys(wanted, n))
    return place


def out_of_order(places):
    """Return the places that stand out of the order which most of them keep."""
    matcher = difflib.SequenceMatcher(None, sorted(places), places, autojunk=False)
    kept = [places[m.b : m.b + m.size] for m in matcher.get_matching_blocks()]
    return set(places) - set().union(*kept)


def lay_back(source, release, cells):
    """Return the cells to run, the written answers and a report of what was done.

    source: the assignment with solutions and tests; release: the student's copy of it as it was
    handed out; cells: what came back. Both notebooks have the same cells.
    Returns steps, dictionaries with ``kind`` ("given", "answer" or "test"), ``id``, ``source``;
    written, grade id to text; report, lines (cell, what was done).
    """
    place = match(source.cells, release.cells, cells)
    came = defaultdict(list)
    for i in sorted(place):
        came[place[i]].append(i)
    moved = out_of_order([place[i] for i in sorted(place) if len(came[place[i]]) == 1])
    inserted, anchor = defaultdict(list), -1  # after which released cell
    for i, cell in enumerate(cells):
        if i in place:
            anchor = place[i]
        elif cell["type"] == "code" and cell["source"].strip():
            inserted[anchor].append(cell["source"])
    steps, written, report = [], {}, []
    for n in range(-1, len(release.cells)):
        if n >= 0:
            there = [cells[i] for i in came[n]]
            lay_cell(source.cells[n], release.cells[n], there, n in moved, steps, written, report)
        for text in inserted[n]:
            where = release.cells[n].id if n >= 0 else "start"
            steps.append({"kind": "answer", "id": f"yours after {where}", "source": text})
            report.append((f"yours after {where}", "not in the released notebook; run there"))
    return steps, written, report


def lay_cell(source, release, there, moved, steps, written, report):
    """Lay one released cell: from the source, or from the submitted cells that stand for it."""
    role, name = kind(source), source.metadata.get("nbgrader", {}).get("grade_id", source.id)
    if role == "free" and source.cell_type != "code":
        return

    def note(text):
        report.append((name, text))

    changed = [c for c in there if c["source"].strip() != release.source.strip()]
    if moved:
        note("moved; run at its released place")
    if role != "free" and any(c["grade_id"] != name for c in there):
        note("its metadata was lost; told by its id, text or place")
    if any(c["type"] != source.cell_type for c in there):
        note(f"its type was changed; taken as {source.cell_type} again")
    if role in ("given", "test") or has_parameters(source):
        if not there or changed or len(there) > 1:
            what = "deleted" if not there else "changed" if changed else "copied"
            note(f"{what}; the released cell is used")
        step = "test" if role == "test" else "given"
        steps.append({"kind": step, "id": name, "source": source.source})
        return
    if not there:
        note("deleted; there is nothing to grade here")
    if len(there) > 1:
        note(f"stands {len(there)} times; all run here in their order, the last one counts")
    if there and not changed:
        note("left as it was handed out")
    texts = [c["source"] for c in changed or there[:1]]
    if role == "manual":
        written[name] = "\n\n".join(texts) if changed else ""
    elif role == "free" and not there:
        steps.append({"kind": "answer", "id": name, "source": source.source})
    else:
        steps.extend({"kind": "answer", "id": name, "source": text} for text in texts)
