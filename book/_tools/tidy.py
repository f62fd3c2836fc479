"""Bring an executed notebook into the form that is committed.

    python book/_tools/tidy.py book/methods/3kg.ipynb ...

What varies from run to run or from machine to machine goes: the cell that papermill injects, its
metadata, timestamps, paths of this machine, memory addresses, progress bars, random cell ids. What
is left changes only when the chapter or its numbers change. Figures get a palette: line drawings in
256 colours look the same and take a third of the space.
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_METADATA = ("tags", "mystnb", "jupyter", "nbgrader")  # the keys a chapter may carry
PROGRESS = re.compile(
    r"\d+%\|.*\||\d+(it|cell|s)?/s\b|\[\d\d:\d\d<|\dit \[\d\d:\d\d"
    r"|IProgress not found|import tqdm as notebook_tqdm"  # tqdm asks for widgets, in two lines
)


def tidy(notebook, root=ROOT):
    """Return the notebook without anything that belongs to one run or one machine.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        It is changed in place and returned.
    root : Path
        The repository's folder; its path is taken out of the outputs.
    """
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in tags(c)]
    kept = {k: v for k, v in notebook.metadata.items() if k == "ecgtutorial"}  # see fresh.py
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            **kept,
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, max(5, notebook.nbformat_minor)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in CELL_METADATA and v}
        )
        if cell.cell_type == "code":
            cell.outputs = _outputs(cell.outputs, replacements(root))
    _number(notebook)
    _name(notebook)
    return notebook


def tags(cell):
    return cell.metadata.get("tags", [])


def replacements(root):
    """Pairs of (path of this machine, what stands for it), the longest first."""
    root = Path(root).resolve()
    pairs = [
        (root, "."),
        (root.parent, ".."),
        (Path.home(), "~"),
        (Path(sys.prefix), "environment"),
        (Path(tempfile.gettempdir()).resolve(), "temporary"),
    ]
    pairs = [(str(path), text) for path, text in pairs if path != path.parent]  # never "/"
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _outputs(outputs, paths):
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = _clean(_without_progress(output.text), paths)
            if not output.text.strip():
                continue
            # How a stream is cut into pieces depends on timing: join what belongs together.
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        elif "data" in output:
            if WIDGET in output.data:  # a progress bar of a notebook front end
                continue
            for mime, value in output.data.items():
                if isinstance(value, str) and (mime.startswith("text/") or "record/" in mime):
                    output.data[mime] = _clean(value, paths)
                elif mime == "image/png":
                    output.data[mime] = _with_palette(value)
        kept.append(output)
    return kept


def _with_palette(png):
    """The same picture with at most 256 colours; base64 in and out. One with a palette stays."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    if image.mode == "RGBA":  # matplotlib's figures are opaque
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    small = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    small = base64.b64encode(small.getvalue()).decode() + "\n"
    return small if len(small) < len(png) else png


def _without_progress(text):
    lines = []
    for line in text.splitlines(keepends=True):
        shown = line.rstrip("\n").rstrip("\r").rsplit("\r", 1)[-1]  # what a terminal would show
        if not PROGRESS.search(shown):
            lines.append(shown + ("\n" if line.endswith("\n") else ""))
    return "".join(lines)


def _clean(text, paths):
    for path, stands_for in paths:
        text = re.sub(re.escape(path) + r"(?![\w.-])", stands_for, text)
    return re.sub(r" at 0x[0-9a-fA-F]{6,}", "", text)


def _number(notebook):
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if any(c.execution_count is None for c in code):
        return  # not executed to its end: leave it visible
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def is_random(cell_id):
    """Whether a cell id looks like one that a notebook front end made up."""
    return bool(re.search(r"(?=[a-f0-9]*\d)[a-f0-9]{8}", cell_id)) or not re.fullmatch(
        r"[a-z0-9][a-z0-9-]{1,63}", cell_id
    )


def _name(notebook):
    seen = set()
    for cell in notebook.cells:
        name = cell.get("id", "")
        if is_random(name):
            name = _slug(cell)
        base, number = name, 2
        while name in seen:
            name, number = f"{base}-{number}", number + 1
        cell["id"] = name
        seen.add(name)


def _slug(cell):
    if "parameters" in tags(cell):
        return "parameters"
    defined = re.search(r"^(?:def|class) (\w+)", cell.source, re.M)
    first = defined.group(1) if defined and cell.cell_type == "code" else cell.source
    words = re.findall(r"[a-z]+[a-z0-9]*", first.lower().replace("_", " "))
    slug = "-".join(words[:5])[:48].strip("-")
    return slug if slug and not is_random(slug) else f"{cell.cell_type}-cell"


def main(paths):
    if not paths:
        raise SystemExit("tidy.py: name at least one notebook")
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(tidy(notebook), path)
        print(f"tidied {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
