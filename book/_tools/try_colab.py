"""Run the copies for Colab as a reader would: in an environment that knows nothing of this project.

    python book/_tools/try_colab.py                            # every chapter, at quick
    python book/_tools/try_colab.py --chapters methods/3kg

The environment holds an older numpy and pandas. Each chapter starts in an empty folder, with an
empty cache; the set-up cell's own command installs the package, redirected to this checkout. It
fails if a chapter does, if the installation takes more than 30 s, or if it moves a package that was
there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import colab
import nbclient
from jupyter_client.manager import AsyncKernelManager
from render import ROOT, _git

# What Colab has of what the package needs, older than what the book is built with. torch is the
# one of constraints.txt: an older one is not at every package index.
PACKAGES = """
    numpy==2.0.2 pandas==2.2.3 scipy==1.14.1 scikit-learn==1.6.1 matplotlib==3.9.4 seaborn==0.13.2
    joblib==1.4.2 requests tqdm packaging typing_extensions aiohttp fsspec soundfile ipykernel
""".split()
LIMIT = 30  # seconds that the installation may take


def environment(folder):
    """A virtual environment with `PACKAGES` and torch, and without this project: its python."""
    python = folder / "bin" / "python"
    torch = next(x for x in (ROOT / "constraints.txt").read_text().split() if x[:7] == "torch==")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, torch, PACKAGES[0]], check=True)
    subprocess.run([*install, *PACKAGES, torch], check=True)
    return python


def versions(python):
    """Every installed package of an environment: name -> version."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {one["name"].lower(): one["version"] for one in json.loads(listed)}


def run(notebook, python, folder):
    """Run a notebook with `python` from the empty `folder`, whose environment it gets: seconds."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("ECGTUTORIAL", "PYTHON"))}
    settings |= {
        "ECGTUTORIAL_REPOSITORY": f"file://{ROOT}@{_git('rev-parse', 'HEAD')}",
        "ECGTUTORIAL_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",  # two chapters at a time
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    manager = AsyncKernelManager()
    manager.kernel_spec.argv[0] = str(python)
    client = nbclient.NotebookClient(
        notebook, km=manager, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    began = time.monotonic()
    client.execute(env=settings)
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description="Run the copies for Colab in a strange place.")
    parser.add_argument("--chapters", nargs="*", help="the chapters; without it all")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time")
    arguments = parser.parse_args()
    book = colab.Book(ROOT / "book", "https://github.com/owner/book", _git("rev-parse", "HEAD"))
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        python = environment(place / "environment")
        before = versions(python)
        seconds = run_setup(book, python, place)
        after = versions(python)
        moved = {k: (v, after.get(k)) for k, v in before.items() if after.get(k) != v}
        new = sorted(set(after) - set(before))
        print(f"installed in {seconds:.0f} s: {', '.join(new)}", flush=True)
        if moved or seconds > LIMIT:
            raise SystemExit(f"the set-up cell took {seconds:.0f} s and moved {moved or 'nothing'}")

        def one(chapter):
            folder = Path(tempfile.mkdtemp(dir=place))
            try:
                took = run(colab.copy(book, chapter), python, folder)
            except Exception as error:  # every chapter is tried
                return chapter, None, str(error)[-3000:]
            print(f"{took:5.0f} s  {chapter}", flush=True)
            return chapter, took, ""

        with ThreadPoolExecutor(arguments.jobs) as pool:
            done = list(pool.map(one, arguments.chapters or book.notebooks))
        for chapter, took, error in done:
            if took is None:
                print(f"\n{chapter} failed:\n{error}", file=sys.stderr)
        if versions(python) != after or any(took is None for _, took, _ in done):
            raise SystemExit(1)


def run_setup(book, python, place):
    """Run the first three cells of a copy, which install the package: seconds."""
    notebook = colab.copy(book, next(iter(book.notebooks)))
    setup = next(n for n, cell in enumerate(notebook.cells) if cell.id == "setup")
    notebook.cells = notebook.cells[: setup + 1]
    folder = place / "first"
    folder.mkdir()
    return run(notebook, python, folder)


if __name__ == "__main__":
    main()
