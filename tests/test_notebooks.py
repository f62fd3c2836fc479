"""The committed notebooks: executed, tidy, honest about numbers, equal to the package.

nbval runs their code (``make test``); this file looks at what is stored in them.
"""

import ast
import difflib
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest
from tidy import is_random, tidy

BOOK = Path(__file__).resolve().parents[1] / "book"
# The chapters. Assignments hold no outputs; tests/test_grade.py runs them.
NOTEBOOKS = sorted(p for p in BOOK.glob("[!_]*/*.ipynb"))
PAGES = sorted(p for p in BOOK.rglob("*.md") if not p.relative_to(BOOK).parts[0].startswith("_"))
BLOCK = ("you will be able to", "you need", "time", "cohort")  # of a chapter's first cell
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|root|work|tmp|Users|mnt|var)/|\b[A-Z]:\\\w")
TIMESTAMP = re.compile(r"\b20[2-9]\d-\d\d-\d\d[T ]\d\d:\d\d")  # PTB-XL's own dates are older
METRIC = re.compile(r"\bAU(?:RO)?Cs?\b|\baccurac|\bF1\b|\bscores?\b|\bseconds?\b", re.I)
TYPED = re.compile(r"(?<![\w.])\d*\.\d{2,}(?![\w.]*\d)|(?<![\w.])\d*\.\d+\s*(?:%|per cent)")


def read(path):
    return nbformat.read(path, as_version=4)


def named(paths):
    return [pytest.param(p, id=p.relative_to(BOOK).with_suffix("").as_posix()) for p in paths]


