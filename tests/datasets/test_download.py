"""The download against a server on loopback that misbehaves."""

import functools
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter

import pytest

from ecgtutorial.cohort import open_cohort
from ecgtutorial.datasets import download

FAST = {"timeout": 0.4, "pause": 0.01}


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `server.faults` maps a part of a path to how often and how it misbehaves."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        path = self.path.lstrip("/")
        with server.lock:
            server.asked[path] += 1
            fault = next((f for key, f in server.faults.items() if key in path), None)
            if fault is not None and server.asked[path] > fault[1]:
                fault = None  # served well from now on
        if server.delay:
            time.sleep(server.delay)
        file = server.folder / path
        if fault and fault[0] == "503":
            self.send_error(503)
        elif not file.is_file():
            self.send_error(404)
        else:
            self._serve(bytearray(file.read_bytes()), fault and fault[0])

    def _serve(self, content, fault):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        if fault == "truncates":
            self.wfile.write(content[:half])
            self.close_connection = True
        elif fault == "stalls":
            self.wfile.write(content[:half])
            self.wfile.flush()
            time.sleep(1)
            self.close_connection = True
        else:
            if fault == "wrong byte":
                content[half] ^= 1
            self.wfile.write(content)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that hung up is expected


@pytest.fixture
def server(small_ptbxl):
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(small_ptbxl)}"
        for path in sorted(small_ptbxl.rglob("*"))
        if path.is_file()
    ]
    (small_ptbxl / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.lock, server.delay = small_ptbxl, threading.Lock(), 0
    server.asked, server.faults = Counter(), {}
    server.url = f"http://127.0.0.1:{server.server_port}/files"
    server.folder = small_ptbxl.parent / "served"
    server.folder.mkdir()
    os.rename(small_ptbxl, server.folder / "files")
    threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def same(folder, server):
    """Whether the folder holds exactly what the server has, and nothing half."""
    served = server.folder / "files"
    expected = {p.relative_to(served): p.read_bytes() for p in served.rglob("*") if p.is_file()}
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop(next(p for p in found if p.name == "downloaded.json"))
    return found == expected


def test_everything_and_then_nothing(server, tmp_path, capfd):
    download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert same(tmp_path / "got", server)
    assert "PTB-XL: 100%" in capfd.readouterr().err
    asked = sum(server.asked.values())
    assert asked == 3 + 80
    download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    download.ptb_xl(tmp_path / "got", base_url=server.url, n_records=7, **FAST)
    assert sum(server.asked.values()) == asked


@pytest.mark.parametrize("fault", ["truncates", "stalls", "503", "wrong byte"])
def test_a_server_that_misbehaves_for_a_while(server, tmp_path, fault):
    server.faults = {"00007_lr.dat": (fault, 2), "00009_lr.hea": (fault, 1),
                     "database.csv": (fault, 1), "SHA256SUMS": (fault, 1)}  # fmt: skip
    if fault == "wrong byte":
        del server.faults["SHA256SUMS"]  # nothing vouches for the list itself
    download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert same(tmp_path / "got", server)
    assert server.asked["files/records100/00000/00007_lr.dat"] == 3
    assert server.asked["files/records100/00000/00008_lr.dat"] == 1


@pytest.mark.parametrize("fault, reason", [
    ("truncates", "00007_lr.dat: .*"),
    ("stalls", "00007_lr.dat: .*timed out"),
    ("503", "00007_lr.dat: status 503"),
    ("wrong byte", "00007_lr.dat: 24,000 bytes that do not match the published SHA-256"),
])  # fmt: skip
def test_what_fails_for_good_is_named_and_the_rest_is_kept(server, tmp_path, fault, reason):
    server.faults = {"00007_lr.dat": (fault, 99)}
    with pytest.raises(download.DownloadError, match=f"could not fetch 1 of 80 files:\n.*{reason}"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, tries=2, **FAST)
    got = tmp_path / "got/records100/00000"
    assert not (got / "00007_lr.dat").exists() and not list(got.glob("*.part"))
    server.faults = {}
    server.asked.clear()
    download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert same(tmp_path / "got", server)
    assert set(server.asked) == {"files/records100/00000/00007_lr.dat", "files/SHA256SUMS.txt"}


def test_a_file_that_is_not_there_is_not_asked_for_again(server, tmp_path):
    os.unlink(server.folder / "files/records100/00000/00007_lr.dat")
    with pytest.raises(download.DownloadError, match="00007_lr.dat: status 404"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert server.asked["files/records100/00000/00007_lr.dat"] == 1


def test_a_server_that_is_down_stops_the_download(server, tmp_path):
    server.faults = {"records100": ("503", 999)}
    with pytest.raises(download.DownloadError, match=r"could not fetch \d+ of 80 files, then stop"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, tries=1, **FAST)
    with pytest.raises(download.DownloadError, match="SHA256SUMS.txt: ConnectionError"):
        download.ptb_xl(tmp_path / "none", base_url="http://127.0.0.1:9", tries=2, **FAST)


def test_an_address_without_ptb_xl(server, tmp_path):
    (server.folder / "files/SHA256SUMS.txt").write_text("<html>Welcome</html>")
    with pytest.raises(download.DownloadError, match="held no line of SHA-256"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    (server.folder / "files/SHA256SUMS.txt").write_text("0" * 64 + " other.csv\n")
    with pytest.raises(download.DownloadError, match="lacks 2 files, such as ptbxl_database.csv"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)


def test_names_that_leave_the_folder_are_refused(server, tmp_path):
    database = server.folder / "files/ptbxl_database.csv"
    database.write_text(database.read_text().replace("records100/00000/00001", "../../00001"))
    sums = server.folder / "files/SHA256SUMS.txt"
    digest = hashlib.sha256(database.read_bytes()).hexdigest()
    sums.write_text(f"{digest} ptbxl_database.csv\n" + sums.read_text().replace("ptbxl_d", "old"))
    with pytest.raises(download.DownloadError, match="names a record '../../00001_lr'"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)


def test_a_kill_and_a_second_start(server, tmp_path):
    code = (
        "import sys; from ecgtutorial.datasets import download\n"
        "download.ptb_xl(sys.argv[1], base_url=sys.argv[2], threads=4)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "got"), server.url]
    server.delay = 0.05
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while sum(server.asked.values()) < 40 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    got = [p for p in (tmp_path / "got").rglob("*_lr.*") if p.suffix in (".hea", ".dat")]
    assert 20 < len(got) < 80
    time.sleep(0.2)
    server.asked.clear()
    server.delay = 0
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for left in (tmp_path / "got").rglob("*.part"):
        left.unlink()  # what the kill cut off; swept after an hour
    assert same(tmp_path / "got", server)
    assert sum(server.asked.values()) == 80 - len(got)


def test_damage_after_the_download_is_repaired(server, tmp_path):
    download.ptb_xl(tmp_path / "got", base_url=server.url, n_records=20, **FAST)
    hea = min((tmp_path / "got").rglob("*.hea"))
    dat = max((tmp_path / "got").rglob("*.dat"))
    hea.write_text("nothing")
    dat.write_bytes(b"short")
    server.asked.clear()
    download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert same(tmp_path / "got", server)
    assert sum(server.asked.values()) == 2 + 40


def test_a_part_through_open_cohort(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ECGTUTORIAL_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = open_cohort("ptb-xl", n_records=10, base_url=server.url)
        assert len(part) == 10 and part.missing["absent"] == 21799 - 10
        assert sum(server.asked.values()) == 3 + 20
        more = open_cohort("ptb-xl", n_records=20, base_url=server.url)
        assert set(part.table["record_id"]) < set(more.table["record_id"])
        assert sum(server.asked.values()) == 3 + 40
        server.shutdown()  # what is there opens without the network
        again = open_cohort("ptb-xl", n_records=10, base_url=server.url)
        assert again.table["record_id"].tolist() == part.table["record_id"].tolist()


def test_a_disk_too_small_stops_before_it_starts(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(OSError, match="0.0 GB free, .* needed for 40 records at 100 Hz"):
        download.ptb_xl(tmp_path / "got", base_url=server.url, **FAST)
    assert not list((tmp_path / "got").rglob("*.dat"))
