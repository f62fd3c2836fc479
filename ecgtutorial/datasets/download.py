"""Download PTB-XL from PhysioNet: checked, in parallel, resumable.

    ptb_xl("my-folder", fs=100, n_records=1000)

Every file is compared with the published ``SHA256SUMS.txt`` before it takes its name, so a file
with its final name is right; a download that was stopped goes on where it was.
"""

import hashlib
import json
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

PHYSIONET = "https://physionet.org/files/ptb-xl/1.0.3/"
_TABLES = ("ptbxl_database.csv", "scp_statements.csv")
_RECORD = re.compile(r"records(100|500)/\d{5}/\d{5}_(lr|hr)")
_BUSY = (429, 500, 502, 503, 504)  # statuses worth another try
_GIVE_UP = 50  # failed files after which a download stops: the server is down


class DownloadError(OSError):
    """Some files could not be fetched; the message names them. What was fetched is kept."""


def ptb_xl(
    folder, fs=100, n_records=None, base_url=None, threads=8, tries=6, timeout=30.0, pause=0.5
):
    """Download PTB-XL's tables and the records of one rate into `folder`.

    `fs`: 100 or 500 Hz. `n_records`: only a part of so many records, stratified by fold and
    superclass. `base_url`: address of the release, default PhysioNet. A file is asked for up to
    `tries` times, after pauses of `pause` s, twice that, and so on; `timeout`: s without a byte.
    Returns the folder. A complete folder is recognised without the network.
    Raises `DownloadError` naming the files that failed, ``OSError`` for too little disk.
    """
    folder = Path(folder)
    if _complete(folder, fs, n_records):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    base_url = (base_url or PHYSIONET).rstrip("/") + "/"
    fetch = _Fetcher(base_url, folder, tries, timeout, pause)
    sums_file = folder / "SHA256SUMS.txt"
    if not sums_file.is_file():
        fetch("SHA256SUMS.txt", None)
    sums = _read_sums(sums_file)
    try:
        _must_list(sums, _TABLES, base_url)
        for table in _TABLES:
            if not _is_right(folder / table, sums[table]):
                fetch(table, sums[table])
        records = _records(folder / "ptbxl_database.csv", fs, n_records)
        files = [record + suffix for record in records for suffix in (".hea", ".dat")]
        _must_list(sums, files, base_url)
        _fetch_all(fetch, folder, files, sums, fs, threads)
    except DownloadError:
        sums_file.unlink(missing_ok=True)  # perhaps the list itself is wrong: fetch it anew
        raise
    _mark_complete(folder, fs, len(records), n_records is None)
    return folder


def _must_list(sums, files, base_url):
    absent = [file for file in files if file not in sums]
    if absent:
        raise DownloadError(
            f"{base_url}SHA256SUMS.txt lacks {len(absent):,} files, such as {absent[0]}: check "
            "base_url"
        )


