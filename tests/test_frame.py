"""The frame: what the top-level files say agrees, and the book's tools do what they promise."""

import base64
import io
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import render
import run
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image, ImageChops
from tidy import tidy

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin.specifier for pin in pins}


def requirements():
    lines = [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["test"]]
    return [Requirement(line) for line in lines]


# pyproject.toml, constraints.txt, environment.yml ------------------------------------------------


def test_constraints_are_exact():
    for name, specifier in constraints().items():
        assert re.fullmatch(r"==[\w.]+", str(specifier)), f"{name}{specifier}"


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_constraint_lies_in_the_range_that_the_package_asks_for(requirement):
    name = canonicalize_name(requirement.name)
    assert name in constraints(), f"constraints.txt has no {name}"
    version = str(constraints()[name]).removeprefix("==")
    assert requirement.specifier.contains(version, prereleases=True)


def test_constraints_name_everything_that_gets_installed():
    pending, seen = ["ecgtutorial"], set()
    while pending:
        name = pending.pop()
        for line in metadata.requires(name) or []:
            wanted = Requirement(line)
            extras = ("book", "test") if name == "ecgtutorial" else ("",)
            if wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in extras):
                continue
            key = canonicalize_name(wanted.name)
            try:
                metadata.version(key)
            except metadata.PackageNotFoundError:
                continue  # what torch asks for where there is a GPU
            if key not in seen:
                seen.add(key)
                pending.append(key)
    installed_by_pip = {"setuptools", "pip", "wheel"}
    assert sorted(seen - set(constraints()) - installed_by_pip) == []


@pytest.mark.parametrize("name", ["numpy", "pandas", "torch"])
def test_package_does_not_hold_back_what_colab_ships(name):
    [wanted] = [Requirement(d) for d in PROJECT["dependencies"] if Requirement(d).name == name]
    assert {s.operator for s in wanted.specifier} == {">="}


def test_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    [by_pip] = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert by_pip == ["-c constraints.txt", "-e .[book,test]"]
    assert set(EXTRAS) == {"book", "test"}
    [python] = [SpecifierSet(d.split()[1]) for d in plain if d.startswith("python ")]
    for version in PYTHONS:
        assert python.contains(version)
        assert Version(version) in SpecifierSet(PROJECT["requires-python"])
    assert not python.contains("3.10") and not python.contains("3.14")
    assert Version("3.10") not in SpecifierSet(PROJECT["requires-python"])


def test_pythons_are_the_same_everywhere():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    listed = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert listed == list(PYTHONS)


def test_version_and_title_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    book = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["title"] == book["title"]
    assert (ROOT / "README.md").read_text(encoding="utf-8").startswith(f"# {book['title']}\n")


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# the package ------------------------------------------------------------------------------------


def test_import_is_light_and_names_are_found():
    script = (
        "import sys, ecgtutorial as ecg\n"
        "heavy = {'torch', 'pandas', 'numpy', 'wfdb', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert ecg.__version__\n"
        "assert set(ecg.__all__) <= set(dir(ecg))\n"
        "try:\n    ecg.unheard_of\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'unheard_of'" in done.stdout


def test_version_is_that_of_the_project():
    import ecgtutorial

    assert ecgtutorial.__version__ == PROJECT["version"]


# where the repository is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "remote", "url"),
    [
        ({}, "", ""),
        ({}, "https://github.com/o/r.git", "https://github.com/o/r"),
        ({}, "https://name:secret@github.com/o/r.git", "https://github.com/o/r"),
        ({}, "git@github.com:o/r.git", "https://github.com/o/r"),
        ({}, "ssh://git@gitlab.com:22/o/r", "https://gitlab.com/o/r"),
        ({}, "/srv/somewhere/r.git", ""),
        ({}, "https://git.example/o/r", ""),
        ({"GITHUB_REPOSITORY": "a/b"}, "https://github.com/o/r", "https://github.com/a/b"),
        ({"ECGTUTORIAL_REPOSITORY": "https://github.com/x/y"}, "", "https://github.com/x/y"),
    ],
)
def test_repository_url(environment, remote, url):
    assert render.repository_url(environment, remote) == url


def test_branch():
    assert render.branch_name({}, "work") == "work"
    assert render.branch_name({}, "HEAD") == "main"
    assert render.branch_name({"GITHUB_REF": "refs/heads/a/b"}, "HEAD") == "a/b"
    assert render.branch_name({"GITHUB_REF": "refs/pull/1/merge"}, "HEAD") == "main"


# tidying ----------------------------------------------------------------------------------------


