"""Name the chapters whose stored outputs are older than the code they come from.

    python book/_tools/fresh.py                                  # all of them
    python book/_tools/fresh.py --stamp book/methods/3kg.ipynb   # its outputs hold, I have checked

`run.py` writes a stamp into each notebook that it executes: hashes of its code cells, of every
definition of the package that they can reach, and of the result tables that they name, with the
versions of the run. Comments, docstrings and layout do not count, nor does the set-up cell.
"""

import argparse
import ast
import hashlib
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from ecgtutorial import runs

ROOT = Path(__file__).resolve().parents[2]
KEY = "ecgtutorial"  # of the stamp, in a notebook's metadata
# The committed outputs are of simulated hearts, so the readers that `open_cohort` might call for
# other cohorts count only where a chapter calls them itself.
_OTHER = tuple(
    f"ecgtutorial.datasets.{name}."
    for name in ("ptbxl", "wfdb_folder", "challenge", "simulated_vt")
)


def stamp(notebook, package=None):
    """The stamp of a notebook with the code of today: cells, definitions, tables, versions.

    `package`: a `Package` read before, to be used for several notebooks.
    """
    package = package or Package()
    cells, body = {}, []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id != "setup":
            tree = ast.parse(TransformerManager().transform_cell(cell.source))
            cells[cell.id] = _hash(ast.unparse(tree).encode())
            body += tree.body
    chapter = ast.Module(body, [])
    return {
        "cells": cells,
        "definitions": {name: package.hashes[name] for name in package.reached(chapter)},
        "tables": {name: _hash((ROOT / name).read_bytes()) for name in _tables(chapter)},
        "versions": runs.environment()["versions"],
    }


def stale(notebook, package=None):
    """What has changed since the notebook's stamp, in words; empty if nothing has."""
    then = notebook.metadata.get(KEY)
    if then is None:
        return ["it has no stamp"]
    now, changed = stamp(notebook, package), []
    for kind in ("cells", "definitions", "tables"):
        for name in sorted(then[kind].keys() | now[kind].keys()):
            if name not in now[kind]:
                changed.append(f"{kind[:-1]} {name} is gone")
            elif name in then[kind] and then[kind][name] != now[kind][name]:
                changed.append(f"{kind[:-1]} {name} has changed")
            elif name not in then[kind] and kind != "definitions":  # those come with a change
                changed.append(f"{kind[:-1]} {name} is new")
    return changed


def _hash(data):
    return hashlib.sha256(data).hexdigest()[:8]


def _tables(chapter):
    """Result tables that a chapter's strings name: "ptb-xl/any-lead.csv", "any-lead"."""
    words = {Path(n.value).stem for n in ast.walk(chapter) if _is_name(n)}
    paths = (ROOT / "results").glob("*/*.csv")
    return {path.relative_to(ROOT).as_posix() for path in paths if path.stem in words}


def _is_name(node):
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and 0 < len(node.value) < 80 and "\n" not in node.value


# --- what a chapter reaches ---------------------------------------------------------------------


class Package:
    """What the package defines, read from its files: ``hashes`` is {definition: hash}."""

    def __init__(self):
        self.hashes, self.modules = {}, {}
        for path in sorted((ROOT / "ecgtutorial").rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            self.hashes |= runs._definitions(text, name.removeprefix("ecgtutorial."))
            self.modules[name] = _Names(ast.parse(text), name, parts[-1] == "__init__")

    def reached(self, chapter):
        """Names of the definitions that a syntax tree uses, and of those that they use in turn.

        A name is taken for all that it could mean: the answer is rather too large than too small.
        """
        names = _Names(chapter, "", False)
        names.imported.setdefault("ecg", "ecgtutorial")  # by the set-up cell
        pending = self._uses(chapter, names)
        pending.add("ecgtutorial.datasets.simulated.open")
        if any(_is_name(n) and n.value == "simulated-vt" for n in ast.walk(chapter)):
            pending.add("ecgtutorial.datasets.simulated_vt.open")
        found = set()
        while pending:
            name = pending.pop()
            module, _, attribute = name.rpartition(".")
            used = self._uses(self.modules[module].defined[attribute], self.modules[module])
            if name == "ecgtutorial.cohort.open_cohort":
                used = {n for n in used if not n.startswith(_OTHER)}
            found.add(name)
            pending |= used - found
        return sorted(name.removeprefix("ecgtutorial.") for name in found)

    def _uses(self, tree, names):
        """Full names of the definitions that a tree, read with these names, refers to."""
        found = set()
        for node in ast.walk(tree):
            chain = []
            while isinstance(node, ast.Attribute):
                chain.insert(0, node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id in names.defined:
                found.add(f"{names.module}.{node.id}")
            elif isinstance(node, ast.Name) and node.id in names.imported:
                found.add(self._resolved([*names.imported[node.id].split("."), *chain]))
        return found - {None}

    def _resolved(self, parts):
        """The definition behind a dotted name, also where a package hands it on; else None."""
        for cut in range(len(parts) - 1, 0, -1):
            names, attribute = self.modules.get(".".join(parts[:cut])), parts[cut]
            if names is None:
                continue
            if attribute in names.defined:
                return f"{names.module}.{attribute}"
            target = names.imported.get(attribute, "").split(".")
            if names.module == "ecgtutorial":  # it looks its names up in `cohort`
                target = ["ecgtutorial", "cohort", attribute]
            if target == [""] or target == parts[: cut + 1]:
                return None
            return self._resolved(target + parts[cut + 1 :])
        return None


class _Names:
    """What the names of a module stand for: its own definitions, and what it imports."""

    def __init__(self, tree, module, is_package):
        self.module, self.defined, self.imported = module, {}, {}
        for node in tree.body if module else ():
            if isinstance(node, ast.Assign | ast.AnnAssign):
                stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
                names = [n.id for n in stored if isinstance(n.ctx, ast.Store)]
                self.defined |= dict.fromkeys(names, node)
            elif hasattr(node, "name"):
                self.defined[node.name] = node
        package = module.split(".") if is_package else module.split(".")[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for a in node.names:
                    first = a.name if a.asname else a.name.split(".")[0]
                    self.imported[a.asname or first] = first
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                for a in node.names:
                    self.imported[a.asname or a.name] = f"{source}.{a.name}"


# --- the command --------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description="Name the chapters whose outputs are stale.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    parser.add_argument("--stamp", action="store_true", help="the outputs are those of this code")
    arguments, package = parser.parse_args(), Package()
    for path in arguments.notebooks or sorted((ROOT / "book").glob("[!_]*/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if arguments.stamp:
            notebook.metadata[KEY] = stamp(notebook, package)
            nbformat.write(notebook, path)
        changes = stale(notebook, package)
        print(f"{path.stem}: {'; '.join(changes) or 'fresh'}")


if __name__ == "__main__":
    main()
