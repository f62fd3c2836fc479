"""A Sphinx extension for the reference pages: what can be computed is filled in at build time.

A line ``% fill: WHAT ARGUMENTS`` in a page becomes what the function of that name below returns.
In chapters, a term of the glossary is linked where a page first uses it.
"""

import ast
import inspect
import json
import re
from pathlib import Path

import nbformat
import yaml
from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
FILL = re.compile(r"^% fill: (\w+) ?(.*)$", re.M)


def setup(app):
    app.connect("source-read", fill)
    app.connect("doctree-read", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fill(app, docname, source):
    """Replace the ``% fill`` lines of a page that Sphinx has just read."""
    if docname.startswith("reference/"):
        book = Path(app.srcdir)
        makers = {f.__name__: f for f in (api, modules, status, card, file, bibtex)}
        source[0] = FILL.sub(lambda m: makers[m[1]](book, *m[2].split()), source[0])


def chapters(book):
    """The notebooks of the table of contents with their title: {"methods/3kg": "3KG"}."""
    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    found = {}
    for part in toc.get("parts", []):
        for name in (entry["file"] for entry in part["chapters"]):
            if (book / f"{name}.ipynb").exists():
                first = _notebook(book, name).cells[0].source
                found[name] = first.splitlines()[0].removeprefix("# ").split(":")[0]
    return found


def _notebook(book, name):
    return nbformat.read(book / f"{name}.ipynb", as_version=4)


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


# --- one line or one file -----------------------------------------------------------------------


def file(book, name):
    """A text file of the repository: Markdown as it is without its title, others as code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\A# .*\n", "", text) if name.endswith(".md") else f"```yaml\n{text}```"


def bibtex(book):
    """CITATION.cff as an entry for BibTeX."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in cited["authors"])
    fields = {"title": f"{{{cited['title']}}}", "author": authors, "version": cited["version"]}
    fields |= {"year": str(cited["date-released"])[:4]} if "date-released" in cited else {}
    fields |= {"url": cited["repository-code"]} if "repository-code" in cited else {}
    lines = [f"  {name:7} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["```bibtex", "@software{unlabelledhearts,", *lines, "}", "```"])


# --- status -------------------------------------------------------------------------------------

RUN = re.compile(r"cohort `([\w-]+)`, ([\d,]+) records of ([\d,]+) patients at .*, scale `(\w+)`")


def status(book):
    """A row for each chapter: what its stored run used, how long it took, on what."""
    times = json.loads((ROOT / "results" / "times.json").read_text(encoding="utf-8"))
    head = ["chapter", "cohort", "records", "scale", "seconds", "processor cores", "run store"]
    rows, versions = [], {}
    for name, title in chapters(book).items():
        notebook = _notebook(book, name)
        cohort, records, _, scale = _run_of(notebook)
        took = times.get(name, {}).get(f"{scale} simulated", {})
        seconds = "not kept" if took.get("seconds") is None else f"{took['seconds']:,.0f}"
        store = {True: "empty", False: "as it was", None: ""}[took.get("empty_cache")]
        link = f"[{title}](../{name}.ipynb)"
        rows.append([link, cohort, records, scale, seconds, took.get("cores", ""), store])
        used = notebook.metadata.get("ecgtutorial", {}).get("versions", {})
        versions.setdefault(tuple(sorted(used.items())), []).append(title)
    lines = [f"- **{_all(titles, rows)}**: {', '.join(f'{n} {v}' for n, v in used) or 'not kept'}"
             for used, titles in versions.items()]  # fmt: skip
    return "\n\n".join([_table(head, rows), "## Versions", "\n".join(lines)])


def _run_of(notebook):
    """What the line of `this_run` says: cohort, records, patients, scale."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found = RUN.search(output.get("data", {}).get("text/markdown", ""))
            if found:
                return found.groups()
    return "not said", "", "", "not said"


def _all(titles, rows):
    return "Every chapter" if len(titles) == len(rows) else ", ".join(titles)


# --- data cards ---------------------------------------------------------------------------------


def card(book, name):
    """The countable part of a cohort's data card, from results/cards.json."""
    facts = json.loads((ROOT / "results" / "cards.json").read_text(encoding="utf-8"))[name]
    n = facts["records"]

    def share(count):
        return f"{count:,} ({100 * count / n:.0f} %)"

    low, first, middle, third, high = facts["age"]
    folds = facts["records of each fold"]
    rows = [
        ("records, patients", f"{n:,}, {facts['patients']:,}"),
        ("patients with several records", f"{facts['patients with several records']:,}"),
        ("a record", f"{facts['seconds']:g} s, 12 leads, {facts['fs']:g} Hz"),
        ("age (years)", f"median {middle:.0f}, quartiles {first:.0f} and {third:.0f}, "
                        f"from {low:.0f} to {high:.0f}"),
        ("women", f"{100 * facts['women']:.0f} %"),
        ("kinds of statement", facts["statements"]),
        *((f"with {c}", share(count)) for c, count in facts["superclasses"].items()),
        ("with none of these", share(facts["none of the superclasses"])),
        ("records of folds 1 to 10", ", ".join(map(str, folds))),
    ]  # fmt: skip
    if facts["older than 89"]:
        rows.insert(4, ("older than 89, age hidden", share(facts["older than 89"])))
    if "devices" in facts:
        checked = " %, ".join(f"{100 * part:.0f}" for part in facts["checked by a person"])
        rows.append(("kinds of device", facts["devices"]))
        rows.append(("dates of recording, shifted", f"{facts['years'][0]} to {facts['years'][1]}"))
        rows.append(("checked by a person, folds 1-8, 9, 10", f"{checked} %"))
    if "label differs from the truth" in facts:
        differs = share(facts["label differs from the truth"])
        rows.append(("labels that differ from the truth", differs))
    rows.append(("fingerprint", f"`{facts['fingerprint']}`"))
    return _table(["what", "in this book"], rows)


# --- API ----------------------------------------------------------------------------------------

# A function's or class's entry. The number of fences goes down towards what is inside.
ENTRY = "{fence}{{py:{kind}}} {name}{signature}\n\n{text}\n{fence}"
SECTION = re.compile(r"^(Parameters|Returns|Raises|Yields|Examples)\n-+$", re.M)
ITEM = re.compile(r"^(\*{0,2}[a-z]\w*(?:, \*{0,2}\w+)*)( ?: | :$|: )(.*)$")


def api(book, *names):
    """The public names of modules, from their source: ``cohort``, ``evaluate.*``."""
    links = {title: f"../{name}.ipynb" for name, title in chapters(book).items()}
    parts = [_module(path, links) for name in names for path in _paths(name)]
    return "\n\n".join(filter(None, parts))


def modules(book):
    """All modules with the first line of what they say, each linked to its page."""
    rows = []
    toc = (book / "_toc.yml").read_text(encoding="utf-8")
    for page in re.findall(r"file: (reference/api-[\w-]+)", toc):
        for _, names in FILL.findall((book / f"{page}.md").read_text(encoding="utf-8")):
            for path in (path for name in names.split() for path in _paths(name)):
                about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
                if about:
                    line = _inline(" ".join(about.split("\n\n")[0].split()), {})
                    rows.append([f"[`{_dotted(path)}`](#api-{_dotted(path)})", line])
    return _table(["module", "what it holds"], rows)


def _dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _paths(name):
    package = ROOT / "ecgtutorial"
    if name.endswith(".*"):
        return sorted(p for p in (package / name[:-2]).glob("*.py") if p.stem != "__main__")
    return [package / f"{name.replace('.', '/')}.py"]


def _module(path, links):
    name, tree = _dotted(path), ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None:
        return ""
    about = prose(ast.get_docstring(tree), links)
    entries = [_entry(node, links) for node in tree.body if _is_public(node)]
    head = [f"(api-{name})=\n## `{name}`", about, f"```{{py:currentmodule}} {name}\n```"]
    return "\n\n".join([*head, *entries])


def _is_public(node):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds) and node.name[0] != "_" and ast.get_docstring(node)


def _entry(node, links, inside=False):
    text, fence = prose(ast.get_docstring(node), links), "`" * (4 if inside else 6)
    if isinstance(node, ast.FunctionDef):
        marks = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
        kind = "function" if not inside else "property" if "property" in marks else "method"
        signature = "" if kind == "property" else _signature(node.args, inside)
    else:
        kind, methods = "class", [n for n in node.body if isinstance(n, ast.FunctionDef)]
        made = next((_signature(n.args, True) for n in methods if n.name == "__init__"), None)
        signature = _fields(node) if made is None else made
        text = "\n\n".join([text, *(_entry(n, links, True) for n in methods if _is_public(n))])
    return ENTRY.format(fence=fence, kind=kind, name=node.name, signature=signature, text=text)


def _signature(arguments, is_method):
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None  # types stand in the text
    text = ast.unparse(arguments)
    return "(" + (re.sub(r"^(self|cls)(, )?", "", text) if is_method else text) + ")"


def _fields(node):
    """The arguments of a data class or named tuple."""
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    return "(" + ", ".join(
        n.target.id + (f"={ast.unparse(n.value)}" if n.value else "") for n in fields
    ) + ")"  # fmt: skip


def prose(text, links):
    """A docstring as MyST Markdown; chapters that it names become links."""
    text = SECTION.sub(r"**\1**\n", inspect.cleandoc(text))
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(_block(block, links) for block in blocks)


def _block(block, links):
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines):
        return "```text\n" + inspect.cleandoc(block) + "\n```"
    items = []
    for line in lines:
        found = ITEM.match(line)
        if found and (items or found[2] != ": " or _follows(lines, line)):
            kind = f"{found[3]}: " if found[2] == " : " else found[3] + " "
            items.append(f"- `{found[1]}`: {kind}")
        elif items:
            items[-1] += line.strip() + " "
        else:
            break
    return _inline("\n".join(items) if items else block, links)


