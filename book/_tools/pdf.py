"""Print the built chapters to PDF with Chromium: _build/pdf/methods/3kg.pdf and so on.

python book/_tools/pdf.py                                 # every page of the table of contents
python book/_tools/pdf.py --chapters methods/3kg index
"""

import argparse
import os
from pathlib import Path

import yaml
from browser import chromium, served, settled

ROOT = Path(__file__).resolve().parents[2]
FOOT = (
    '<div style="width: 100%; padding: 0 17mm; font: 8px sans-serif; color: #444;'
    ' display: flex; justify-content: space-between"><span class="title"></span>'
    '<span><span class="pageNumber"></span> / <span class="totalPages"></span></span></div>'
)


def names(toc):
    """Return the pages of a table of contents in its order, without suffix."""
    toc = yaml.safe_load(Path(toc).read_text(encoding="utf-8"))
    groups = [toc, *toc.get("parts", [])]
    return [toc["root"]] + [c["file"] for group in groups for c in group.get("chapters", [])]


def print_pages(site, wanted, out):
    """Print pages of the built site, and yield the files as they are done.

    Parameters
    ----------
    site : Path
        The folder of the built pages.
    wanted : list of str
        Pages, as `names` gives them.
    out : Path
        The folder that gets the PDFs.
    """
    with served(site) as address, chromium() as browser:
        for name in wanted:
            page = browser.new_page(color_scheme="light")
            settled(page, f"{address}{name}.html")
            path = Path(out) / f"{name}.pdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            page.pdf(
                path=path,
                prefer_css_page_size=True,  # A4 and its margins stand in custom.css
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOT,
                print_background=True,  # figures' and boxes' colours
                outline=True,
                tagged=True,  # so that a screen reader finds headings and alt texts
            )
            page.close()
            yield path


def main():
    parser = argparse.ArgumentParser(description="Print the built chapters to PDF.")
    parser.add_argument("--site", type=Path, default=ROOT / "_build/html", help="built pages")
    parser.add_argument("--out", type=Path, default=ROOT / "_build/pdf")
    parser.add_argument("--chapters", nargs="*", default=[], help="default: all of them")
    arguments = parser.parse_args()
    known = names(ROOT / "book/_toc.yml")
    wanted = arguments.chapters or known
    if absent := [n for n in wanted if not (arguments.site / f"{n}.html").is_file()]:
        raise SystemExit(
            f"pdf.py: {arguments.site} has no page {', '.join(absent)}; run `make site` first"
        )
    try:
        for path in print_pages(arguments.site, wanted, arguments.out):
            print(os.path.relpath(path), flush=True)
    except FileNotFoundError as error:
        raise SystemExit(f"pdf.py: {error}") from None


if __name__ == "__main__":
    main()