def executed_notebook():
    """A notebook as papermill leaves it."""
    new = nbformat.v4
    stream = new.new_output
    cells = [
        new.new_markdown_cell("# A title\n\nText", id="a1b2c3d4"),
        new.new_code_cell("scale = 'quick'", id="parameters", execution_count=1),
        new.new_code_cell("scale = 'full'", id="deadbeef", execution_count=2),
        new.new_code_cell("def beat():\n    pass", id="0f3e9a77-5d1c", execution_count=3),
        new.new_code_cell("beat()", id="beat", execution_count=5),
    ]
    cells[1].metadata.tags = ["parameters"]
    cells[2].metadata.tags = ["injected-parameters"]
    cells[3].metadata.papermill = {"start_time": "2026-01-01T00:00:00"}
    cells[4].metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    cells[4].outputs = [
        stream("stream", name="stderr", text="epochs: 50%|##  | 5/10 [00:01<00:01, 5.0it/s]"),
        stream("stream", name="stdout", text="one\n"),
        stream("stream", name="stdout", text=f"{ROOT}/results/a.csv\n<A at 0x7f00aa11bb22>\n"),
        stream("display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
        stream("execute_result", data={"text/plain": str(ROOT.parent / "x")}, execution_count=5),
    ]
    notebook = new.new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict({"papermill": {"duration": 1}, "widgets": {}})
    return notebook


def test_tidy_takes_out_what_belongs_to_one_run():
    notebook = tidy(executed_notebook())
    assert [c.id for c in notebook.cells] == ["a-title-text", "parameters", "beat", "beat-2"]
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2, 3]
    stdout, result = notebook.cells[-1].outputs
    assert stdout.text == "one\n./results/a.csv\n<A>\n"
    assert result.data == {"text/plain": "../x"} and result.execution_count == 3
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "2026" not in nbformat.writes(notebook)
    nbformat.validate(notebook)


def test_tidy_twice_is_tidy_once():
    once = tidy(executed_notebook())
    text = nbformat.writes(once)
    assert nbformat.writes(tidy(once)) == text


def test_tidy_gives_figures_a_palette_and_keeps_the_picture():
    figure = Image.new("RGBA", (64, 48), "white")
    figure.paste((213, 94, 0, 255), (10, 10, 30, 30))
    png = io.BytesIO()
    figure.save(png, "PNG", compress_level=0)
    png = base64.b64encode(png.getvalue()).decode()
    cell = nbformat.v4.new_code_cell("plot()", id="plot")
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": png})]
    small = tidy(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs[0].data["image/png"]
    shown = Image.open(io.BytesIO(base64.b64decode(small)))
    assert len(small) < len(png) / 2 and shown.mode == "P"
    assert ImageChops.difference(shown.convert("RGB"), figure.convert("RGB")).getbbox() is None


def test_tidy_keeps_a_warning():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", id="x")])
    warning = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: collapse\n")
    notebook.cells[0].outputs = [warning]
    assert tidy(notebook).cells[0].outputs[0].text == "UserWarning: collapse\n"


# running ----------------------------------------------------------------------------------------

PARAMETERS = "scale = 'none'\ncohort_name = 'none'\ndata = None"


def write_chapter(path, *sources):
    new = nbformat.v4
    cells = [new.new_markdown_cell("# A chapter", id="title")]
    cells += [new.new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["parameters"]})]
    cells += [new.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


def small_book(folder, chapters):
    """A book with these chapters: name to sources of code cells."""
    entries = [{"file": name} for name in chapters]
    toc = {"format": "jb-book", "root": "index", "parts": [{"caption": "A", "chapters": entries}]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    (folder / "references.bib").write_text("", encoding="utf-8")
    (folder / "index.md").write_text("# Start\n", encoding="utf-8")
    for name, sources in chapters.items():
        write_chapter(folder / f"{name}.ipynb", *sources)
    return folder


def test_chapters_are_those_of_the_contents_in_order(tmp_path):
    book = small_book(tmp_path, {"b/two": [], "a/one": []})
    assert run.chapters(book) == ["b/two", "a/one"]
    assert run.choose(book, ["book/a/one.ipynb"]) == ["a/one"]
    with pytest.raises(SystemExit, match="no chapter c/three.*b/two, a/one"):
        run.choose(book, ["c/three"])


def test_run_stops_at_the_chapter_that_fails_and_names_it(tmp_path, capsys):
    book = small_book(tmp_path, {"a/fails": ["x = {}", "x['lead']"], "a/later": ["1"]})
    rows = run.run(run.chapters(book), book, {"scale": "quick"})
    assert [row["status"] for row in rows] == ["failed", "not run"]
    message = capsys.readouterr().err
    assert "a/fails failed" in message and "x['lead']" in message and "KeyError" in message
    assert "a/later" in run.table(rows)


def test_data_folder_must_exist(tmp_path):
    class Arguments:
        data, scale, cohort = str(tmp_path / "nowhere"), "quick", "ptb-xl"

    with pytest.raises(SystemExit, match="no folder .*nowhere"):
        run.settings(Arguments)


# a small book, from code to pages ----------------------------------------------------------------

FIRST = """\
from ecgtutorial.notebook import record, this_run
record('auc', 0.87654)
record('records', 1234)
record('name', '3KG-L')
scale, cohort_name"""

PROSE = """\
# Second

Here {glue:text}`here:.2f`, there {glue:text}`../a/one.ipynb::auc:.3f`, of
{glue:text}`../a/one.ipynb::records:,d` records, by {glue:text}`/a/one.ipynb::name:s`.

| method | AUC |
|---|---|
| one | {glue:text}`../a/one.ipynb::auc:.1f` |

The angle is $\\alpha$.
"""

FIGURE = """\
import matplotlib.pyplot as plt
plt.plot([0, 1])
from ecgtutorial.notebook import record
record('here', 0.125)"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A book of two chapters, executed and rendered by the book's own tools."""
    folder = tmp_path_factory.mktemp("small")
    book = small_book(folder / "book", {"a/one": [FIRST], "b/two": [FIGURE]})
    path = book / "b/two.ipynb"
    second = nbformat.read(path, as_version=4)
    second.cells[0].source = PROSE
    second.cells[-1].metadata["mystnb"] = {"image": {"alt": "An empty figure."}}
    nbformat.write(second, path)
    (book / "_vendor/mathjax").mkdir(parents=True)
    (book / "_vendor/mathjax/tex-svg-full.js").write_text("", encoding="utf-8")
    rows = run.run(run.chapters(book), book, {"scale": "quick", "cohort_name": "simulated"})
    assert [row["status"] for row in rows] == ["ok", "ok"]
    return book, render.render(book, folder, {"ECGTUTORIAL_REPOSITORY": "https://github.com/o/r"})


def test_parameters_reach_the_chapter_and_leave_no_trace(rendered):
    notebook = nbformat.read(rendered[0] / "a/one.ipynb", as_version=4)
    assert [c.id for c in notebook.cells] == ["title", "parameters", "cell-0"]
    assert notebook.cells[-1].outputs[-1].data["text/plain"] == "('quick', 'simulated')"
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2]


def test_recorded_values_arrive_in_the_prose(rendered):
    text = (rendered[1] / "b/two.html").read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))
    assert "Here 0.12, there 0.877, of 1,234 records, by 3KG-L." in plain
    assert re.search(r"one\W*0\.9", plain)
    assert "papermill" not in text


