"""Figures of the book: ECG paper to scale, label-efficiency curves, loops of the heart vector.

Every function draws, returns what it drew on, and leaves showing and saving to you.
matplotlib's settings change inside a function only; for figures of your own:

    plt.rcParams.update(plots.style())
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

from .leads import LEADS

# Okabe and Ito's palette, told apart by every common kind of colour vision (their yellow is left
# out: too faint on white). One method keeps one colour and one marker on every page.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"
METHODS = {  # label, colour, marker
    "random": ("random encoder", GREY, "X"),
    "supervised": ("supervised", BLACK, "s"),
    "simclr": ("SimCLR", BLUE, "o"),
    "byol": ("BYOL", GREEN, "D"),
    "swav": ("SwAV", PURPLE, "P"),
    "cpc": ("CPC", VERMILLION, ">"),
    "3kg-l": ("3KG-L", VERMILLION, "^"),
    "3kg-a": ("3KG-A", ORANGE, "v"),
}
METHOD_COLOURS = {method: colour for method, (_, colour, _) in METHODS.items()}
SPARE = ((GREEN, "D"), (PURPLE, "P"), (SKY, "h"), (GREEN, "<"), (PURPLE, ">"), (SKY, "*"))

PAPER, FINE, COARSE, INK = "#fffaf7", "#f6d8d0", "#e6a294", "#111111"
COLUMNS_3X4 = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
BUDGET_TICKS = (1, 2, 5, 10, 25, 50, 60, 100)  # % of the training patients
PLANES = (  # name, seen from, (axis, text) across, (axis, text) up; x to the left, y down, z back
    ("Frontal", "from the front", (0, "left"), (1, "feet")),
    ("Transverse", "from above", (0, "left"), (2, "back")),
    ("Sagittal", "from the left", (2, "back"), (1, "feet")),
)


def style():
    """Return the book's matplotlib settings, made to be read on a phone.

    Returns a dict for `plt.rcParams.update(...)` or `plt.rc_context(...)`; it changes nothing
    itself. Explained in the chapter "The twelve-lead ECG".
    """
    return {
        "figure.figsize": (7.0, 4.2),
        "figure.dpi": 150,
        "savefig.bbox": "tight",
        "font.size": 12,
        "axes.titlesize": 13,
        "axes.labelsize": 12,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "legend.fontsize": 11.5,
        "legend.frameon": False,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": False,
        "grid.color": "#dddddd",
        "lines.linewidth": 1.8,
        "axes.prop_cycle": plt.cycler(
            color=[BLUE, VERMILLION, GREEN, BLACK, ORANGE, PURPLE, SKY, GREY]
        ),
    }


def ecg_paper(
    signals,
    fs,
    *,
    leads=LEADS,
    layout="3x4",
    rhythm="II",
    row_mv=3.0,
    start=0.0,
    colours=None,
    title=None,
    ax=None,
):
    """Draw one ECG on clinical paper, to scale: 25 mm/s across, 10 mm/mV up.

    A small box is 0.04 s x 0.1 mV, a big one 0.2 s x 0.5 mV, and both are square at any size of
    the figure. Each row starts with the calibration pulse, 1 mV for 0.2 s.

    signals: (lead, time) in mV, in the order of `leads`; NaN is a gap in the trace.
    fs: sampling rate in Hz.
    leads: the names of the rows of `signals`.
    layout: "3x4", a quarter of the time for each of the 12 leads, column by column, with the lead
        `rhythm` (None: no strip) below over the whole time; or "stack", a full row for each lead.
    row_mv: distance between rows in mV, rounded to whole big boxes.
    start: time of the first sample in s, for a stretch cut out of a longer record.
    colours: {lead: colour} of traces that are not black.
    Returns the matplotlib axes. Raises ValueError for a wrong shape, lead, layout or unit.
    Explained in the chapter "The twelve-lead ECG".
    """
    leads = tuple(leads)
    signals = _checked_signals(signals, fs, leads)
    rows = _rows(leads, layout, rhythm)
    seconds = signals.shape[1] / fs
    row_mv = max(0.5, round(row_mv / 0.5) * 0.5)  # rows must sit on the grid
    left, right = start - 0.6, start + np.ceil(round(seconds / 0.2, 6)) * 0.2
    top = _big_boxes(np.nanmax(signals[[leads.index(name) for name in rows[0]]], initial=1))
    deepest = np.nanmin(signals[[leads.index(name) for name in rows[-1]]], initial=-0.2)
    bottom = -(len(rows) - 1) * row_mv - _big_boxes(-deepest)

    ax = ax or _page(right - left, top - bottom, title)
    with plt.rc_context(style()):
        _grid(ax, left, right, bottom, top)
        for row, names in enumerate(rows):
            zero, n_columns = -row * row_mv, len(names)
            pulse = np.array([-0.5, -0.4, -0.4, -0.2, -0.2, -0.1]) + start
            ax.plot(pulse, zero + np.array([0, 0, 1, 1, 0, 0]), color=INK, linewidth=1.1)
            edges = np.linspace(0, signals.shape[1], n_columns + 1).astype(int)
            for column, name in enumerate(names):
                a, b = edges[column], edges[column + 1]
                trace, colour = signals[leads.index(name), a:b], (colours or {}).get(name, INK)
                ax.plot(start + np.arange(a, b) / fs, zero + trace, color=colour, linewidth=0.9)
                _lead_name(ax, start + a / fs, zero, name, colour, trace, fs)
        step = 1.0 if seconds > 2 else 0.2
        ax.set_xticks(np.arange(np.ceil(start / step) * step, right + 1e-9, step))
        ax.set_yticks([z for r in range(len(rows)) for z in (-r * row_mv, 1 - r * row_mv)])
        ax.set_yticklabels(["0", "1"] * len(rows))
        ax.set_xlabel("time (s); a big box is 0.2 s × 0.5 mV")
        ax.set_ylabel("voltage (mV)" if len(rows) > 1 else "mV")
        if title:
            ax.set_title(title)
    return ax


def _big_boxes(mv):
    """Return the room in mV for a peak: whole big boxes, at most 3 mV."""
    return min(np.ceil(mv / 0.5 + 0.3) * 0.5, 3.0)


def _page(seconds, mv, title):
    """Return axes on a new figure, 7 inches wide or, for a high page, 8 inches high."""
    scale = min(6.2 / seconds, 8 / (0.4 * mv))  # inches a second
    width, height = scale * seconds, scale * 0.4 * mv
    room = (0.62, 0.15, 0.6, 0.38 if title else 0.1)  # inches for text: left, right, below, above
    size = (width + room[0] + room[1], height + room[2] + room[3])
    place = (room[0] / size[0], room[2] / size[1], width / size[0], height / size[1])
    return _figure(size, layout=None).add_axes(place)


def _figure(size, layout="constrained"):
    """Return a new figure. Call it outside any `rc_context`.

    The first figure of a notebook switches inline display on; leaving an `rc_context` entered
    before it would switch that off again, and no later figure would show.
    """
    return plt.figure(figsize=size, dpi=style()["figure.dpi"], layout=layout)


def _checked_signals(signals, fs, leads):
    """Return `signals` as (lead, time) float mV, or say what is wrong with it."""
    signals = np.asarray(signals, dtype=float)
    if signals.ndim != 2 or signals.shape[0] != len(leads) or signals.shape[1] < 2:
        raise ValueError(
            f"signals: found shape {signals.shape}, expected ({len(leads)} leads, time); give one "
            "record, and name its rows with leads=(...)"
        )
    if not fs > 0:
        raise ValueError(f"fs: found {fs!r}, expected a sampling rate in Hz above 0")
    peak = np.nanmax(np.abs(signals), initial=0.0)
    if peak > 50:  # int16 µV reach 32.8 mV at most
        raise ValueError(
            f"signals: found values up to {peak:.0f}, expected mV (at most 50); these look like "
            "µV: use cohort.millivolts(), or divide by 1000"
        )
    return signals


def _rows(leads, layout, rhythm):
    """Return the rows of the page, each a tuple of lead names, all of them in `leads`."""
    if layout == "3x4":
        rows = COLUMNS_3X4 + (((rhythm,),) if rhythm else ())
    elif layout == "stack":
        rows = tuple((name,) for name in leads)
    else:
        raise ValueError(f'layout: found {layout!r}, expected "3x4" or "stack"')
    absent = sorted({name for row in rows for name in row} - set(leads))
    if absent:
        raise ValueError(
            f"leads: {', '.join(absent)} missing from {', '.join(leads)}, which layout {layout!r} "
            'draws; choose layout="stack" for fewer leads, or another rhythm'
        )
    return rows


def _grid(ax, left, right, bottom, top):
    """Rule the paper from corner to corner and fix its scale."""
    for step_x, step_y, colour, width in ((0.04, 0.1, FINE, 0.5), (0.2, 0.5, COARSE, 0.7)):
        x = np.arange(np.ceil(left / step_x - 1e-6), np.floor(right / step_x + 1e-6) + 1) * step_x
        y = np.arange(np.ceil(bottom / step_y - 1e-6), np.floor(top / step_y + 1e-6) + 1) * step_y
        ax.vlines(x, bottom, top, color=colour, linewidth=width, zorder=0)
        ax.hlines(y, left, right, color=colour, linewidth=width, zorder=0)
    ax.set_facecolor(PAPER)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_aspect(0.4)  # 10 mm/mV over 25 mm/s: 0.2 s is as long as 0.5 mV is high
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _lead_name(ax, x, zero, name, colour, trace, fs):
    """Write a lead's name above its trace, as far left as no tall wave runs through it."""
    width = min(int(0.05 * np.ptp(ax.get_xlim()) * fs) + 1, len(trace))  # of a name, in samples
    highest = np.lib.stride_tricks.sliding_window_view(trace, width).max(axis=1)
    free = np.flatnonzero(highest < 0.6)
    x += (free[0] if len(free) else 0) / fs + 0.04
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    ax.text(x, zero + 0.7, name, color=colour, weight="bold", va="bottom", bbox=box, zorder=1)


