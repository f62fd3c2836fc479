"""Clean copies of the chapters for Colab, which shows a book's directives and roles as raw text.

    python book/_tools/colab.py                      # book/ -> _build/colab
    python book/_tools/colab.py --source _build/run/book

In a copy the numbers of the published run stand in the text, boxes and exercises are plain
Markdown, solutions are folded, links lead to the site, and outputs are gone. The set-up cell knows
the repository and the commit. Cells keep their ids. The repository's address is looked for as in
render.py.
"""

import argparse
import ast
import os
import posixpath
import re
import shutil
from pathlib import Path

import nbformat
import pybtex.database
import yaml
from render import ROOT, _git, repository_url

BRANCH = "colab"  # where the workflow publishes the copies
RECORD = "application/papermill.record/text/plain"
FENCE = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\}[ \t]*(.*)$")
ROLE = re.compile(r"\{([a-z]+(?::[a-z]+)?)\}`([^`]+)`")
LINK = re.compile(r"(?<!!)\]\((?![a-z]+:|#)([^)\s]+)\)")
SETUP = """\
import importlib.util, os
if importlib.util.find_spec("ecgtutorial") is None:  # install this page's version of it
    repository = os.environ.get("ECGTUTORIAL_REPOSITORY", "{repository}@{commit}")
    %pip install -q --no-deps wfdb lightning-fabric lightning-utilities safetensors \
"git+{{repository}}"
import ecgtutorial as ecg
"""
NOTE = Path(__file__).with_name("colab.md")


def site_address(repository):
    """The address at which the pages are published, or ``""``.

    `repository`: web address of the repository. ``ECGTUTORIAL_SITE`` comes first; else what GitHub
    gives its pages.
    """
    if os.environ.get("ECGTUTORIAL_SITE"):
        return os.environ["ECGTUTORIAL_SITE"].rstrip("/")
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository)
    return f"https://{match[1].lower()}.github.io/{match[2]}" if match else ""


def colab_address(repository, chapter):
    """Where Colab opens the copy of a chapter (``"methods/3kg"``), or ``""`` off GitHub."""
    if not repository.startswith("https://github.com/"):
        return ""
    where = repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{where}/blob/{BRANCH}/{chapter}.ipynb"


class Book:
    """What the copies take from the whole book: recorded numbers, references, addresses."""

    def __init__(self, source, repository, commit):
        self.repository, self.commit = repository, commit
        self.site = site_address(repository)
        contents = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
        files = [c["file"] for part in contents["parts"] for c in part["chapters"]]
        # an assignment's source holds its solutions and stays out of the table of contents
        self.notebooks = {
            name: nbformat.read(source / f"{name}.ipynb", 4)
            for name in files
            if (source / f"{name}.ipynb").is_file()
        }
        self.numbers = {name: recorded(one) for name, one in self.notebooks.items()}
        entries = pybtex.database.parse_file(source / "references.bib").entries
        self.citations = {key: citation(entry) for key, entry in entries.items()}
        times = ROOT / "results" / "times.json"
        self.times = yaml.safe_load(times.read_text(encoding="utf-8")) if times.is_file() else {}

    def page(self, chapter, target):
        """The site's address of a link or a page as it stands in a chapter."""
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(chapter), path))
        path = re.sub(r"\.(md|ipynb|html)$", "", path) + ".html"
        return f"{self.site}/{path}" + (f"#{anchor}" if anchor else "")

    def number(self, chapter, key):
        """The text of ``{glue:text}`key```, as the page shows it."""
        name, _, fmt = key.rpartition("::")[2].partition(":")
        if "::" in key:
            other = key.split("::")[0]
            chapter = posixpath.normpath(posixpath.join(posixpath.dirname(chapter), other))
            chapter = chapter.removesuffix(".ipynb")
        if name not in self.numbers.get(chapter, {}):
            raise ValueError(f"{chapter} has recorded no {name!r}: run it, then copy again")
        return format(self.numbers[chapter][name], fmt)

    def role(self, chapter, kind, text):
        """A role as plain Markdown; ``ValueError`` for one that this file does not know."""
        if kind == "glue:text":
            return self.number(chapter, text)
        if kind in ("cite:p", "cite:t"):
            missing = [key for key in text.split(",") if key.strip() not in self.citations]
            if missing:
                raise ValueError(f"{chapter} cites {missing}, which references.bib does not hold")
            cited = [self.citations[key.strip()] for key in text.split(",")]
            cited = [(*one[:2], one[2] or f"{self.site}/references.html") for one in cited]
            if kind == "cite:t":
                return ", ".join(f"[{who} ({year})]({url})" for who, year, url in cited)
            return "(" + "; ".join(f"[{who} {year}]({url})" for who, year, url in cited) + ")"
        if kind == "term":
            shown, _, term = text.partition("<")
            anchor = re.sub(r"[^\w]+", "-", (term.rstrip(">") or shown).strip())
            return f"[{shown.strip()}]({self.site}/reference/glossary.html#term-{anchor})"
        raise ValueError(f"{chapter}: Colab cannot show the role {{{kind}}}`{text}`")