def _follows(lines, line):
    """Whether lines after this one make it the first item of a list of arguments."""
    rest = lines[lines.index(line) + 1 :]
    return any(ITEM.match(other) for other in rest)


def _inline(text, links):
    pieces = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.S)
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            piece = re.sub(r"(?<!\*)\*([A-Z0-9][^*`\n]+)\*(?!\*)", lambda m: _link(m, links), piece)
            piece = re.sub(r"(?<!\*)\*(?![\w*]|\*)|(?<=\w)\*(?=\w)", r"\\*", piece)
            pieces[i] = re.sub(r"([$<{])", r"\\\1", piece)
        else:
            path = f"../{piece.strip('`')}.ipynb"
            pieces[i] = next((f"[{t}]({p})" for t, p in links.items() if p == path), piece)
    return "".join(pieces)


def _link(match, links):
    return f"[{match[1]}]({links[match[1]]})" if match[1] in links else f"_{match[1]}_"


# --- terms --------------------------------------------------------------------------------------

EVERYDAY = {"gain", "point", "record", "seed"}  # too often they are just words
OTHERWISE = "in view|statement about"  # here a term has its everyday sense
GLOSSARY = re.compile(r"```+\{glossary\}\n(.*?)```", re.S)
SKIPPED = (
    nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.caption,
    nodes.raw, nodes.strong, addnodes.pending_xref, nodes.footnote, nodes.comment,
)  # fmt: skip