def label_efficiency(frame, *, task=None, metric=None, methods=None, title=None, ax=None):
    """Draw a metric over the budget of labels, a line for each method, with 95 % intervals.

    frame: tidy table with the columns method, task, budget (fraction of the training patients,
        above 0, at most 1), seed, metric, value, low, high; rows with seed "all" are drawn.
    task, metric: which rows; may be left out where the frame holds one only.
    methods: names to draw, in this order; None draws all.
    Returns the matplotlib axes. Raises ValueError for a missing column, method or row.
    Explained in the chapter "Label efficiency".
    """
    rows = _summary_rows(frame, task, metric)
    methods = list(dict.fromkeys(rows["method"])) if methods is None else list(methods)
    absent = [method for method in methods if method not in set(rows["method"])]
    if absent:
        raise ValueError(
            f"methods: no summary rows for {absent}; the frame has {sorted(set(rows['method']))}"
        )
    new = [method for method in methods if method not in METHODS]
    looks = METHODS | {m: (m, *SPARE[k % len(SPARE)]) for k, m in enumerate(new)}

    figure = _figure(style()["figure.figsize"]) if ax is None else ax.figure
    with plt.rc_context(style()):
        ax = figure.add_subplot() if ax is None else ax
        ends = []
        for k, method in enumerate(methods):
            line = rows[rows["method"] == method].sort_values("budget")
            # Neighbouring methods stand a little apart, so that no interval hides another.
            x = 100 * line["budget"].to_numpy() * 1.025 ** (k - (len(methods) - 1) / 2)
            y, low, high = (line[c].to_numpy(float) for c in ("value", "low", "high"))
            label, colour, marker = looks[method]
            ax.vlines(x, low, high, color=colour, linewidth=1.6, alpha=0.55)
            ax.plot(x, y, **_marker(marker, colour))
            ends.append((y[-1], x[-1], label, colour, marker))
        _budget_axis(ax, 100 * rows["budget"])
        ax.set_ylabel(
            f"{rows['metric'].iloc[0].replace('_', ' ').replace('auc', 'AUC')} (95 % interval)"
        )
        ax.grid(axis="y")
        if title:
            ax.set_title(title)
        _direct_labels(ax, ends)
    return ax


