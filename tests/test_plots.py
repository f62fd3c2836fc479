"""The figures keep their scale, their words and their inputs."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ecgtutorial import plots
from ecgtutorial.heart.ventricles import SEGMENTS, ventricles
from ecgtutorial.leads import LEADS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def signals():
    time = np.arange(1000) / 100
    return np.sin(2 * np.pi * time + np.arange(12)[:, None]).astype(np.float32)  # (lead, time)


@pytest.fixture
def table():
    rows = [
        {"method": m, "task": "superclass", "budget": b, "seed": seed, "metric": "macro_auc"}
        | {"value": 0.7 + 0.1 * b, "low": 0.68 + 0.1 * b, "high": 0.72 + 0.1 * b}
        for m in ("random", "simclr", "mine")
        for b in (0.01, 0.1, 0.5, 0.6, 1.0)
        for seed in (0, "all")
    ]
    return pd.DataFrame(rows)


def pixels(ax, seconds, mv):
    """Width and height on the page of a stretch of time and voltage."""
    ax.figure.canvas.draw()  # set_aspect takes effect on drawing
    return ax.transData.transform((seconds, mv)) - ax.transData.transform((0, 0))


@pytest.mark.parametrize("layout", ["3x4", "stack"])
@pytest.mark.parametrize("size", [None, (3.0, 7.0), (11.0, 4.0)])
def test_big_box_is_square_at_any_size(signals, layout, size):
    ax = None if size is None else plt.subplots(figsize=size)[1]
    ax = plots.ecg_paper(signals, 100, layout=layout, ax=ax)
    width, height = pixels(ax, 0.2, 0.5)
    assert width == pytest.approx(height, rel=1e-9)
    width, height = pixels(ax, 0.04, 0.1)
    assert width == pytest.approx(height, rel=1e-9)


def test_grid_lines_stand_at_the_clinical_distances(signals):
    ax = plots.ecg_paper(signals, 100)
    fine_x, fine_y, coarse_x, coarse_y = (
        np.array([segment[0] for segment in lines.get_segments()]) for lines in ax.collections[:4]
    )
    for lines, axis, step in [
        (fine_x, 0, 0.04),
        (fine_y, 1, 0.1),
        (coarse_x, 0, 0.2),
        (coarse_y, 1, 0.5),
    ]:
        np.testing.assert_allclose(np.diff(lines[:, axis]), step, atol=1e-9)
        np.testing.assert_allclose(
            lines[:, axis] / step, np.round(lines[:, axis] / step), atol=1e-6
        )


def test_paper_names_every_lead_and_draws_each_at_its_own_time(signals):
    ax = plots.ecg_paper(signals, 100)
    assert sorted(text.get_text() for text in ax.texts) == sorted([*LEADS, "II"])
    traces = {}
    for line, text in zip([x for x in ax.lines if len(x.get_xdata()) > 6], ax.texts, strict=True):
        traces.setdefault(text.get_text(), line)
    time, voltage = traces["V5"].get_data()
    assert (time[0], len(time)) == (7.5, 250)
    np.testing.assert_allclose(voltage + 3.0, signals[10, 750:], atol=1e-6)  # second row: 3 mV down


def test_calibration_pulse_is_one_millivolt_for_a_fifth_of_a_second(signals):
    time, voltage = plots.ecg_paper(signals, 100).lines[0].get_data()
    assert voltage.max() - voltage.min() == 1
    assert np.ptp(time[voltage == 1]) == pytest.approx(0.2)


def test_paper_takes_some_leads_gaps_and_a_start(signals):
    signals[0, 100:200] = np.nan
    ax = plots.ecg_paper(signals[:1, :250], 100, leads=["I"], layout="stack", start=3.0)
    assert ax.lines[1].get_xdata()[0] == 3.0
    assert np.isnan(ax.lines[1].get_ydata()).sum() == 100
    plots.ecg_paper(np.full((12, 1000), np.nan), 100)  # a lost record still makes a page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signals": np.zeros(1000)}, r"shape \(1000,\), expected \(12 leads, time\)"),
        ({"signals": np.zeros((8, 1000))}, r"shape \(8, 1000\)"),
        ({"signals": np.full((12, 1000), 900)}, "look like µV"),
        ({"fs": 0}, "fs: found 0"),
        ({"layout": "6x2"}, "layout: found '6x2'"),
        ({"signals": np.zeros((2, 1000)), "leads": ("I", "II")}, "aVF.* missing"),
    ],
)
def test_paper_says_what_is_wrong(signals, change, says):
    with pytest.raises(ValueError, match=says):
        plots.ecg_paper(**({"signals": signals, "fs": 100} | change))


def test_nothing_is_changed_but_the_axes(signals, table):
    before, settings, copy = signals.copy(), dict(plt.rcParams), table.copy()
    plots.ecg_paper(signals, 100, title="A record")
    plots.label_efficiency(table)
    plots.vector_loop(signals[:3])
    np.testing.assert_array_equal(signals, before)
    pd.testing.assert_frame_equal(table, copy)
    assert dict(plt.rcParams) == settings


def test_label_efficiency_draws_summary_rows_in_percent(table):
    ax = plots.label_efficiency(table, methods=["simclr"])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 10, 50, 60, 100])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(map(str, plots.BUDGET_TICKS))
    assert ax.get_xlabel() == "labelled training patients (%, log axis)"
    assert ax.get_ylabel() == "macro AUC (95 % interval)"


def test_every_line_has_its_own_colour_and_marker_and_name(table):
    ax = plots.label_efficiency(table)
    curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert len({(line.get_color(), line.get_marker()) for line in curves}) == 3
    assert {text.get_text() for text in ax.texts} >= {"random encoder", "SimCLR", "mine"}
    assert curves[0].get_color() == plots.METHOD_COLOURS["random"]


def test_names_of_close_lines_do_not_overlap(table):
    ax = plots.label_efficiency(table)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1 :])


def test_label_efficiency_says_what_is_wrong(table):
    with pytest.raises(ValueError, match=r"columns \['low'\] missing"):
        plots.label_efficiency(table.drop(columns="low"))
    with pytest.raises(ValueError, match="no summary rows for .'moco'"):
        plots.label_efficiency(table, methods=["moco"])
    with pytest.raises(ValueError, match="expected fractions"):
        plots.label_efficiency(table.assign(budget=100 * table["budget"]))
    two = pd.concat([table, table.assign(task="subclass")])
    with pytest.raises(ValueError, match="choose one with task="):
        plots.label_efficiency(two)
    with pytest.raises(ValueError, match="two rows at one budget"):
        plots.label_efficiency(pd.concat([table, table]))
    with pytest.raises(ValueError, match="no row with seed"):
        plots.label_efficiency(table[table["seed"] != "all"])


def test_vector_loop_has_three_planes_with_units_and_feet_down():
    angle = np.linspace(0, 2 * np.pi, 60)
    axes = plots.vector_loop(np.stack([np.cos(angle), np.sin(angle), 0 * angle]))
    assert len(axes) == 3
    assert all("(mV)" in ax.get_xlabel() and "(mV)" in ax.get_ylabel() for ax in axes)
    assert [ax.yaxis_inverted() for ax in axes] == [True, False, True]
    assert all(ax.get_aspect() == 1 for ax in axes)


@pytest.mark.parametrize("xyz", [np.zeros((2, 50)), np.zeros(3), np.zeros((3, 2))])
def test_vector_loop_wants_three_rows(xyz):
    with pytest.raises(ValueError, match=r"expected \(3, time\)"):
        plots.vector_loop(xyz)


def test_vector_loop_takes_a_flat_record():
    plots.vector_loop(np.zeros((3, 50)))


def test_no_two_methods_look_alike():
    looks = [(colour, marker) for _, colour, marker in plots.METHODS.values()]
    assert len(set(looks)) == len(looks) and {"byol", "swav", "cpc"} <= set(plots.METHODS)


def test_the_map_is_the_polar_map_with_the_right_ventricle_beside_the_septum():
    tissue = ventricles()
    place = plots._flat(tissue.polar, tissue.azimuth, tissue.right)
    radius = np.linalg.norm(place, axis=1)
    assert radius[~tissue.right].max() < 1 < radius[tissue.right].min()
    middle = {name: place[tissue.segment == k].mean(axis=0) for k, name in enumerate(SEGMENTS)}
    assert np.hypot(*middle["apex"]) < 0.01
    assert middle["basal anterior"][1] > 0.7 and middle["basal inferior"][1] < -0.7
    assert middle["mid anterolateral"][0] > 0.3 and middle["apical septal"][0] < -0.2
    for far, near in (("RV apex", "RV free wall"), ("RV free wall", "LVOT")):
        assert middle[far][0] < middle[near][0] < 0
    touch = np.linalg.norm(place[tissue.segment == SEGMENTS.index("RVOT")][:, None]
                           - place[tissue.segment == SEGMENTS.index("LVOT")], axis=-1)  # fmt: skip
    assert touch.min() < 0.15


def test_the_map_names_every_region_inside_it():
    ax = plots.ventricle_map(np.zeros((0, 3)))
    ax.figure.canvas.draw()
    texts = {text.get_text().replace("\n", " "): text for text in ax.texts}
    assert set(texts) == set(SEGMENTS)
    boxes = [text.get_window_extent() for text in ax.texts if not text.get_rotation()]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1 :])
    for name, text in texts.items():  # its place is a place of the region
        tissue, place = ventricles(), np.array(text.get_position())
        flat = plots._flat(tissue.polar, tissue.azimuth, tissue.right)
        nearest = np.linalg.norm(flat - place, axis=1).argmin()
        assert SEGMENTS[tissue.segment[nearest]] == name


def test_the_map_joins_true_and_predicted_sites():
    tissue = ventricles()
    node = [40, 700, 40, 40]
    true, predicted = tissue.position[node], tissue.position[[3, 300, 41, 700]] + 0.4
    ax = plots.ventricle_map(true, predicted, title="Origins")
    first, second = (c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 4)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
    ends = np.array([line.get_xydata() for line in lines])  # (record, end, 2)
    np.testing.assert_allclose(ends, np.stack([first, second], axis=1))
    flat = plots._flat(tissue.polar, tissue.azimuth, tissue.right)
    np.testing.assert_allclose(first[:2], flat[node[:2]])
    apart = np.linalg.norm(first[[0, 0, 2]] - first[[2, 3, 3]], axis=1)
    assert (apart > 0.02).all() and (apart < 0.1).all()  # three at one node
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["true site", "predicted site"]
    assert ax.get_title(loc="left") == "Origins" and ax.get_aspect() == 1
    alone = plots.ventricle_map(true, ax=plt.subplots()[1])
    assert [t.get_text() for t in alone.get_legend().get_texts()] == ["true site"]


def test_the_map_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"true: found shape \(2, 2\), expected \(record, 3\)"):
        plots.ventricle_map(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="predicted: .* without NaN"):
        plots.ventricle_map(np.zeros((1, 3)), [[0, np.nan, 0]])
    with pytest.raises(ValueError, match="predicted: found 1 sites for 2 true ones"):
        plots.ventricle_map(np.zeros((2, 3)), np.zeros((1, 3)))