class _Fetcher:
    """Fetches one file at a time into its folder; safe to call from several threads."""

    def __init__(self, base_url, folder, tries, timeout, pause):
        self.base_url, self.folder = base_url, folder
        self.tries, self.timeout, self.pause = tries, timeout, pause
        self._local = threading.local()
        self.stopped = threading.Event()

    def __call__(self, file, sha256):
        """Fetch `file`; retries what can pass, raises `DownloadError` after the last try."""
        problem = "stopped"
        for attempt in range(self.tries):
            if attempt and self.stopped.wait(self.pause * 2 ** (attempt - 1)):
                break
            content, problem, final = self._ask(file)
            if content is not None and sha256 not in (None, hashlib.sha256(content).hexdigest()):
                problem = f"{len(content):,} bytes that do not match the published SHA-256"
            elif content is not None:
                self._keep(file, content)
                return
            if final or self.stopped.is_set():
                break
        raise DownloadError(f"{self.base_url + file}: {problem}")

    def _ask(self, file):
        """One request: content or ``None``, what went wrong, whether asking again is useless."""
        import requests

        if not hasattr(self._local, "session"):  # one a thread: connections are kept open
            self._local.session = requests.Session()
            self._local.session.headers["Accept-Encoding"] = "identity"  # lengths are the files'
        try:
            # The timeout is for each read; the deadline stops a server that drips.
            deadline = time.monotonic() + 20 * self.timeout
            with self._local.session.get(
                self.base_url + file, timeout=self.timeout, stream=True
            ) as response:
                if response.status_code != 200:
                    problem = f"status {response.status_code} {response.reason}"
                    return None, problem, response.status_code not in _BUSY
                parts = []
                for part in response.iter_content(1 << 16):
                    parts.append(part)
                    if time.monotonic() > deadline:
                        return None, "too slow", False
        except requests.RequestException as error:  # refused, stalled, cut short
            return None, f"{type(error).__name__}: {error}", False
        content = b"".join(parts)
        expected = response.headers.get("Content-Length", "")
        if expected.isdigit() and len(content) != int(expected):
            return None, f"cut short: {len(content):,} of {int(expected):,} bytes", False
        return content, None, False

    def _keep(self, file, content):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            part.write_bytes(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _fetch_all(fetch, folder, files, sums, fs, threads):
    """Fetch what is not there yet, several at a time. Raises `DownloadError` at the end."""
    from tqdm import tqdm

    todo = _todo(folder, files, sums, fs)
    _check_disk(folder, todo, fs, len(files) // 2)
    failed = {}
    pool = ThreadPoolExecutor(threads)
    bar = tqdm(total=len(files), initial=len(files) - len(todo), unit="file", desc="PTB-XL")
    try:
        jobs = {pool.submit(fetch, file, sums[file]): file for file in todo}
        for job in as_completed(jobs):
            try:
                job.result()
                bar.update()
            except DownloadError as error:
                failed[jobs[job]] = str(error)
            if len(failed) >= _GIVE_UP:
                break
    finally:  # also on Ctrl-C: nothing new is begun
        fetch.stopped.set()
        pool.shutdown(cancel_futures=True)
        bar.close()
    if failed:
        shown = "\n  ".join(list(failed.values())[:10])
        more = f"\n  and {len(failed) - 10:,} more" if len(failed) > 10 else ""
        stopped = ", then stopped" if len(failed) >= _GIVE_UP else ""
        raise DownloadError(
            f"could not fetch {len(failed):,} of {len(files):,} files{stopped}:\n  {shown}{more}\n"
            f"Everything else is kept in {folder}: open the cohort again to go on from there."
        )


def _todo(folder, files, sums, fs):
    """The files that are not there or not right. A .dat is known by its size, a .hea by its hash.

    Both took their names only after their hash was right; this finds what happened since.
    """
    n_bytes = 12 * 10 * fs * 2  # leads x seconds x Hz x int16
    sizes = {}
    for below in {os.path.dirname(file) for file in files}:
        try:
            entries = list(os.scandir(folder / below))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.name.endswith(".part") and entry.stat().st_mtime < time.time() - 3600:
                os.unlink(entry)  # left by a killed process
            else:
                sizes[f"{below}/{entry.name}"] = entry.stat().st_size
    return [
        file
        for file in files
        if file not in sizes
        or (file.endswith(".dat") and sizes[file] != n_bytes)
        or (file.endswith(".hea") and not _is_right(folder / file, sums[file]))
    ]


def _is_right(path, sha256):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _read_sums(path):
    """``{file: sha256}`` from lines of hash and name."""
    sums = {}
    for line in path.read_text(errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})\s+\*?(?:\./)?(.+)", line.strip())
        if match:
            sums[match[2]] = match[1]
    if not sums:
        path.unlink()  # an error page, say
        raise DownloadError(f"{path} held no line of SHA-256 and file name: check base_url")
    return sums


def _records(database, fs, n_records):
    """Names of the records to fetch, without suffix, relative to the folder."""
    from ecgtutorial.datasets import ptbxl

    table = ptbxl.read_database(database)
    names = table.set_index("ecg_id")[ptbxl.RATES[fs][1]]
    strange = [name for name in names if not _RECORD.fullmatch(str(name))]
    if strange:
        raise DownloadError(f"{database} names a record {strange[0]!r}, expected {names.iloc[0]!r}")
    if n_records is None:
        return names.tolist()
    return names.loc[ptbxl.stratified_order(table)[:n_records]].tolist()


def _check_disk(folder, todo, fs, n_records):
    """Raise ``OSError`` unless the files and the store made of them will fit."""
    record = 12 * 10 * fs * 2
    dats = sum(file.endswith(".dat") for file in todo)
    # Files fill whole blocks of 4 KiB; the store repeats every signal once.
    needed = dats * (record + 4096) + (len(todo) - dats) * 4096 + n_records * record
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed for "
            f"{n_records:,} records at {fs} Hz: set ECGTUTORIAL_CACHE to a larger disk, or ask "
            "for fewer with n_records="
        )


def _complete(folder, fs, n_records):
    """Whether an earlier download got at least this part and its signals still lie there."""
    got = _downloaded(folder).get(str(fs))
    if got is None or not (got["all"] or (n_records is not None and got["records"] >= n_records)):
        return False
    there = sum(
        name.endswith(".dat")
        for _, _, names in os.walk(folder / ("records100" if fs == 100 else "records500"))
        for name in names
    )
    return there >= got["records"]


def _mark_complete(folder, fs, n_records, everything):
    got = _downloaded(folder) | {str(fs): {"records": n_records, "all": everything}}
    part = folder / f"downloaded.json.{os.getpid()}.part"
    part.write_text(json.dumps(got))
    os.replace(part, folder / "downloaded.json")


def _downloaded(folder):
    """What earlier downloads brought: ``{"100": {"records": 1000, "all": False}}``."""
    try:
        return json.loads((folder / "downloaded.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
