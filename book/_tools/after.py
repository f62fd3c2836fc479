"""Mend in the built pages what their makers get wrong; `render.py` calls it at its end."""

from pathlib import Path


def mend(page):
    """Return a page's HTML without the faults that axe-core finds in its makers' markup."""
    # docutils gives the entries of a list of references a role that no longer exists.
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')
    # pydata-sphinx-theme's arrows in the sidebar have no name.
    arrow = '<summary><span class="toctree-toggle"'
    return page.replace(
        arrow, arrow.replace("<summary>", '<summary aria-label="show or hide the pages below">')
    )


def mend_all(html):
    """Mend every page of the folder `html`, in place."""
    for path in Path(html).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if (mended := mend(page)) != page:
            path.write_text(mended, encoding="utf-8")
