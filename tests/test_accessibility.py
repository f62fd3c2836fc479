"""The built pages without sight, without mouse, in the dark and on paper.

axe-core looks for violations of WCAG 2.2 AA on every page. It is slow on long pages, so each page
is thinned first: one code token and one plain text of each kind, and for contrast one text of each
look. Formulas are drawn on one page only.
"""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
from browser import settled

pytest.importorskip("axe_playwright_python")
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "signal/the-heart-vector.html"
BLANK = "<!doctype html><html lang=en><title>a</title><main><h1>a</h1>{}</main></html>"

PREPARE = """() => {
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  for (const fold of document.querySelectorAll('.toggle-hidden'))
    fold.classList.remove('toggle-hidden');
  const seen = new Set();
  for (const token of document.querySelectorAll('.highlight pre span')) {
    if (seen.has(token.className)) token.replaceWith(...token.childNodes);
    else seen.add(token.className);
  }
  document.body.normalize(); // what were tokens is one text
}"""
# Marks the first text of each combination of colours and size, which is all that contrast is about.
LOOKS = """() => {
  const seen = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const behind = [];
    for (let e = element; e; e = e.parentElement) {
      const { backgroundColor, opacity } = getComputedStyle(e);
      behind.push(opacity, backgroundColor);
      if (backgroundColor.startsWith('rgb(')) break;
    }
    const solid = behind.filter((value) => value !== '1' && value !== 'rgba(0, 0, 0, 0)');
    const look = [style.color, style.fontSize, style.fontWeight, ...solid].join();
    if (!seen.has(look)) element.dataset.look = '';
    seen.add(look);
  }
}"""
PLAIN = """() => {
  const texts = 'article :is(p, em, strong, b, sub, sup, span):not(:has(*), [data-look], [class])';
  for (const e of document.querySelectorAll(texts))
    if (!e.closest('a, button, summary, h1, h2, h3, td, th')) e.remove();
}"""
THIN = """() => {
  for (const e of document.querySelectorAll('article *:not(style)'))
    if (!e.closest('[data-look]') && !e.querySelector('[data-look]')) e.remove();
}"""
STRUCTURE = """() => axe.run({
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'],
  rules: { 'color-contrast': { enabled: false } }, resultTypes: ['violations'],
})"""
CONTRAST = """() => axe.run({ include: [['[data-look]']] }, {
  runOnly: { type: 'rule', values: ['color-contrast'] }, resultTypes: ['violations'],
})"""


def scheme(page, name):
    """Make the page light or dark, as the reader's system would."""
    page.emulate_media(color_scheme=name, reduced_motion="reduce")
    page.wait_for_function(
        "name => (document.documentElement.dataset.theme ?? name) === name", arg=name
    )


