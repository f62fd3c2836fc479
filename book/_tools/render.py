"""Render the book's pages with Jupyter Book, warnings counted as errors.

    python book/_tools/render.py                       # book/, the committed outputs
    python book/_tools/render.py --source _build/run/book

The result is _build/html. The repository's address, for buttons and the link to Colab, is found at
build time: ECGTUTORIAL_REPOSITORY, then what GitHub's workflows set, then the git remote. Without
one the pages have no such buttons.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from after import mend_all

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parents[1]
HOSTS = ("github.com", "gitlab.com", "bitbucket.org")  # whose buttons the theme can draw


def repository_url(environment, remote):
    """Return the repository's web address without credentials, or "" if none is known.

    Parameters
    ----------
    environment : mapping
        ``os.environ``.
    remote : str
        The address of the git remote, or "".
    """
    url = environment.get("ECGTUTORIAL_REPOSITORY", "")
    if not url and environment.get("GITHUB_REPOSITORY"):
        server = environment.get("GITHUB_SERVER_URL", "https://github.com")
        url = f"{server}/{environment['GITHUB_REPOSITORY']}"
    match = re.fullmatch(
        r"(?:git\+)?(?:https?://|ssh://|git://)?(?:[^@/]+@)?([\w.-]+)(?::\d+)?[:/]([\w./~-]+?)/*",
        (url or remote).strip(),
    )
    if not match or match[1] not in HOSTS or match[2].count("/") != 1:
        return ""
    return f"https://{match[1]}/{match[2].removesuffix('.git')}"


def branch_name(environment, current):
    """Return the branch that the buttons point to; ``current`` is the one checked out, or ""."""
    if environment.get("GITHUB_REF", "").startswith("refs/heads/"):
        return environment["GITHUB_REF"].removeprefix("refs/heads/")
    return current if current not in ("", "HEAD") else "main"


def configuration(base, url, branch):
    """Return the settings of ``_config.yml`` with the repository's buttons where it is known."""
    config = dict(base)
    config["repository"] = {**base["repository"], "url": url, "branch": branch}
    # reference.py lies beside this file, wherever Jupyter Book is called from.
    config["sphinx"] = {**base["sphinx"], "local_extensions": {"reference": str(TOOLS)}}
    if url:
        buttons = {"use_repository_button": True, "use_edit_page_button": True}
        config["html"] = {**base["html"], **buttons}
    return config


def render(source, output, environment=os.environ):
    """Build ``output``/_build/html from the folder ``source``.

    Parameters
    ----------
    source : Path
        A folder with ``_toc.yml`` and the pages.
    output : Path
        The folder that gets ``_build``.

    Returns
    -------
    Path
        The folder of the pages.

    Raises
    ------
    RuntimeError
        If Jupyter Book reports a warning or an error; its messages stand above.
    """
    source, build = Path(source).resolve(), Path(output).resolve() / "_build"
    # Built anew each time: pages read numbers from each other, and a warning shows only when its
    # page is read.
    for folder in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(build / folder, ignore_errors=True)
    build.mkdir(parents=True, exist_ok=True)
    url = repository_url(environment, _git("remote", "get-url", "origin"))
    branch = branch_name(environment, _git("rev-parse", "--abbrev-ref", "HEAD"))
    base = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config = build / "_config.yml"
    config.write_text(yaml.safe_dump(configuration(base, url, branch)), encoding="utf-8")
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(source), "--config", str(config), "--path-output", str(build.parent)]
    command += ["-n", "-W", "--keep-going", "-q"]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise RuntimeError(f"{source} did not render cleanly; Jupyter Book's messages stand above")
    from colab import badges  # it takes addresses from this file

    badges(build / "html", url)
    mend_all(build / "html")
    return build / "html"


def _git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def main():
    parser = argparse.ArgumentParser(description="Render the book's pages to _build/html.")
    parser.add_argument("--source", type=Path, default=ROOT / "book", help="folder of the pages")
    parser.add_argument("--output", type=Path, default=ROOT, help="folder that gets _build/html")
    arguments = parser.parse_args()
    try:
        html = render(arguments.source, arguments.output)
    except RuntimeError as error:
        raise SystemExit(f"render.py: {error}") from None
    print(f"The book is rendered: {os.path.relpath(html / 'index.html')}")


if __name__ == "__main__":
    main()