def _summary_rows(frame, task, metric):
    """Return the rows with seed "all" of one task and one metric."""
    needed = ["method", "task", "budget", "seed", "metric", "value", "low", "high"]
    absent = [column for column in needed if column not in frame]
    if absent:
        raise ValueError(f"frame: columns {absent} missing; found {list(frame.columns)}")
    rows = frame[frame["seed"].astype(str) == "all"]
    for column, wanted in (("task", task), ("metric", metric)):
        found = sorted(rows[column].dropna().unique())
        if wanted is None and len(found) > 1:
            raise ValueError(f"{column}: the frame holds {found}; choose one with {column}=...")
        rows = rows if wanted is None else rows[rows[column] == wanted]
        if rows.empty:
            raise ValueError(
                f'{column}: no row with seed "all" and {column}={wanted!r}; found {found}'
            )
    twice = rows[rows.duplicated(["method", "budget"])]
    if len(twice):
        raise ValueError(
            f"frame: {twice['method'].iloc[0]!r} has two rows at one budget, expected one; draw "
            "one protocol (probe, fine-tuned) at a time, as frame[frame['protocol'] == 'probe']"
        )
    if not rows["budget"].between(0, 1, inclusive="right").all():
        raise ValueError("budget: found values outside (0, 1], expected fractions, as 0.1 for 10 %")
    return rows