def violations(page):
    """What axe-core finds on an open page, light and dark: rule, element and its fault."""
    page.evaluate(PREPARE)
    page.evaluate(AXE)
    for name in ("dark", "light"):
        scheme(page, name)
        page.evaluate(LOOKS)
    page.evaluate(PLAIN)
    found = [("any", page.evaluate(STRUCTURE))]
    page.evaluate(THIN)
    for name in ("dark", "light"):
        scheme(page, name)
        found.append((name, page.evaluate(CONTRAST)))
    return [
        f"{name}: {rule['id']} at {node['target'][-1]}: {node['failureSummary']}"
        for name, result in found
        for rule in result["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.timeout(600)  # less than a minute, but the machine may be busy
def test_axe_finds_nothing_on_any_page(browser, address, pages):
    context, report = browser.new_context(viewport={"width": 1280, "height": 844}), []
    for name in pages:
        page = context.new_page()
        if name != CHAPTER:
            page.route("**/mathjax/**", lambda route: route.abort())
        page.goto(address + name, wait_until="load")
        page.evaluate("window.MathJax?.startup?.promise")
        report += [f"{name}: {text}" for text in violations(page)]
        page.close()
    context.close()
    assert not report, "\n".join(report)


@pytest.mark.parametrize(
    "html, rule",
    [
        ('<img src="data:,">', "image-alt"),
        ('<p style="color: #999; background: #fff">pale</p>', "color-contrast"),
        ("<article><p>a</p><p style='opacity: 0.3'>paler</p></article>", "color-contrast"),
        ('<div class="highlight"><pre><span class="k" style="color: #ccc">def</span></pre></div>',
         "color-contrast"),
        ('<details><summary>a</summary><button></button></details>', "button-name"),
        ('<a href="#" style="display: block; width: 9px; height: 9px"></a>', "link-name"),
    ],
)  # fmt: skip
def test_axe_sees_what_is_wrong(browser, html, rule):
    page = browser.new_page()
    page.set_content(BLANK.format(html))
    assert any(f"{rule} at" in text for text in violations(page))
    page.set_content(BLANK.format("<p>Black on white.</p>"))
    assert not violations(page)
    page.close()


@pytest.fixture
def desk(browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    yield page
    page.close()


def test_keyboard_reaches_everything(desk, address):
    """Tab stops at each kind of thing that a mouse can use, and one sees where it stands."""
    settled(desk, address + CHAPTER)
    wanted = {
        "search": ".search-button, .search-button-field, .search-button__button",
        "dark mode": ".theme-switch-button",
        "the sidebar's links": ".bd-sidebar-primary nav a",
        "a folded cell": "details.hide > summary",
        "copy": "button.copybtn",
        "a folded solution": "button.toggle-button",
        "a recall question": ".bd-article details:not(.hide) > summary",
        "next page": "a.right-next",
    }
    reached, unseen = set(), []
    look = """(wanted) => {
      const at = document.activeElement;
      const style = getComputedStyle(at);
      const shown = style.outlineStyle !== 'none' || style.boxShadow !== 'none' ||
        at.matches('.skip-link, a');  // links are underlined
      return [Object.keys(wanted).filter((k) => at.matches(wanted[k])), shown, at.outerHTML,
        at === document.body];
    }"""
    for _ in range(600):
        desk.keyboard.press("Tab")
        kinds, shown, element, end = desk.evaluate(look, wanted)
        reached |= set(kinds)
        if not shown and not end:
            unseen.append(element[:100])
        if reached == set(wanted):
            break
    assert reached == set(wanted)
    assert not unseen, f"focus cannot be seen at {unseen[:3]}"


def test_search_and_folds_open_by_keyboard(desk, address):
    settled(desk, address + CHAPTER)
    desk.keyboard.press("Control+k")
    desk.keyboard.type("quadrupole")
    desk.keyboard.press("Enter")
    desk.wait_for_selector("#search-results li a", timeout=10_000)
    desk.go_back(wait_until="networkidle")
    fold = desk.locator(".solution.toggle-hidden button.toggle-button").first
    fold.focus()
    desk.keyboard.press("Enter")
    answer = desk.locator(".solution:not(.toggle-hidden)")
    assert answer.count() == 1


def test_what_scrolls_can_be_scrolled_by_keyboard(browser, address, pages):
    """On a phone wide tables, formulas and code scroll in their box: each is a tab stop."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    report = []
    for name in [n for n in pages if n.startswith("methods/")]:
        page = context.new_page()
        settled(page, address + name)
        page.wait_for_timeout(400)  # the scripts that add the stops wait a little
        report += page.evaluate("""(name) => [...document.querySelectorAll('.bd-article *')]
          .filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth &&
            ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0 &&
            !e.querySelector('a[href], button, [tabindex="0"]'))
          .map((e) => `${name}: ${e.outerHTML.slice(0, 100)}`)""", name)  # fmt: skip
        page.close()
    context.close()
    assert not report, "\n".join(report)


def test_figures_stay_white_in_the_dark(browser, address):
    page = browser.new_page(color_scheme="dark")
    settled(page, address + CHAPTER)
    looks = page.evaluate("""() => [...document.querySelectorAll('.cell_output img')].map((i) => {
      const style = getComputedStyle(i);
      return [style.backgroundColor, style.filter];
    })""")
    page.close()
    assert looks and {tuple(look) for look in looks} == {("rgb(255, 255, 255)", "none")}


def test_loop_turns_in_the_page_by_mouse_and_by_button(desk, address):
    outside, wrong = [], []
    desk.on("request", lambda r: outside.append(r.url) if "//127.0.0.1" not in r.url else None)
    desk.on("pageerror", lambda error: wrong.append(str(error)))
    settled(desk, address + CHAPTER)
    picture, plot = desk.locator(".turning > img"), desk.locator(".turning-plot")
    assert picture.is_visible() and not plot.is_visible()  # the library is not loaded unasked
    picture.scroll_into_view_if_needed()
    eye = "() => document.querySelector('.turning-plot')._fullLayout.scene._scene.getCamera().eye"
    desk.wait_for_function("document.querySelector('.turning-plot')?._fullLayout?.scene")
    assert plot.is_visible() and not picture.is_visible()
    desk.get_by_role("button", name="from above").focus()
    desk.keyboard.press("Enter")
    desk.wait_for_function(f"({eye})().z > 1.2")
    desk.get_by_role("button", name="from the front").click()
    desk.wait_for_function(f"Math.abs(({eye})().x) < 0.01")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    desk.mouse.move(*middle)
    desk.mouse.down()
    for step in range(1, 9):  # a hand is slower than a script
        desk.mouse.move(middle[0] + 15 * step, middle[1] - 8 * step)
        desk.wait_for_timeout(30)
    desk.mouse.up()
    desk.wait_for_function(f"Math.abs(({eye})().x) > 0.05")
    desk.get_by_role("button", name="from the front").click()
    desk.wait_for_function(f"Math.abs(({eye})().x) < 0.01")
    local = [url for url in outside if not url.startswith(("data:", "blob:"))]
    assert not local and not wrong
    desk.emulate_media(media="print")
    assert picture.is_visible() and not plot.is_visible()


def test_library_of_the_loop_is_loaded_on_its_page_only(pages):
    with_loop = [name for name, page in pages.items() if page.select_one(".turning")]
    assert with_loop == [CHAPTER]
    assert not [n for n, p in pages.items() if p.select_one("script[src*=plotly]")]


def test_library_of_the_loop_is_the_same_outside_the_book():
    from ecgtutorial.turning import PLOTLY, PLOTLY_HASH

    data = (ROOT / "book/_vendor/plotly" / PLOTLY.rsplit("/", 1)[1]).read_bytes()
    version = PLOTLY.split("@")[1].split("/")[0]
    assert f"v{version}".encode() in data[:100]
    assert PLOTLY_HASH == "sha384-" + base64.b64encode(hashlib.sha384(data).digest()).decode()


def test_picture_stays_where_scripts_do_not_run(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + CHAPTER)
    assert page.locator(".turning > img").is_visible()
    assert not page.locator(".turning button").first.is_visible()
    context.close()


def test_paper_has_the_answers_and_no_buttons(desk, address):
    settled(desk, address + CHAPTER)
    desk.emulate_media(media="print")
    desk.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    folded = desk.locator(".bd-article details:not(.hide):not([open])").count()
    hidden = desk.locator(".solution.toggle-hidden").count()
    assert (folded, hidden) == (0, 0)
    left = """() => [...document.querySelectorAll('button, .bd-sidebar, .headerlink, header nav')]
      .filter((e) => e.checkVisibility() && e.getBoundingClientRect().width)
      .map((e) => e.outerHTML.slice(0, 100))"""
    assert desk.evaluate(left) == []
    desk.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert desk.locator(".bd-article details:not(.hide)[open]").count() == 0


def test_table_of_contents_names_the_pages_to_print():
    from pdf import names

    found = names(ROOT / "book/_toc.yml")
    assert found[0] == "index" and "signal/the-heart-vector" in found
