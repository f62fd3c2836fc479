"""Copies of the chapters for Colab: plain Markdown, numbers filled in, one set-up cell."""

import re
from pathlib import Path

import colab
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/Owner/book"


@pytest.fixture(scope="module")
def book():
    return colab.Book(ROOT / "book", REPOSITORY, "abc123")


@pytest.fixture(scope="module")
def copies(book):
    return {chapter: colab.copy(book, chapter) for chapter in book.notebooks}


def test_nothing_of_the_books_markup_is_left(copies):
    left = re.compile(r"\{[a-z:]+\}`|^(`{3,}|:{3,})\{|\]\((?![a-z]+:|#)[^)]*\)", re.M)
    for chapter, notebook in copies.items():
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                text = re.sub(r"```.*?```", "", cell.source, flags=re.S)
                assert not left.search(text), f"{chapter}, {cell.id}: {left.search(text)[0]}"
                assert cell.source.count("<details>") == cell.source.count("</details>"), cell.id


def test_every_copy_has_the_same_setup_and_its_chapters_cells(book, copies):
    setups = set()
    for chapter, notebook in copies.items():
        ids = [cell.id for cell in notebook.cells]
        here = [cell.id for cell in book.notebooks[chapter].cells]
        assert ids[1] == "on-colab" and set(ids) - {"on-colab"} <= set(here)
        assert [i for i in here if i in ids] == [i for i in ids if i != "on-colab"]
        code = [c.id for c in book.notebooks[chapter].cells if c.cell_type == "code"]
        assert code == [c.id for c in notebook.cells if c.cell_type == "code"]
        setups.add(next(cell.source for cell in notebook.cells if cell.id == "setup"))
    (setup,) = setups
    assert f'"{REPOSITORY}@abc123"' in setup and "input(" not in setup


def test_copies_hold_no_output(copies):
    for notebook in copies.values():
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None


def test_numbers_are_those_of_the_run(book):
    numbers = book.numbers["signal/cohorts"]
    name, value = next((k, v) for k, v in numbers.items() if isinstance(v, (int, float)))
    assert book.number("signal/cohorts", f"{name}:.3f") == f"{value:.3f}"
    assert book.number("methods/3kg", f"../signal/cohorts.ipynb::{name}:.1f") == f"{value:.1f}"
    with pytest.raises(ValueError, match="no-such-number"):
        book.number("signal/cohorts", "no-such-number")


def test_citations_and_links(book):
    text = colab.markdown(book, "methods/3kg", "{cite:p}`oh2022,mehari2022`, {cite:t}`oh2022`")
    assert text.startswith("([Oh et al. 2022](https://arxiv.org/abs/2203.06889); [Mehari and ")
    assert text.endswith("[Oh et al. (2022)](https://arxiv.org/abs/2203.06889)")
    text = colab.markdown(book, "methods/3kg", "[a](../signal/cohorts#x) [b](cpc) [c](#d)")
    site = "https://owner.github.io/book"
    assert text == f"[a]({site}/signal/cohorts.html#x) [b]({site}/methods/cpc.html) [c](#d)"
    with pytest.raises(ValueError, match="nobody1900"):
        colab.markdown(book, "methods/3kg", "{cite:p}`nobody1900`")


def test_boxes():
    source = """````{exercise} By hand
:label: one
*Easy.* What?
```python
x = 1
```
````

````{solution} one
:class: dropdown
This.
````

```{admonition} Common mistakes
:class: warning

- **A.** b
```"""
    text, inside = colab.plain(source)
    assert text.startswith("#### Exercise: By hand\n\n*Easy.* What?\n```python\nx = 1\n```\n")
    assert "<details><summary>Solution: By hand</summary>\n\nThis.\n\n</details>" in text
    assert text.endswith("> **Common mistakes**\n>\n> - **A.** b") and not inside


def test_a_solution_that_goes_over_several_cells_is_closed_in_each():
    titles = {}
    colab.plain("```{exercise-start} By hand\n:label: one\n```\nWhat?", titles)
    text, inside = colab.plain(
        "```{exercise-end}\n```\n\n```{solution-start} one\n```\nSo.", titles
    )
    assert text.endswith("<details><summary>Solution: By hand</summary>\n\nSo.\n\n</details>")
    text, inside = colab.plain("And so.\n```{solution-end}\n```\nAfter.", titles, inside)
    assert text.split("\n")[0] == "<details><summary>Solution: By hand, continued</summary>"
    assert text.endswith("</details>\nAfter.") and not inside


@pytest.mark.parametrize(
    "source, message",
    [("```{figure} x.png\n```", "figure"), ("```{exercise} never closed", "not closed")],
)
def test_unknown_and_open_boxes_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        colab.plain(source)


def test_error_names_chapter_and_cell(book):
    broken = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# T\n{sub}`x`", id="the-cell")]
    )
    book.notebooks["signal/broken"] = broken
    try:
        with pytest.raises(ValueError, match="signal/broken, cell the-cell.*sub"):
            colab.copy(book, "signal/broken")
    finally:
        del book.notebooks["signal/broken"]


def test_addresses():
    assert colab.site_address("https://github.com/Owner/book") == "https://owner.github.io/book"
    where = colab.colab_address(REPOSITORY, "methods/3kg")
    assert where.endswith("/github/Owner/book/blob/colab/methods/3kg.ipynb")
    assert colab.colab_address("https://gitlab.com/a/b", "methods/3kg") == ""
