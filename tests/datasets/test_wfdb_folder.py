import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial.cohort import INVALID, open_cohort
from ecgtutorial.datasets import wfdb_folder
from ecgtutorial.leads import LEADS

RNG = np.random.default_rng(0)


def open_strictly(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return open_cohort("wfdb-folder", data=folder, **options)


def through_wfdb(path):
    """µV (lead, time) as the wfdb package reads them, NaN where it has no sample."""
    import wfdb

    record = wfdb.rdrecord(str(path))
    factor = {"mV": 1e3, "uV": 1.0, "V": 1e6}
    scale = np.array([factor[unit] for unit in record.units])
    microvolts = np.rint(record.p_signal * scale).T
    order = [[name.upper() for name in record.sig_name].index(lead.upper()) for lead in LEADS]
    return np.where(np.abs(microvolts) <= 32767, microvolts, np.nan)[order]


@pytest.mark.parametrize("gain, units", [(1000, "mV"), (200, "mV"), (4.88, "uV"), (1, "uV"),
                                         (2e6, "V"), (409.6, "mV")])  # fmt: skip
@pytest.mark.parametrize("baseline", [0, -117, 1024])
def test_fast_path_equals_wfdb(tmp_path, write_record, monkeypatch, gain, units, baseline):
    digital = RNG.integers(-32767, 32767, (12, 700))
    digital[3, 5:9] = -32768  # WFDB's mark for no sample
    names = [LEADS[i].upper() for i in RNG.permutation(12)]
    write_record(tmp_path / "r", digital, 250, gain, baseline, units, names)
    monkeypatch.setattr(wfdb_folder, "_read_by_wfdb", None)  # the fast path, nothing else
    signals, fs = wfdb_folder.read_microvolts(str(tmp_path / "r"))
    assert fs == 250 and signals.dtype == np.int16
    found = np.where(signals == INVALID, np.nan, signals)
    np.testing.assert_array_equal(found, through_wfdb(tmp_path / "r"))


@pytest.mark.parametrize("fmt", ["212", "24", "32", "80"])
def test_other_formats_go_through_wfdb(tmp_path, write_record, fmt):
    digital = RNG.integers(-100, 100, (12, 500))
    write_record(tmp_path / "r", digital, fmt=fmt, gain=50.0, baseline=3)
    signals, fs = wfdb_folder.read_microvolts(str(tmp_path / "r"))
    assert fs == 100
    np.testing.assert_array_equal(signals, through_wfdb(tmp_path / "r"))
    header = (tmp_path / "r.hea").read_text().splitlines()
    words = header[1].split()
    words[6] = str(int(words[6]) + 1)
    header[1] = " ".join(words)
    (tmp_path / "r.hea").write_text("\n".join(header) + "\n")
    with pytest.raises(wfdb_folder.DamagedRecord, match="checksum of I differs"):
        wfdb_folder.read_microvolts(str(tmp_path / "r"))


def test_real_records_equal_wfdb(ptbxl_folder, cinc2011_folder):
    paths = sorted((ptbxl_folder / "records100/21000").glob("*.hea"))[:40]
    paths += sorted((ptbxl_folder / "records500/00000").glob("*.hea"))[:10]
    paths += sorted((cinc2011_folder / "records100").glob("*.hea"))[:40]
    for path in paths:
        signals, _ = wfdb_folder.read_microvolts(str(path)[:-4])
        found = np.where(signals == INVALID, np.nan, signals)
        np.testing.assert_array_equal(found, through_wfdb(path.with_suffix("")))


def test_short_header_lines(tmp_path):
    """What a header may leave out: gain, baseline and unit are WFDB's defaults then."""
    digital = RNG.integers(-300, 300, (1000, 12)).astype("<i2")
    (tmp_path / "r.dat").write_bytes(digital.tobytes())
    first = "# a remark\nr 12 100 1000 10:00:00\n"
    lines = "".join(f"r.dat 16 0 16 0 0 {s & 0xFFFF} 0 {lead}\n"
                    for lead, s in zip(LEADS, digital.sum(0, dtype=int)))  # fmt: skip
    (tmp_path / "r.hea").write_text(first + lines + "# age: 50\n")
    signals, _ = wfdb_folder.read_microvolts(str(tmp_path / "r"))
    np.testing.assert_array_equal(signals, digital.T * 5)  # 200 steps per mV
    (tmp_path / "r.hea").write_text((first + lines).replace(" 1000 10:00:00", ""))
    np.testing.assert_array_equal(wfdb_folder.read_microvolts(str(tmp_path / "r"))[0], signals)


def test_multi_segment_record(tmp_path, write_record):
    digital = RNG.integers(-1000, 1000, (12, 2000))
    write_record(tmp_path / "s1", digital[:, :1200])
    write_record(tmp_path / "s2", digital[:, 1200:])
    (tmp_path / "whole.hea").write_text("whole/2 12 100 2000\ns1 1200\ns2 800\n")
    cohort = open_strictly(tmp_path)  # the segments are no records of their own
    assert cohort.table["record_id"].tolist() == ["whole", "whole"]
    np.testing.assert_array_equal(np.concatenate(cohort.signals, axis=1), digital)


def test_long_records_are_cut_and_keep_record_and_patient(tmp_path, write_record):
    digital = RNG.integers(-1000, 1000, (12, 3500))
    write_record(tmp_path / "a/long", digital)
    write_record(tmp_path / "b/exact", digital[:, :1000])
    write_record(tmp_path / "b/short", digital[:, :999])
    with pytest.warns(UserWarning, match="b/short: lasts 9.99 s, expected at least 10 s"):
        cohort = open_cohort("wfdb-folder", data=tmp_path)
    assert cohort.table["record_id"].tolist() == ["a/long"] * 3 + ["b/exact"]
    assert cohort.table["patient_id"].tolist() == ["a/long"] * 3 + ["b/exact"]
    assert cohort.table["start"].tolist() == [0, 10, 20, 0]
    np.testing.assert_array_equal(cohort.signals[2], digital[:, 2000:3000])
    with pytest.raises(ValueError, match="b/short"):
        open_cohort("wfdb-folder", data=tmp_path, strict=True)
    assert open_strictly(tmp_path, seconds=5).signals.shape == (7 + 2 + 1, 12, 500)


def test_a_bad_piece_of_a_long_record_is_left_out_alone(tmp_path, write_record):
    digital = np.ones((12, 3000))
    digital[4, 1500] = -32768
    write_record(tmp_path / "r", digital)
    with pytest.warns(UserWarning, match="r at 10 s: 1 samples missing .* in aVL"):
        cohort = open_cohort("wfdb-folder", data=tmp_path)
    assert cohort.table["start"].tolist() == [0, 20]


@pytest.mark.parametrize("fs", [500, 257, 128, 50, 333.25])
def test_other_rates_are_resampled(tmp_path, write_record, fs):
    t = np.arange(round(10 * fs)) / fs
    phase = np.arange(12)[:, None]
    write_record(tmp_path / "r", np.rint(2000 + 1000 * np.sin(2 * np.pi * 3 * t + phase)), fs=fs)
    cohort = open_strictly(tmp_path)
    assert cohort.signals.shape == (1, 12, 1000) and cohort.fs == 100
    expected = 2000 + 1000 * np.sin(2 * np.pi * 3 * np.arange(1000) / 100 + phase)
    inner = slice(50, -50)  # a filter has no full view of the ends
    assert np.abs(cohort.signals[0] - expected)[:, inner].max() < 15  # µV
    assert np.abs(cohort.signals[0] - expected).max() < 400


def test_own_lead_names(tmp_path, write_record):
    names = ["I", "MLII", "iii", "AVR", "avl", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    write_record(tmp_path / "r", np.ones((12, 1000)), names=names)
    with pytest.raises(ValueError, match="r: lacks II; has I, MLII"):
        open_cohort("wfdb-folder", data=tmp_path)
    assert len(open_strictly(tmp_path, leads={"MLII": "II"})) == 1


def test_more_leads_than_twelve_are_fine(tmp_path, write_record):
    names = ["vx", "vy", "vz", *LEADS]
    write_record(tmp_path / "r", np.arange(15)[:, None] * np.ones(1000), names=names)
    assert open_strictly(tmp_path).signals[0, :, 0].tolist() == list(range(3, 15))


@pytest.fixture(scope="module")
def _twenty(tmp_path_factory, write_record):
    folder = tmp_path_factory.mktemp("twenty")
    for i in range(20):
        write_record(folder / f"r{i:02d}", np.full((12, 1000), i))
    return folder


@pytest.fixture
def twenty(tmp_path, _twenty):
    return Path(shutil.copytree(_twenty, tmp_path / "in"))


def test_a_table_gives_patients_folds_and_labels(twenty, tmp_path):
    table = pd.DataFrame(
        {
            "record_id": [f"r{i:02d}" for i in range(20)],
            "patient_id": [f"{i // 2:03d}" for i in range(20)],
            "age": [60 + i for i in range(19)] + [None],
            "sex": ["F", "male", "", "m"] * 5,
            "NORM": [0, 1] * 10,
            "IMI": [1, 0] * 10,
            "ward": ["A", "B"] * 10,
        }
    ).sample(frac=1, random_state=0)
    path = tmp_path / "patients.csv"
    table.to_csv(path, index=False)
    cohort = open_strictly(twenty, table=path)
    assert cohort.table["patient_id"].tolist() == [f"{i // 2:03d}" for i in range(20)]
    assert cohort.table["sex"].fillna("?").tolist() == ["female", "male", "?", "male"] * 5
    assert cohort.table["age"][3] == 63 and np.isnan(cohort.table["age"][19])
    assert cohort.table["ward"].tolist() == ["A", "B"] * 10
    assert list(cohort.labels) == ["NORM", "IMI"]
    assert cohort.targets("superclass")["MI"].tolist() == [1, 0] * 10
    assert [len(part) for part in cohort.split()] == [16, 2, 2]  # ten patients of two records

    table.assign(fold=7).to_csv(path, index=False)  # a changed table is read anew
    assert set(open_strictly(twenty, table=path).table["fold"]) == {7}
    table.iloc[:15].to_csv(path, index=False)
    with pytest.warns(UserWarning, match="has no row in patients.csv"):
        assert len(open_cohort("wfdb-folder", data=twenty, table=path)) == 15


@pytest.mark.parametrize("text, message", [
    ("id\nr00\n", "needs the column 'record_id'"),
    ("record_id\n", "no rows"),
    ("record_id\nr00\nr00\n", "two rows of record 'r00'"),
    ("record_id,fold\nr00,11\n", "fold must be 1-10"),
    ("record_id,sex\nr00,1\n", "sex must be"),
    ("record_id\n17\n", "describes none of the 20 records"),
])  # fmt: skip
def test_tables_that_are_refused(twenty, tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_cohort("wfdb-folder", data=twenty, table=tmp_path / "t.csv")


SITES = pd.DataFrame(
    {
        "record_id": [f"r{i:02d}" for i in range(20)],
        "region": ["RVOT", "LVOT ", "RVOT", "RVOT"] * 5,
        "site_x": [0, 1] * 10,
        "site_y": range(20),
        "site_z": -2.5,
    }
)


def test_a_table_gives_regions_and_sites(twenty, tmp_path):
    path = tmp_path / "sites.csv"
    SITES.to_csv(path, index=False)
    cohort = open_strictly(twenty, table=path)
    assert list(cohort.labels) == ["LVOT", "RVOT"]  # in the order of SEGMENTS
    assert cohort.targets("all")["LVOT"].tolist() == [0, 1, 0, 0] * 5
    assert (cohort.labels.sum(axis=1) == 1).all()
    assert cohort.table["region"].tolist() == ["RVOT", "LVOT", "RVOT", "RVOT"] * 5
    assert cohort.table["site_x"].tolist() == [0, 1] * 10  # no label
    assert cohort.table["site_z"].dtype == float and (cohort.table["site_z"] == -2.5).all()

    names = dict(RVOT="RVOT", LVOT="LVOT", **{"LVOT ": "summit"})
    SITES.assign(region=SITES["region"].map(names)).to_csv(path, index=False)
    assert list(open_strictly(twenty, table=path).labels) == ["RVOT", "summit"]
    SITES.assign(region=[f"{i % 2}" for i in range(20)]).to_csv(path, index=False)
    assert list(open_strictly(twenty, table=path).labels) == ["0", "1"]
    SITES.assign(PVC=1).to_csv(path, index=False)  # labels of its own
    cohort = open_strictly(twenty, table=path)
    assert list(cohort.labels) == ["PVC"] and "region" in cohort.table
    SITES.drop(columns="region").to_csv(path, index=False)
    assert open_strictly(twenty, table=path).labels.shape == (20, 0)


@pytest.mark.parametrize("empty", [None, "  "])
def test_a_record_without_a_region_is_refused(twenty, tmp_path, empty):
    path = tmp_path / "sites.csv"
    region = SITES["region"].where(SITES["record_id"] != "r07", empty)
    SITES.assign(region=region).to_csv(path, index=False)
    message = r"sites.csv: 1 of 20 records have no region, such as 'r07'"
    with pytest.raises(ValueError, match=message):
        open_cohort("wfdb-folder", data=twenty, table=path)
    SITES.assign(region=region).dropna().to_csv(path, index=False)
    if empty is None:
        with pytest.warns(UserWarning, match="r07: has no row in sites.csv"):
            assert len(open_cohort("wfdb-folder", data=twenty, table=path)) == 19
    SITES.assign(site_y="front").to_csv(path, index=False)
    with pytest.raises(ValueError, match="front"):
        open_cohort("wfdb-folder", data=twenty, table=path)


def test_a_folder_with_sites_goes_through_localisation(tmp_path, write_record):
    """As idiopathic ventricular arrhythmias are published: records, and where they were ablated."""
    from ecgtutorial.evaluate.label_efficiency import Entrant
    from ecgtutorial.evaluate.localisation import localisation

    class Means(torch.nn.Module):
        width = 12

        def forward(self, signals):
            return signals.mean(dim=2)

    rows = pd.DataFrame({"record_id": [f"case{i:02d}" for i in range(40)]})
    rows["region"] = np.where(np.arange(40) % 3, "RVOT", "LVOT")
    for name, region in zip(rows["record_id"], rows["region"]):
        level = 500 * (region == "RVOT") + RNG.normal(0, 50, (12, 1))
        long = 2400 if name == "case05" else 1000  # that one is cut into two
        write_record(tmp_path / "in" / name, np.rint(level + np.zeros(long)))
    rows.to_csv(tmp_path / "sites.csv", index=False)
    cohort = open_strictly(tmp_path / "in", table=tmp_path / "sites.csv")
    assert len(cohort) == 41
    entrant = Entrant("random", 0, "means", Means, ("probe",))
    frame = localisation([entrant], cohort, tmp_path / "t.csv", seconds=5.0, patients=(10, None),
                         subsets={10: 2}, progress=False)  # fmt: skip
    cells = frame[frame["seed"] != "all"]
    assert set(cells["metric"]) == {"region_accuracy", "adjacent_accuracy"}
    assert (cells["value"] == 1).all()


def test_folds_are_the_same_every_time_and_serve_few_patients(twenty, tmp_path):
    first = open_strictly(twenty).table["fold"]
    shutil.copytree(twenty, tmp_path / "copy")
    assert open_strictly(tmp_path / "copy").table["fold"].equals(first)
    assert first.value_counts().tolist() == [2] * 10
    for path in twenty.glob("r*"):
        if int(path.stem[1:]) > 2:
            path.unlink()
    assert [len(part) for part in open_strictly(twenty).split()] == [1, 1, 1]


def test_records_file_names_the_records(twenty):
    (twenty / "RECORDS").write_text("r03\nr01\nr77\n")
    cohort = open_strictly(twenty)
    assert cohort.table["record_id"].tolist() == ["r03", "r01"]
    assert cohort.missing["official"] == 3 and cohort.missing["absent"] == 1


def test_wrong_folders_and_arguments(tmp_path, twenty):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_cohort("wfdb-folder", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="needs data="):
        open_cohort("wfdb-folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/x.txt").touch()
    with pytest.raises(FileNotFoundError, match="looked for RECORDS and .*found x.txt"):
        open_cohort("wfdb-folder", data=tmp_path / "empty")
    with pytest.raises(ValueError, match="whole number of samples"):
        open_cohort("wfdb-folder", data=twenty, seconds=1.234567)
    with pytest.raises(FileNotFoundError, match="no table"):
        open_cohort("wfdb-folder", data=twenty, table=tmp_path / "t.csv")
    with pytest.raises(ValueError, match="every record .* damaged"):
        open_cohort("wfdb-folder", data=twenty, seconds=11)


def test_real_unlabelled_records(cinc2011_folder):
    with pytest.warns(UserWarning, match="163 of 1,000 records"):
        cohort = open_cohort("wfdb-folder", data=cinc2011_folder)
    assert cohort.signals.shape == (837, 12, 1000)
    assert cohort.labels.shape == (837, 0)
    assert sum(map(len, cohort.split())) == 837
    with pytest.raises(ValueError, match="no labels"):
        cohort.targets()