def _budget_axis(ax, percent):
    """Make x a log axis of label budgets in %, labelled at the book's budgets."""
    ax.set_xscale("log")
    ticks = [t for t in BUDGET_TICKS if percent.min() * 0.99 <= t <= percent.max() * 1.01]
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for tick, label in zip(ticks, ax.get_xticklabels(), strict=True):
        label.set_horizontalalignment(
            {50: "right", 60: "left"}.get(tick, "center")
        )  # they would touch
    ax.set_xlabel("labelled training patients (%, log axis)")


def _direct_labels(ax, ends):
    """Name each line at its right end in its colour, pushed apart where names would overlap."""
    low, high = ax.get_ylim()
    spec = ax.get_subplotspec()
    rows = spec.get_gridspec().nrows if spec else 1  # of charts that share the figure's height
    gap = 0.065 * (high - low) * 4.2 * rows / ax.figure.get_figheight()
    ends = sorted(ends)
    places = np.array([end[0] for end in ends])
    for _ in range(200):  # relax: each pair that is too close moves apart by half of what lacks
        lack = np.clip(gap - np.diff(places), 0, None)
        if not lack.any():
            break
        places[:-1] -= lack / 2
        places[1:] += lack / 2
    places -= max(places[-1] - high, 0)  # stay below the title
    beside = ax.get_yaxis_transform()  # x in parts of the axes' width, y in data
    for place, (y, x, name, colour, marker) in zip(places, ends, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        ax.annotate(
            "", (x, y), (1.03, place), textcoords=beside, arrowprops=line, annotation_clip=False
        )
        ax.plot(1.03, place, transform=beside, clip_on=False, **_marker(marker, colour))
        ax.text(1.055, place, name, transform=beside, color=colour, va="center", weight="bold")


def _marker(marker, colour):
    return {"marker": marker, "color": colour, "markersize": 8, "markeredgecolor": "white"}


def vector_loop(xyz, *, colour=BLUE, arrows=6, title=None, axes=None):
    """Draw the path of the heart vector in the frontal, transverse and sagittal planes.

    xyz: (3, time) in mV; x to the patient's left, y to the feet, z to the back (Frank's axes).
    arrows: how many arrowheads, even along the path, show the direction of time.
    axes: three matplotlib axes to draw on; None makes them.
    Returns the three axes. Raises ValueError for a wrong shape.
    Source: Frank, 1956, for the axes. Explained in the chapter "3KG".
    """
    xyz = np.asarray(xyz, dtype=float)
    if xyz.ndim != 2 or xyz.shape[0] != 3 or xyz.shape[1] < 3:
        raise ValueError(
            f"xyz: found shape {xyz.shape}, expected (3, time) with at least 3 samples"
        )
    reach = 1.1 * max(np.nanmax(np.abs(xyz)), 0.1)
    figure = _figure((7.5, 3.1)) if axes is None else axes[0].figure
    with plt.rc_context(style()):
        axes = figure.subplots(1, 3) if axes is None else axes
        for ax, (name, seen, (across, across_text), (up, up_text)) in zip(
            axes, PLANES, strict=True
        ):
            ax.axhline(0, color="#cccccc", linewidth=1)
            ax.axvline(0, color="#cccccc", linewidth=1)
            ax.plot(xyz[across], xyz[up], color=colour)
            ax.plot(0, 0, marker="+", color=INK)
            _arrowheads(ax, xyz[across], xyz[up], arrows, colour)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            if up == 1:
                ax.invert_yaxis()  # y grows to the feet, and feet are down
            ax.set_title(f"{name}\n{seen}", fontsize=12)
            ax.set_xlabel(f"{across_text} → (mV)")
            ax.set_ylabel(f"← {up_text} (mV)" if up == 1 else f"{up_text} → (mV)")
        if title:
            figure.suptitle(title, x=0.02, ha="left")
    return axes


def _arrowheads(ax, x, y, n, colour):
    """Put `n` arrowheads at equal steps along the path, where it moves."""
    travelled = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    if not travelled[-1] > 0:  # a flat record, or NaN: no path to point along
        return
    for step in (np.arange(n) + 0.5) / n * travelled[-1]:
        i = min(max(np.searchsorted(travelled, step), 1), len(x) - 1)
        ax.annotate(
            "",
            (x[i], y[i]),
            (x[i - 1], y[i - 1]),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 0, "mutation_scale": 15},
        )


