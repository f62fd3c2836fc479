"""Fixtures for all tests: a cache of their own, records real and made up, the built site."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built pages: ECGTUTORIAL_SITE, or else the committed outputs rendered."""
    if os.environ.get("ECGTUTORIAL_SITE"):
        return Path(os.environ["ECGTUTORIAL_SITE"]).resolve()
    import render

    if "PYTEST_XDIST_WORKER" not in os.environ:
        return render.render(ROOT / "book", tmp_path_factory.mktemp("site"))
    from filelock import FileLock

    shared = tmp_path_factory.getbasetemp().parent / "site"  # one build for all workers
    with FileLock(f"{shared}.lock"):
        if not (shared / "done").exists():
            render.render(ROOT / "book", shared)
            (shared / "done").touch()
    return shared / "_build/html"


@pytest.fixture(scope="session")
def pages(site):
    """Path below the site, to the parsed page."""
    bs4 = pytest.importorskip("bs4")
    found = {}
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        if not name.startswith("_"):
            found[name] = bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    return found


@pytest.fixture(scope="session")
def address(site):
    """The site's address on loopback."""
    from browser import served

    with served(site) as found:
        yield found


@pytest.fixture(scope="module")  # playwright's event loop must not outlive the browser's tests
def browser():
    """Chromium, headless."""
    pytest.importorskip("playwright.sync_api")
    from browser import PROGRAMS, chromium

    if not any(map(shutil.which, PROGRAMS)):
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed")
    with chromium() as engine:
        yield engine


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Stores made by tests go to a temporary folder, never to the user's cache."""
    before = os.environ.get("ECGTUTORIAL_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ECGTUTORIAL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["ECGTUTORIAL_CACHE"]
    else:
        os.environ["ECGTUTORIAL_CACHE"] = before


def _shared(name):
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"needs real records in {folder}")
    return folder


@pytest.fixture(scope="session")
def ptbxl_folder():
    """2,992 real records in PTB-XL's layout; tests that use it are skipped without it."""
    return _shared("ptb-xl")


@pytest.fixture(scope="session")
def cinc2011_folder():
    """1,000 real unlabelled records; tests that use it are skipped without it."""
    return _shared("cinc2011-set-a")


@pytest.fixture(scope="session")
def write_record():
    """`write_record(path, digital, ...)`: a WFDB record through the wfdb package."""
    import wfdb

    from ecgtutorial.leads import LEADS

    def write(path, digital, fs=100, gain=1000.0, baseline=0, units="mV", names=LEADS, fmt="16"):
        n_leads = digital.shape[0]  # digital: int (lead, time)
        path.parent.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            path.name,
            fs=fs,
            units=[units] * n_leads,
            sig_name=list(names),
            d_signal=np.ascontiguousarray(digital.T).astype(np.int64),
            fmt=[fmt] * n_leads,
            adc_gain=[gain] * n_leads,
            baseline=[baseline] * n_leads,
            write_dir=str(path.parent),
        )

    return write


@pytest.fixture
def small_ptbxl(tmp_path, _small_ptbxl):
    """A made-up folder in PTB-XL's layout, to be changed at will: 40 records of 30 patients."""
    return Path(shutil.copytree(_small_ptbxl, tmp_path / "ptb-xl"))


@pytest.fixture(scope="session")
def _small_ptbxl(tmp_path_factory, write_record):
    import pandas as pd

    folder = tmp_path_factory.mktemp("small") / "ptb-xl"
    rng = np.random.default_rng(0)
    codes = ["NORM", "IMI", "LVH", "CRBBB", "NDT", "SR"]
    rows = []
    for i in range(1, 41):
        name = f"{i // 20 * 1000:05d}/{i:05d}"
        digital = rng.integers(-3000, 3000, (12, 1000))
        write_record(folder / f"records100/{name}_lr", digital, names=_OFFICIAL)
        rows.append(
            {
                "ecg_id": i,
                "patient_id": float(100 + (i - 1) % 30),
                "age": 300.0 if i == 1 else 40.0 + i,
                "sex": i % 2,
                "report": "text, that is left out",
                "scp_codes": str({codes[i % 6]: 100.0, "SR": 0.0}),
                "baseline_drift": " , V1" if i % 5 == 0 else None,
                "strat_fold": (i - 1) % 30 % 10 + 1,
                "filename_lr": f"records100/{name}_lr",
                "filename_hr": f"records500/{name}_hr",
            }
        )
    columns = """height weight site device recording_date heart_axis infarction_stadium1
    infarction_stadium2 validated_by_human static_noise burst_noise electrodes_problems extra_beats
    pacemaker""".split()
    table = pd.DataFrame(rows).assign(**dict.fromkeys(columns))
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    (folder / "scp_statements.csv").write_text(",description\nNORM,normal ECG\n")
    return folder


_OFFICIAL = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