@pytest.fixture(params=named(NOTEBOOKS))
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return read(path)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def texts(cell):
    """Every text in a code cell's outputs; images are left out."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for mime, value in output.get("data", {}).items():
            if not mime.startswith("image/") or mime == "image/svg+xml":
                yield value if isinstance(value, str) else json.dumps(value)
        if output.get("metadata"):
            yield json.dumps(output.metadata)


def test_every_chapter_is_in_the_table_of_contents(path):
    name = path.relative_to(BOOK).with_suffix("").as_posix()
    assert re.search(rf"file: {re.escape(name)}\s*$", (BOOK / "_toc.yml").read_text(), re.M)


def test_format_is_valid(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)


def test_no_cell_failed(notebook):
    failed = [c.id for c in code(notebook) for o in c.outputs if o.output_type == "error"]
    assert not failed


def test_no_warning_is_shown(notebook):
    warned = {c.id: o.text for c in code(notebook) for o in c.outputs if o.get("name") == "stderr"}
    assert not warned


def test_every_cell_ran_once_and_in_order(notebook):
    counts = [c.execution_count for c in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(c.source.strip() for c in notebook.cells), "an empty cell"


def test_cell_ids_are_readable_and_unique(notebook):
    ids = [c.id for c in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if is_random(i)] == []


def test_nothing_of_the_machine_that_ran_it(notebook):
    for cell in code(notebook):
        for text in [*texts(cell), cell.source, json.dumps(cell.metadata)]:
            found = MACHINE_PATH.search(text) or TIMESTAMP.search(text)
            assert not found, f"cell {cell.id}: {text[max(0, found.start() - 40) :][:120]!r}"
    assert "papermill" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"


def test_is_tidy(path, notebook):
    before = nbformat.writes(notebook)
    after = nbformat.writes(tidy(read(path)))
    difference = "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0))
    assert not difference, f"run python book/_tools/tidy.py {path}\n{difference[:2000]}"


def test_images_have_alt_text(notebook):
    bare = []
    for cell in code(notebook):
        images = [o for o in cell.outputs if any(m.startswith("image/") for m in o.get("data", {}))]
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if images and not alt.strip():
            bare.append(cell.id)
    assert not bare, f"cells without metadata mystnb.image.alt: {bare}"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"!\[\s*\]\(", cell.source), f"cell {cell.id}: image without alt"


def test_opens_with_title_and_plain_block(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    missing = [words for words in BLOCK if words not in first.source.lower()]
    assert not missing, f"the plain block lacks {missing}"


def setup_cell(notebook):
    [cell] = [c for c in code(notebook) if c.id == "setup"]
    return cell


def parameters_cell(notebook):
    [cell] = [c for c in code(notebook) if "parameters" in tags(c)]
    return cell


@pytest.mark.parametrize("cell_of", [setup_cell, parameters_cell])
def test_setup_and_parameters_are_the_same_in_every_chapter(cell_of):
    sources = {cell_of(read(p)).source: p.name for p in NOTEBOOKS}
    assert len(sources) <= 1, f"differs between {sorted(sources.values())}"


def test_setup_comes_first_and_is_short(notebook):
    first, second = code(notebook)[:2]
    assert first == setup_cell(notebook)
    assert second == parameters_cell(notebook)
    assert len(first.source.splitlines()) <= 6


def definitions(source):
    """Name and normalised source of each class and function at the top, docstrings taken out."""
    found = {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for top in ast.parse(source).body:
        if not isinstance(top, kinds):
            continue
        for node in ast.walk(top):
            if isinstance(node, kinds) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        found[top.name] = ast.unparse(top)
    return found


def module_source(name):
    spec = importlib.util.find_spec(name)
    assert spec and spec.origin, f"there is no module {name}"
    return Path(spec.origin).read_text(encoding="utf-8")


def differences(source, module):
    """What a chapter's cell defines otherwise than the package's module; empty if nothing."""
    theirs = definitions(module_source(module))
    mine = definitions(source)
    assert mine, f"the cell is marked same-as:{module} and defines nothing"
    report = []
    for name, text in mine.items():
        if name not in theirs:
            report.append(f"{module} has no {name}")
            continue
        lines = (theirs[name].splitlines(), text.splitlines())
        report += difflib.unified_diff(*lines, f"{module}.{name}", "chapter", lineterm="", n=1)
    return "\n".join(report)


def test_code_of_the_chapter_is_code_of_the_package(notebook):
    for cell in code(notebook):
        for tag in tags(cell):
            if tag.startswith("same-as:"):
                found = differences(cell.source, tag.removeprefix("same-as:"))
                assert not found, f"cell {cell.id}:\n{found}"


def test_difference_from_the_package_is_seen():
    source = module_source("ecgtutorial.notebook")
    tree = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "_plain")
    same = ast.unparse(tree)
    assert not differences(same, "ecgtutorial.notebook")
    assert differences(same.replace("None", "0") + "\n    pass", "ecgtutorial.notebook")
    assert "has no" in differences("def unheard_of():\n    pass", "ecgtutorial.notebook")


def typed_metrics(markdown):
    """Numbers that look like measured results and were typed by hand, with their sentence."""
    text = re.sub(r"```.*?```|~~~.*?~~~|:::\{.*?\}.*$", " ", markdown, flags=re.S)
    text = re.sub(r"\{[\w:-]+\}`[^`]*`", " ", text)  # roles: glue, cite, math
    text = re.sub(r"`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$", " ", text, flags=re.S)  # code and math
    text = re.sub(r"\]\([^)]*\)|<[^>\n]*>|https?://\S+", " ", text)  # addresses and tags
    found = []
    for block in re.split(r"\n\s*\n", text):
        is_table = block.lstrip().startswith("|")  # a table's header says what its numbers are
        for sentence in [block] if is_table else re.split(r"(?<=[.!?])\s+", block):
            if METRIC.search(sentence):
                found += [f"{m} in: {sentence.strip()[:100]}" for m in TYPED.findall(sentence)]
    return found


def test_no_typed_metrics_in_chapters(notebook):
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "numbers-from-paper" not in tags(cell):
            found += [f"cell {cell.id}: {text}" for text in typed_metrics(cell.source)]
    assert not found, "use record() and the glue role:\n" + "\n".join(found)


@pytest.mark.parametrize("page", named(PAGES))
def test_no_typed_metrics_in_pages(page):
    assert not typed_metrics(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "markdown",
    [
        "The probe reaches a macro AUC of 0.87 here.",
        "Macro AUROC rose to .873.",
        "An accuracy of 87.3 % was seen.",
        "It took 12.25 seconds.",
        "| method | AUC |\n|---|---|\n| 3KG | 0.81 |",
        "F1 was **0.70**, as the figure shows.",
    ],
)
def test_typed_metrics_are_seen(markdown):
    assert typed_metrics(markdown)


@pytest.mark.parametrize(
    "markdown",
    [
        "The probe reaches a macro AUC of {glue:text}`auc:.3f` here.",
        "A small square is 0.04 s wide and 0.1 mV high.",
        "The temperature is 0.05. The score is a cosine.",
        "Random scores give an AUC of 0.5.",
        "```\nAUC 0.87\n```",
        "The loss $0.25 \\cdot x$ has a score.",
        "AUC: see [the paper](https://doi.org/10.1093/12.34).",
        "It runs in 60 seconds on version 1.17.1.",
    ],
)
def test_other_numbers_are_left_alone(markdown):
    assert not typed_metrics(markdown)
