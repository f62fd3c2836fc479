"""The built pages, as files and in a headless browser at desk and phone width.

The committed outputs are rendered to a temporary folder first. To test pages that are there
already, name their folder in ECGTUTORIAL_SITE.
"""

from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from browser import served, settled

bs4 = pytest.importorskip("bs4")

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def chapters(pages):
    """The pages of the table of contents."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    return {f"{name}.html": pages[f"{name}.html"] for name in files}


def anchors(page):
    return {tag.get("id") or tag.get("name") for tag in page.find_all(id=True)} | {
        tag["name"] for tag in page.find_all("a", attrs={"name": True})
    }


def broken_links(pages, site):
    """Links and sources below the site that lead nowhere."""
    ids = {name: anchors(page) for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for tag in page.find_all(href=True) + page.find_all(src=True):
            target = tag.get("href") or tag.get("src")
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(urlsplit(urljoin(f"//x/{name}", parts.path)).path).lstrip("/")
            path = path + "index.html" if path == "" or path.endswith("/") else path
            if not (site / path).is_file():
                broken.append(f"{name}: {target}")
            elif parts.fragment and path in ids and unquote(parts.fragment) not in ids[path]:
                broken.append(f"{name}: {target} has no such anchor")
    return sorted(set(broken))


def test_no_broken_internal_link(pages, site):
    assert not broken_links(pages, site)


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "a.html").write_text("", encoding="utf-8")
    html = '<p id="here"><a href="#here"></a><a href="#gone"></a><a href="b.html"></a></p>'
    page = bs4.BeautifulSoup(html, "html.parser")
    assert len(broken_links({"a.html": page}, tmp_path)) == 2


def test_every_page_has_one_title(chapters):
    titles = {name: len(page.select("article h1")) for name, page in chapters.items()}
    assert titles == dict.fromkeys(chapters, 1)


def test_every_image_has_alt_text(pages):
    bare = [
        f"{name}: {image.get('src')}"
        for name, page in pages.items()
        for image in page.find_all("img")
        if not (image.get("alt") or "").strip()
        or image["alt"] == image.get("src")
        # the theme's pictures aside, an alt that is a file name says nothing
        or image["alt"].endswith((".png", ".svg", ".jpg"))
    ]
    assert not bare


def test_no_leftover_markup(chapters):
    """Roles and directives that were not understood would stand as text on the page."""
    for name, page in chapters.items():
        article = page.find("article")
        for tag in article.find_all(["pre", "code"]):
            tag.extract()
        text = article.get_text()
        for mark in ("{glue", "{cite", "{ref}", "{doc}", ":::", "```{"):
            assert mark not in text, f"{name}: {mark}"


def look(browser, address, name, width):
    """Open a page and return what went wrong, its overflow in pixels and its undrawn formulas."""
    context = browser.new_context(viewport={"width": width, "height": 844})
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status > 399 else None)

    def guard(route):  # the pages must work without the network
        if route.request.url.startswith((address, "data:", "blob:")):
            return route.continue_()
        wrong.append(f"left the site: {route.request.url}")
        return route.abort()

    page.route("**/*", guard)
    try:
        settled(page, address + name)
        if page.locator("mjx-merror, [data-mjx-error]").count():
            wrong.append("MathJax: a formula with an error")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    finally:
        context.close()
    return wrong, overflow


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_in_a_browser(browser, address, pages, width):
    report = []
    for name in pages:
        wrong, overflow = look(browser, address, name, width)
        report += [f"{name}: {text}" for text in wrong]
        if overflow > 1:
            report.append(f"{name}: scrolls sideways by {overflow} px at {width} px")
    assert not report, "\n".join(report)


def test_browser_sees_what_is_wrong(browser, address, site, tmp_path):
    """The same look at a page with every fault, so that the test above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<script>console.error('x'); undefined.y</script><img src='gone.png'>"
        "<img src='http://192.0.2.1/far.png'><div style='width:900px'>wide</div>",
        encoding="utf-8",
    )
    with served(tmp_path) as elsewhere:
        wrong, overflow = look(browser, elsewhere, "bad.html", PHONE)
    text = "\n".join(wrong)
    for part in ("console: x", "script:", "404:", "left the site"):
        assert part in text
    assert overflow > 100
