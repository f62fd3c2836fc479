"""Execute the book's chapters with papermill, in a copy of book/.

    python book/_tools/run.py                            # every chapter, quick, simulated
    python book/_tools/run.py --cohort ptb-xl --data path --chapters experiments/label-efficiency
    python book/_tools/run.py --scale full --write-back  # make the outputs to commit

The copy with its outputs is _build/run/book; seconds and status are in _build/run/times.json. A
chapter that fails stops the run.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import fresh
import nbformat
import yaml
from tidy import tidy

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
SCALES = ("quick", "full", "paper")


def chapters(book):
    """Return the notebooks of ``_toc.yml`` in its order, without suffix: ``"methods/3kg"``."""
    toc = yaml.safe_load((Path(book) / "_toc.yml").read_text(encoding="utf-8"))
    groups = [toc, *toc.get("parts", [])]
    files = [entry["file"] for group in groups for entry in group.get("chapters", [])]
    return [name for name in files if (Path(book) / f"{name}.ipynb").exists()]


def choose(book, wanted):
    """Return the wanted chapters in the book's order; all of them if none is named."""
    known = chapters(book)
    wanted = [name.removeprefix("book/").removesuffix(".ipynb") for name in wanted]
    if unknown := sorted(set(wanted) - set(known)):
        raise SystemExit(f"run.py: no chapter {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [name for name in known if not wanted or name in wanted]


def execute(path, parameters):
    """Execute one notebook where it lies, tidy and stamp it; return the seconds it took.

    Raises
    ------
    papermill.PapermillExecutionError
        If a cell fails. The notebook on disk then holds the outputs up to that cell.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of papermill's own dependencies; the kernel has its own
        import papermill
    logging.getLogger("papermill").setLevel(logging.ERROR)  # for parameters a notebook lacks
    bar = {"desc": "  cells", "ncols": 80, "leave": False} if sys.stderr.isatty() else False
    mark = fresh.stamp(nbformat.read(path, as_version=4))  # before: the code may change meanwhile
    start = time.perf_counter()
    papermill.execute_notebook(
        path, path, parameters=parameters, cwd=path.parent,
        kernel_name="python3", language="python", progress_bar=bar,
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # not what it says on shutdown
        autosave_cell_every=0, request_save_on_cell_execute=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    notebook = tidy(nbformat.read(path, as_version=4))
    notebook.metadata[fresh.KEY] = nbformat.from_dict(mark)
    nbformat.write(notebook, path)
    return seconds


def explain(name, error):
    """Return what to print of a cell that failed: the chapter, the cell and its error."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        return f"\n{name} failed outside its cells.\n{type(error).__name__}: {error}\n"
    source = "\n".join("    " + line for line in error.source.splitlines())
    return f"\n{name} failed in cell In [{error.exec_count}]:\n\n{source}\n{error}"


def table(rows):
    width = max([len("chapter"), *(len(row["chapter"]) for row in rows)])
    lines = [f"{'chapter':{width}}  {'seconds':>7}  status", f"{'-' * width}  {'-' * 7}  ------"]
    for row in rows:
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        lines.append(f"{row['chapter']:{width}}  {seconds:>7}  {row['status']}")
    total = sum(row["seconds"] or 0 for row in rows)
    return "\n".join(lines + [f"{'all':{width}}  {total:>7.1f}"])


def run(names, book, parameters, budget=None):
    """Execute chapters in order and return one row for each: chapter, seconds, status.

    Parameters
    ----------
    names : list of str
        Chapters, as ``chapters`` gives them.
    book : Path
        The copy they are executed in.
    parameters : dict
        Values for each chapter's parameters cell.
    budget : float or None
        Seconds; a chapter that takes longer gets the status "over budget".
    """
    rows = [{"chapter": name, "seconds": None, "status": "not run"} for name in names]
    for number, row in enumerate(rows, start=1):
        name = row["chapter"]
        print(f"[{number}/{len(rows)}] {name} ...", flush=True)
        try:
            row["seconds"] = round(execute(book / f"{name}.ipynb", parameters), 1)
        except Exception as error:  # whatever it is, the reader needs the chapter's name with it
            row["status"] = "failed"
            print(explain(name, error), file=sys.stderr, flush=True)
            break
        over = budget is not None and row["seconds"] > budget
        row["status"] = f"over budget of {budget:g} s" if over else "ok"
        print(f"[{number}/{len(rows)}] {name}: {row['seconds']:.1f} s", flush=True)
    return rows


def settings(arguments):
    """Return a chapter's parameters, and set the same in the environment of its kernel."""
    data = arguments.data and Path(arguments.data).expanduser().resolve()
    if data and not data.is_dir():
        raise SystemExit(f"run.py: no folder {data}. Give the cohort's folder with --data.")
    parameters = {"scale": arguments.scale, "cohort_name": arguments.cohort}
    os.environ["ECGTUTORIAL_SCALE"] = arguments.scale
    os.environ["ECGTUTORIAL_COHORT"] = arguments.cohort
    os.environ.pop("ECGTUTORIAL_DATA", None)
    if data:
        parameters["data"] = os.environ["ECGTUTORIAL_DATA"] = str(data)
    if arguments.fresh or arguments.budget is not None:
        # What an earlier run left in the cache would make a chapter look fast.
        os.environ["ECGTUTORIAL_CACHE"] = str(arguments.out.resolve() / "cache")
        os.environ.pop("ECGTUTORIAL_RUNS", None)
    return parameters


def record_times(path, rows, arguments):
    """Merge the seconds of these chapters into a JSON file that is kept with the results."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for row in rows:
        known.setdefault(row["chapter"], {})[f"{arguments.scale} {arguments.cohort}"] = {
            "seconds": row["seconds"],
            "cores": os.cpu_count(),
            "empty_cache": arguments.fresh or arguments.budget is not None,
        }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description="Execute the book's chapters.")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--cohort", default="simulated")
    parser.add_argument("--data", default="", help="folder of the cohort")
    parser.add_argument("--chapters", nargs="*", default=[], help="default: all of them")
    parser.add_argument("--budget", type=float, help="seconds a chapter may take; implies --fresh")
    parser.add_argument("--fresh", action="store_true", help="use nothing that earlier runs cached")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "run")
    parser.add_argument("--write-back", action="store_true", help="put the outputs into book/")
    arguments = parser.parse_args()
    names, parameters = choose(BOOK, arguments.chapters), settings(arguments)
    shutil.rmtree(arguments.out, ignore_errors=True)
    copy = arguments.out / "book"
    shutil.copytree(BOOK, copy, ignore=shutil.ignore_patterns("_tools", ".ipynb_*", "__pycache__"))
    data = f", data {parameters['data']}" if "data" in parameters else ""
    print(f"Chapters: {len(names)}. Scale {arguments.scale}, cohort {arguments.cohort}{data}.")
    rows = run(names, copy, parameters, arguments.budget)
    print("\n" + table(rows), flush=True)
    facts = {"scale": arguments.scale, "cohort": arguments.cohort, "cores": os.cpu_count()}
    times = json.dumps({**facts, "chapters": rows}, indent=1) + "\n"
    (arguments.out / "times.json").write_text(times, encoding="utf-8")
    if any(row["status"] != "ok" for row in rows):
        raise SystemExit(1)
    if arguments.write_back:
        for name in names:
            shutil.copyfile(copy / f"{name}.ipynb", BOOK / f"{name}.ipynb")
        record_times(ROOT / "results" / "times.json", rows, arguments)


if __name__ == "__main__":
    main()
