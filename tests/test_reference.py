"""The reference pages: commands that exist, code that runs, and what is filled in at build time."""

import ast
import inspect
import json
import re
import shlex
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sphinx")

import cards
import reference
from docutils import nodes

from ecgtutorial import runs
from ecgtutorial.cohort import Cohort
from ecgtutorial.datasets import ptbxl
from ecgtutorial.experiments import __main__ as command

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAGES = sorted((BOOK / "reference").glob("*.md"))
HOW_TO = (BOOK / "reference" / "how-to-run.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def filled(page):
    class App:
        srcdir = BOOK

    source = [page.read_text(encoding="utf-8")]
    reference.fill(App, f"reference/{page.stem}", source)
    return source[0]


# --- commands and code on the pages --------------------------------------------------------------


def commands():
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield pytest.param(words, id=" ".join(words)[:60])


class Asked(Exception):
    """Raised where a command has understood its arguments."""


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_exists_and_knows_its_options(words, monkeypatch):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if words[0] == "make":
        for word in words[1:]:
            name, is_variable, value = word.partition("=")
            pattern = rf"^{name}\s*\?=" if is_variable else rf"^{name}:"
            assert re.search(pattern, makefile, re.M), word
            assert name != "CHAPTER" or (BOOK / f"{value}.ipynb").exists(), word
    elif words[:3] == ["python", "-m", "ecgtutorial.experiments"]:

        def opened(*arguments):
            raise Asked

        monkeypatch.setattr(command, "open_for", opened)
        monkeypatch.setattr("sys.argv", words[2:])
        with pytest.raises(Asked):
            command.main()
    elif words[0] == "python":
        assert (ROOT / words[1]).exists()
    elif words[0] == "torchrun":
        from torch.distributed.run import parse_args

        assert parse_args(words[1:]).training_script == "my_pretraining.py"
        assert f"`{words[-1]}`" in HOW_TO
    elif words[0] == "dask":
        module = __import__(f"distributed.cli.dask_{words[1]}", fromlist=["main"])
        known = {name for option in module.main.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
    else:
        assert words[:2] == ["pip", "install"]


def test_the_code_for_your_own_records_runs(tmp_path, write_record, monkeypatch):
    rng, folder = np.random.default_rng(0), tmp_path / "my-records"
    names = [f"{i:03d}" for i in range(40)]
    for name in names:
        write_record(folder / name, rng.integers(-500, 500, (12, 1000)))
    table = {"record_id": names, "ill": np.arange(40) // 10 % 2, "fold": np.arange(40) % 10 + 1}
    pd.DataFrame(table).to_csv(tmp_path / "patients.csv", index=False)
    monkeypatch.chdir(tmp_path)
    code = [block for block in blocks(HOW_TO, "python") if '"ptb-xl"' not in block]
    assert len(code) == 4
    names = {}
    for block in code:
        block = re.sub(r"epochs=\d+, batch_size=\d+", "epochs=1, batch_size=16", block)
        exec(compile(block, "how-to-run", "exec"), names)
    assert len(names["cohort"]) == 40 and len(names["log"]) == len(names["run"].log) == 2
    assert names["scores"].shape == (4, 1)


def test_the_part_of_ptbxl_can_be_asked_for():
    [block] = [block for block in blocks(HOW_TO, "python") if '"ptb-xl"' in block]
    [call] = [n for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Call)]
    inspect.signature(ptbxl.open).bind(**{k.arg: k.value for k in call.keywords})


# --- what is filled in ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_is_filled_in(page):
    text = filled(page)
    assert "% fill" not in text and text.startswith("# ")


def test_every_module_is_on_a_page_of_the_api():
    text = "\n".join(filled(page) for page in PAGES if page.stem.startswith("api-"))
    there = set(re.findall(r"^## `([\w.]+)`$", text, re.M))
    for path in sorted((ROOT / "ecgtutorial").rglob("*.py")):
        if path.stem != "__main__" and reference._dotted(path) != "ecgtutorial":
            if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
                assert reference._dotted(path) in there, f"add {path.stem} to a page of the API"


def test_a_signature_has_its_defaults_but_no_types():
    [node] = ast.parse("def f(self, a: int, *rest, b=1, **more): 'Say.'").body
    assert reference._signature(node.args, True) == "(a, *rest, b=1, **more)"
    [node] = ast.parse("class Run:\n    'A run.'\n    log: list\n    seed: int = 0").body
    assert reference._entry(node, {}).startswith("``````{py:class} Run(log, seed=0)\n\nA run.")


def test_a_docstring_becomes_markdown():
    text = """Train `f` on x * y. Chapter: *3KG*.

    a, b: of Adam, such as
        {"lr": 1}.
    c: seconds.

        f(1)  # as code

    Raises
    ------
    ValueError
        For ``*``.
    """
    assert reference.prose(text, {"3KG": "../methods/3kg.ipynb"}).split("\n\n") == [
        "Train `f` on x \\* y. Chapter: [3KG](../methods/3kg.ipynb).",
        '- `a, b`: of Adam, such as \\{"lr": 1}. \n- `c`: seconds. ',
        "```text\nf(1)  # as code\n```",
        "**Raises**",
        "ValueError\n    For ``*``.",
    ]


def test_status_has_a_row_for_each_chapter_and_its_run():
    lines = reference.status(BOOK).splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    assert len(rows) == len(reference.chapters(BOOK)) == len(list(BOOK.glob("[!_]*/*.ipynb")))
    assert not [row for row in rows if "not said" in row]


def test_the_entry_for_bibtex_has_what_the_citation_file_says():
    text = reference.bibtex(BOOK)
    assert text.startswith("```bibtex\n@software{") and text.count("{") == text.count("}")
    for line in ("title: ", "version: "):
        value = re.search(rf"^{line}\"?(.*?)\"?$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
        assert value in text


# --- data cards ----------------------------------------------------------------------------------


def test_cards_are_of_the_cohorts_behind_the_tables():
    there = json.loads(cards.OUT.read_text(encoding="utf-8"))
    for name, table in (("simulated", "linear-evaluation"), ("ptb-xl", "label-efficiency-all")):
        _, how = runs.load_results(name, table)
        assert there[name]["fingerprint"] == how["cohort_fingerprint"], "run book/_tools/cards.py"


def test_a_card_counts():
    table = pd.DataFrame(
        {
            "record_id": range(5), "patient_id": [1, 1, 2, 3, 4], "fold": [1, 1, 8, 9, 10],
            "age": [40.0, 50, 60, 300, np.nan], "sex": ["female", "male", "male", None, "female"],
            "true_statements": ["NORM SR", "NORM", "IMI", "IMI SR", ""],
        }
    )  # fmt: skip
    labels = pd.DataFrame({"NORM": [1, 1, 0, 0, 0], "SR": [1, 0, 0, 0, 0], "IMI": [0, 0, 1, 1, 0]})
    found = cards.card(Cohort(np.zeros((5, 12, 100), np.int16), table, labels, 10, "made up"))
    assert (found["records"], found["patients"], found["patients with several records"]) == (
        5,
        4,
        1,
    )
    assert found["age"] == [40, 45, 50, 55, 60] and found["women"] == 0.4
    assert (found["older than 89"], found["age not given"]) == (1, 1)
    assert found["superclasses"] == {"NORM": 2, "MI": 2, "STTC": 0, "CD": 0, "HYP": 0}
    assert found["none of the superclasses"] == 1 and found["statements"] == 3
    assert found["records of each fold"] == [2, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert found["label differs from the truth"] == 1


# --- terms ---------------------------------------------------------------------------------------


def linked(tmp_path, *paragraphs):
    """Paragraphs of a chapter after linking, links as <text|term>."""
    (tmp_path / "reference").mkdir()
    glossary = "```{glossary}\nlead\n  One curve.\n\nNT-Xent\n  A loss.\n\nview\n  A copy.\n```\n"
    (tmp_path / "reference" / "glossary.md").write_text(glossary)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "chapter.ipynb")
    tree = nodes.container("", *(nodes.paragraph("", "", *children) for children in paragraphs))

    class App:
        srcdir = tmp_path

        class env:
            docname = "chapter"

    reference.link_terms(App, tree)
    said = []
    for text in tree.findall(nodes.Text):
        link = text.parent.parent
        term = link.get("reftarget") if isinstance(link, nodes.Element) else None
        said.append(f"<{text}|{term}>" if term else str(text))
    return "".join(said)


def test_a_term_is_linked_where_it_is_first_used(tmp_path):
    text = nodes.Text
    found = linked(
        tmp_path,
        [nodes.strong("", "lead"), text(": two Leads of a twelve-lead ECG, a misleading lead. ")],
        [text("With this rule in view, two views pay NT-Xent. NT-Xent again.")],
    )
    assert found == (
        "lead: two Leads of a twelve-lead ECG, a misleading <lead|lead>. "
        "With this rule in view, two <views|view> pay <NT-Xent|NT-Xent>. NT-Xent again."
    ).replace("Leads", "<Leads|lead>").replace("<lead|lead>. ", "lead. ")


def test_terms_are_unique():
    names = [n.lower() for n in reference.terms(BOOK)]
    assert len(set(names)) == len(names) > 80