def recorded(notebook):
    """Every number and string that `record` has left in a notebook's outputs: name -> value."""
    return {
        output["metadata"]["scrapbook"]["name"]: ast.literal_eval(output["data"][RECORD])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if RECORD in output.get("data", {})
    }


def citation(entry):
    """``(who, year, address)`` of a reference: "Oh et al.", "2022", its DOI or address."""
    names = [" ".join(p.prelast_names + p.last_names) for p in entry.persons.get("author", [])]
    names = [re.sub(r"[{}]", "", name) for name in names] or [entry.fields.get("key", entry.key)]
    who = names[0] if len(names) == 1 else f"{names[0]} and {names[1]}"
    who = f"{names[0]} et al." if len(names) > 2 else who
    doi, arxiv = entry.fields.get("doi"), entry.fields.get("eprint")
    url = f"https://doi.org/{doi}" if doi else entry.fields.get("url", "")
    url = url or (f"https://arxiv.org/abs/{arxiv}" if arxiv else "")
    return who, entry.fields.get("year", ""), url


def plain(source, titles=None, inside=""):
    """MyST boxes as Markdown that every notebook shows: ``(text, whether a solution goes on)``.

    `titles`: label -> title of the exercises met so far; they name their solutions.
    `inside`: the title of the solution that a cell before has opened.
    """
    titles = {} if titles is None else titles
    lines, done = source.split("\n"), []
    if inside:
        done += [f"<details><summary>{inside}, continued</summary>", ""]
    while lines:
        opening = FENCE.match(lines[0])
        if not opening:
            done.append(lines.pop(0))
            continue
        fence, kind, argument = opening.groups()
        lines.pop(0)
        end = next((n for n, line in enumerate(lines) if line.rstrip() == fence), None)
        if end is None:
            raise ValueError(f"the box {{{kind}}} {argument} is not closed")
        body, lines = lines[:end], lines[end + 1 :]
        options = {}
        while body and re.match(r":[\w-]+:", body[0]):
            name, _, value = body.pop(0)[1:].partition(":")
            options[name] = value.strip()
        body = plain("\n".join(body), titles)[0].strip("\n").split("\n")
        if kind in ("exercise", "exercise-start"):
            titles[options.get("label")] = argument
            done += [f"#### Exercise: {argument}", "", *body]
        elif kind == "solution":
            done += [f"<details><summary>Solution: {titles.get(argument, argument)}</summary>"]
            done += ["", *body, "", "</details>"]
        elif kind == "solution-start":
            inside = f"Solution: {titles.get(argument, argument)}"
            done += [f"<details><summary>{inside}</summary>", ""]
        elif kind == "solution-end":
            done += ["", "</details>"]
            inside = ""
        elif kind == "admonition":
            done += [f"> **{argument}**", ">", *(f"> {line}".rstrip() for line in body)]
        elif kind != "exercise-end":
            raise ValueError(f"Colab cannot show the box {{{kind}}} {argument}")
    if inside:
        done += ["", "</details>"]
    return "\n".join(done), inside


