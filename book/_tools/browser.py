"""The built pages in a headless Chromium, for PDFs and for tests."""

import contextlib
import functools
import http.server
import shutil
import threading

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder on loopback and give its address; pages opened as files lack their icons."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def chromium():
    """Start Chromium and give playwright's browser.

    Raises
    ------
    FileNotFoundError
        If no Chromium is installed.
    """
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(PROGRAMS)} is installed; install Chromium")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def settled(page, address):
    """Open an address and wait until everything, formulas too, is drawn."""
    page.goto(address, wait_until="networkidle", timeout=60_000)
    if page.locator(".math.notranslate").count():
        page.wait_for_selector("mjx-container", state="attached", timeout=30_000)
        page.evaluate("MathJax.startup.promise")