def terms(book):
    """The glossary's terms, the longest first."""
    path = book / "reference" / "glossary.md"
    if not path.exists():
        return []
    found = GLOSSARY.findall(path.read_text(encoding="utf-8"))
    lines = (line for block in found for line in block.splitlines())
    names = {n.strip() for n in lines if n.strip() and n[0] not in " :"} - EVERYDAY
    return sorted(names, key=lambda name: -len(name))


def link_terms(app, doctree):
    """Link each term of the glossary where a chapter's running text first uses it."""
    name = app.env.docname
    if not (Path(app.srcdir) / f"{name}.ipynb").exists():
        return
    left = {_small(term): term for term in terms(Path(app.srcdir))}
    for paragraph in doctree.findall(nodes.paragraph):
        for text in list(paragraph.findall(nodes.Text)):
            if left and not _is_skipped(text):
                _link_first(text, left, name)


def _small(text):
    """A term at the start of a sentence is the same term."""
    return text[0].lower() + text[1:]


def _is_skipped(node):
    """Whether a text is no running text: a heading, a link, code, bold, a cell's output."""
    while node is not None:
        classes = node.get("classes", ()) if isinstance(node, nodes.Element) else ()
        if isinstance(node, SKIPPED) or "cell_output" in classes:
            return True
        node = node.parent
    return False


def _link_first(text, left, docname):
    """Put links into a text node for the terms that are left; take these from `left`."""
    words = "|".join(f"(?i:{re.escape(term[0])}){re.escape(term[1:])}" for term in left)
    pieces, end, plain = [], 0, text.astext()
    for found in re.finditer(rf"(?<![\w-])(?:{OTHERWISE}|({words})(?:s|es)?)(?![\w-])", plain):
        term = found[1] and left.pop(_small(found[1]), None)
        if term is None:  # or linked earlier in this text
            continue
        pieces += [nodes.Text(plain[end : found.start()]), _reference(found[0], term, docname)]
        end = found.end()
    if pieces:
        text.parent.replace(text, [*pieces, nodes.Text(plain[end:])])


def _reference(shown, term, docname):
    inner = nodes.inline("", shown, classes=["xref", "std", "std-term"])
    return addnodes.pending_xref(
        "", inner, refdomain="std", reftype="term", reftarget=term, refexplicit=True,
        refwarn=True, refdoc=docname,
    )  # fmt: skip