def ventricle_map(true, predicted=None, *, title=None, ax=None):
    """Draw origins of beats on the ventricles laid flat, true against predicted.

    The left ventricle is the polar map of 17 segments: apex in the middle, base at the rim, septum
    to the left, front wall up. The right one is unfolded over the rim of the septum like a page:
    its base, with the outflow tract, lies beside that of the left, its apex far left. A site stands
    at the nearest node of the wall; sites at one node stand side by side.

    true, predicted: (record, 3) mm, heart coordinates, as `site_x`, `site_y`, `site_z` of the
        cohort "simulated-vt"; a line joins the two sites of a record. None draws true ones only.
    Returns the matplotlib axes. Raises ValueError for wrong shapes and for NaN.
    Segments: Cerqueira et al. 2002. Explained in the chapter "Where a tachycardia begins".
    """
    sites = {"true": true} if predicted is None else {"true": true, "predicted": predicted}
    places = {name: _on_map(name, values) for name, values in sites.items()}
    if len({len(place) for place in places.values()}) > 1:
        raise ValueError(
            f"predicted: found {len(predicted)} sites for {len(true)} true ones, expected as many"
        )
    figure = _figure((7.0, 7.6)) if ax is None else ax.figure
    with plt.rc_context(style()):
        ax = figure.add_subplot() if ax is None else ax
        for right in (False, True):
            _regions(ax, right)
        if predicted is not None:
            both = np.stack([places["true"], places["predicted"]])  # (end, record, 2)
            ax.plot(*both.transpose(2, 0, 1), color=INK, linewidth=0.6, alpha=0.45, zorder=2)
        looks = {"true": ("o", BLUE), "predicted": ("X", VERMILLION)}
        for name, place in places.items():
            marker, colour = looks[name]
            ax.scatter(*place.T, s=42, marker=marker, color=colour, edgecolor="white",
                       linewidth=0.6, label=f"{name} site", zorder=3)  # fmt: skip
        ax.set_aspect("equal")
        ax.axis("off")
        ax.legend(loc="lower right", borderaxespad=0, handletextpad=0.2)
        if title:
            ax.set_title(title)
    return ax