def markdown(book, chapter, text):
    """Roles and relative links of a Markdown cell as plain Markdown."""
    text = ROLE.sub(lambda m: book.role(chapter, m[1], m[2]), text)
    return LINK.sub(lambda m: f"]({book.page(chapter, m[1])})", text)


def copy(book, chapter):
    """The notebook that Colab opens for a chapter (``"methods/3kg"``).

    Raises ``ValueError`` for a number that no run recorded and for a box or role that has no plain
    form; the message names chapter and cell.
    """
    notebook = nbformat.from_dict(book.notebooks[chapter])
    cells, titles, inside = [], {}, ""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        metadata = {"tags": ["parameters"]} if "parameters" in tags else {}
        source = cell.source
        if cell.cell_type == "markdown":
            try:
                source, inside = plain(source, titles, inside)
                source = markdown(book, chapter, source)
            except ValueError as error:
                raise ValueError(f"{chapter}, cell {cell.id}: {error}") from None
            source = re.sub(r"<details><summary>[^<]*</summary>\s*</details>", "", source).strip()
            if not source:  # an end marker alone
                continue
            cells.append(nbformat.v4.new_markdown_cell(source, id=cell.id))
            continue
        if cell.id == "setup":
            source = SETUP.format(repository=book.repository, commit=book.commit).strip()
        elif inside or "hide-input" in tags:  # Colab folds a cell that has a title
            title = f"{inside}, code" if inside else cell.id.replace("-", " ")
            source = f'#@title {title} {{ display-mode: "form" }}\n{source}'
            metadata["cellView"] = "form"
        cells.append(nbformat.v4.new_code_cell(source, id=cell.id, metadata=metadata))
    title = re.search(r"^# (.+)$", cells[0].source, re.M)[1]
    seconds = book.times.get(chapter, {}).get("full simulated", {}).get("seconds")
    full = f"about {max(1, round(seconds / 60))} min on two cores" if seconds else "longer"
    note = NOTE.read_text(encoding="utf-8").format(
        title=title, page=book.page("", chapter), full=full
    )
    cells.insert(1, nbformat.v4.new_markdown_cell(note.strip(), id="on-colab"))
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata | {"colab": {"provenance": []}})


def badges(html, repository):
    """Put a link to Colab under the title of every chapter in the folder of built pages.

    `repository`: its web address; off GitHub, or where it is not known, nothing happens.
    """
    for source in sorted((html / "_sources").glob("*/*.ipynb")):
        chapter = source.relative_to(html / "_sources").with_suffix("").as_posix()
        address, page = colab_address(repository, chapter), html / f"{chapter}.html"
        if address:
            link = f'<p class="colab"><a href="{address}">Run this chapter on Colab</a></p>'
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace("</h1>", f"</h1>\n{link}", 1), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description="Make the copies of the chapters for Colab.")
    parser.add_argument("--source", type=Path, default=ROOT / "book", help="folder of the pages")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "colab")
    arguments = parser.parse_args()
    repository = repository_url(os.environ, _git("remote", "get-url", "origin"))
    if not repository:
        raise SystemExit(
            "colab.py: the repository's address is not known, and the copies install from it; "
            "set ECGTUTORIAL_REPOSITORY=https://github.com/OWNER/NAME"
        )
    book = Book(arguments.source, repository, _git("rev-parse", "HEAD"))
    shutil.rmtree(arguments.output, ignore_errors=True)
    for chapter in book.notebooks:
        path = arguments.output / f"{chapter}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            nbformat.write(copy(book, chapter), path)
        except ValueError as error:
            raise SystemExit(f"colab.py: {error}") from None
    print(f"{len(book.notebooks)} chapters are in {os.path.relpath(arguments.output)}")


if __name__ == "__main__":
    main()