def test_figure_has_its_alt_text(rendered):
    text = (rendered[1] / "b/two.html").read_text(encoding="utf-8")
    assert 'alt="An empty figure."' in text


def test_buttons_point_to_the_repository(rendered):
    text = (rendered[1] / "a/one.html").read_text(encoding="utf-8")
    assert "https://colab.research.google.com/github/o/r/blob/colab/a/one.ipynb" in text
    assert "/book/a/one.ipynb" in text and 'href="https://github.com/o/r"' in text


def test_mathjax_comes_with_the_book(rendered):
    text = (rendered[1] / "b/two.html").read_text(encoding="utf-8")
    [source] = re.findall(r'src="([^"]*tex-svg-full\.js[^"]*)"', text)
    assert (rendered[1] / "b" / source.split("?")[0]).resolve().exists()


def test_rendering_stops_at_a_number_that_no_run_recorded(tmp_path, capfd):
    book = small_book(tmp_path / "book", {})
    page = "# Start\n\n{glue:text}`index.md::unheard:.3f`\n"
    (book / "index.md").write_text(page, encoding="utf-8")
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\n", encoding="utf-8")
    (book / "_vendor").mkdir()
    with pytest.raises(RuntimeError, match="did not render cleanly"):
        render.render(book, tmp_path, {})
    messages = capfd.readouterr().err
    assert messages.count("WARNING") == 1 and "unheard" in messages


def test_run_writes_its_times(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "BOOK", small_book(tmp_path / "book", {"a/one": ["1"]}))
    for name in ("SCALE", "COHORT", "DATA", "CACHE", "RUNS"):  # main() sets some of them
        monkeypatch.setenv(f"ECGTUTORIAL_{name}", "")
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(out), "--budget", "0.01"])
    with pytest.raises(SystemExit):
        run.main()
    times = json.loads((out / "times.json").read_text(encoding="utf-8"))
    [row] = times["chapters"]
    assert row["chapter"] == "a/one" and row["seconds"] > 0
    assert row["status"] == "over budget of 0.01 s"
    assert "a/one" in capsys.readouterr().out