_RIM, _LOW = 106.0, 18.0  # degrees from the apex: where the map of a wall ends


def _flat(polar, azimuth, right):
    """Where a place of the wall lies on the map, (..., 2); the left ventricle's radius is 1."""
    radius = np.where(right, 1.05 + 0.44 * (_RIM - polar) / (_RIM - _LOW), polar / _RIM)
    angle = np.radians(azimuth)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _on_map(name, sites):
    """Places on the map of sites in mm, those at one node spread around it: (record, 2)."""
    from .heart.ventricles import ventricles

    sites = np.asarray(sites, dtype=float)
    if sites.ndim != 2 or sites.shape[1] != 3 or not np.isfinite(sites).all():
        raise ValueError(f"{name}: found shape {sites.shape}, expected (record, 3) mm without NaN")
    tissue = ventricles()
    node = np.array([np.linalg.norm(tissue.position - s, axis=1).argmin() for s in sites], int)
    place = _flat(tissue.polar, tissue.azimuth, tissue.right)[node]
    # The endocardium lies under the epicardium: both are one place of the map.
    same = np.array([(np.abs(place[:i] - p) < 1e-6).all(axis=1).sum() for i, p in enumerate(place)])
    angle = 2.4 * same  # the golden angle, rad: any number of them fills a disc
    return place + 0.028 * np.sqrt(same)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _regions(ax, right):
    """Draw the regions of one ventricle with their names."""
    from .heart.ventricles import SEGMENTS, _segments

    reach = (112, 248) if right else (0, 360)
    polar, azimuth = np.meshgrid(np.linspace(_LOW if right else 0, _RIM, 221),
                                 np.linspace(*reach, 541))  # fmt: skip
    nodes = {"polar": polar, "azimuth": azimuth, "right": np.full(polar.shape, right)}
    region, place = _segments(nodes), _flat(polar, azimuth, right)
    for edge in (place[:, 0], place[:, -1], *((place[0], place[-1]) if right else ())):
        ax.plot(*edge.T, color=GREY, linewidth=1, zorder=1)
    for number in np.unique(region):
        mine, name = region == number, SEGMENTS[number]
        ax.contour(*place.T.swapaxes(1, 2), mine, [0.5], colors=GREY, linewidths=1, zorder=1)
        if name == "RV septal insertion":  # on both edges of the septum: named on the lower one
            mine &= azimuth > 180
        middle = np.exp(1j * np.radians(azimuth[mine])).mean()  # of a whole circle it is 0
        angle = np.degrees(np.angle(middle))
        along = right or name == "LVOT"  # too narrow for words across
        ax.text(
            *_flat(polar[mine].mean() if abs(middle) > 0.1 else 0, angle, right),
            name.replace("RV septal ", "RV septal\n") if along else name.replace(" ", "\n"),
            rotation=(angle - 20) % 180 - 70 if along else 0,  # read from the left or below
            ha="center", va="center", fontsize=10.5, linespacing=1.05, color=INK, zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
