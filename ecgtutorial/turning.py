"""The path of the heart vector as a figure that the reader turns in the page.

plotly.js draws it: on the book's pages the copy that lies in the site, elsewhere (Colab, Jupyter)
the same file from a public server. Until it is there, without WebGL and on paper a picture stands
in its place.
"""

import base64
import html
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from .plots import INK, style

# book/_vendor/plotly holds the same file; a test compares the hash.
PLOTLY = "https://cdn.jsdelivr.net/npm/plotly.js-gl3d-dist-min@4.1.1/plotly-gl3d.min.js"
PLOTLY_HASH = "sha384-6hbxN8DqA6n4AEKaxBT8U+Tq1DRCavyWRGOiglCEu+DXgmgq53+4IRgsPmAuQnLn"
VIEWS = {"from the front": (0, 0), "from the left": (90, 0), "from above": (0, 89)}  # degrees
TURNS = {"← turn": (-15, 0), "turn →": (15, 0), "↑ raise": (0, 15), "↓ lower": (0, -15)}
CSS = """.turning {background: #fff; border-radius: 6px; color: #111; padding: 8px;
  text-align: center}
.turning b {font-size: 1.3rem; margin: 0 0.5em}
.turning-plot, .turning-buttons {display: none}
.turning > img {max-width: 100%}
.turning button {background: #fff; border: 1px solid #767676; border-radius: 4px; color: #111;
  cursor: pointer; font: inherit; margin: 2px; min-height: 28px; padding: 2px 8px}
@media screen {
  .turning[data-live] > img {display: none}
  .turning[data-live] .turning-plot {display: block; height: min(26rem, 80vw)}
  .turning[data-live] .turning-buttons {display: block; padding: 4px}
}"""


def turning_loop(paths, directions=None, *, alt, view=(26, 14)):
    """Return a path of the heart vector that can be turned by hand, for a cell's last line.

    paths: {name: (xyz, colour)} with xyz (3, time) in mV; x to the patient's left, y to the feet, z
        to the back (Frank's axes).
    directions: {name: (3,)} arrows to draw from the origin, as those in which leads look.
    alt: what the figure shows, in words, for a reader who does not see it.
    view: degrees from the patient's front to the left, and upwards, from which one looks first.
    Returns an `IPython.display.HTML`. Raises ValueError for a wrong shape.
    Source: Frank, 1956, for the axes. Explained in the chapter "The heart vector".
    """
    from IPython.display import HTML

    paths = {name: (np.asarray(xyz, float), colour) for name, (xyz, colour) in paths.items()}
    directions = {name: np.asarray(tip, float) for name, tip in (directions or {}).items()}
    for name, (xyz, _) in paths.items():
        if xyz.ndim != 2 or len(xyz) != 3 or not np.isfinite(xyz).all():
            raise ValueError(
                f"paths: {name!r} has shape {xyz.shape}; expected (3, time) in mV without NaN"
            )
    for name, tip in directions.items():
        if tip.shape != (3,):
            raise ValueError(f"directions: {name!r} has shape {tip.shape}; expected (3,)")
    data = {
        "paths": [(n, np.round(xyz, 3).tolist(), colour) for n, (xyz, colour) in paths.items()],
        "directions": [(name, np.round(tip, 3).tolist()) for name, tip in directions.items()],
        "view": view,
        "alt": alt,
    }
    buttons = {text: f"by {a} {b}" for text, (a, b) in TURNS.items()}
    buttons |= {text: f"to {a} {b}" for text, (a, b) in VIEWS.items()}
    names = "".join(f'<b style="color: {c}">{html.escape(n)}</b>' for n, (_, c) in paths.items())
    script = Path(__file__).with_name("turning.js").read_text(encoding="utf-8")
    script = script.replace("PLOTLY_ADDRESS", PLOTLY).replace("PLOTLY_HASH", PLOTLY_HASH)
    return HTML(
        f'<div class="turning" data-loop="{html.escape(json.dumps(data))}"><style>{CSS}</style>'
        f"<div>{names}</div>"
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{_picture(data)}">'
        '<div class="turning-plot"></div><div class="turning-buttons">'
        + "".join(
            f'<button type="button" data-turn="{turn}">{text}</button>'
            for text, turn in buttons.items()
        )
        + f"</div></div><script>{script}</script>"
    )


def _picture(data):
    """The loop seen from `view` as a PNG in base64."""
    with plt.rc_context(style()):
        figure = plt.Figure((6.0, 4.6), dpi=110)  # no window, and not shown twice
        space = figure.add_axes((0, 0, 1, 1), projection="3d", computed_zorder=False)
    axes = zip(("left", "feet", "back"), 1.2 * np.eye(3), strict=True)
    rays = [(name, tip, "#767676", 1, 11) for name, tip in axes]
    rays += [(name, tip, INK, 1.6, 13) for name, tip in data["directions"]]
    for name, (left, down, back), colour, width, size in rays:
        space.plot([0, left], [0, back], [0, -down], color=colour, linewidth=width)
        space.text(1.1 * left, 1.1 * back, -1.1 * down, name, color=colour, fontsize=size)
    for _, (left, down, back), colour in data["paths"]:
        space.plot(left, back, -np.asarray(down), color=colour, linewidth=3)
    points = [np.array(xyz).T for _, xyz, _ in data["paths"]] + [[tip] for _, tip, *_ in rays]
    corners = np.concatenate(points)[:, [0, 2, 1]] * [1, 1, -1]
    middle, half = (corners.max(0) + corners.min(0)) / 2, np.ptp(corners, axis=0).max() / 2
    space.set(**{f"{a}lim": (m - half, m + half) for a, m in zip("xyz", middle, strict=True)})
    space.set_box_aspect((1, 1, 1), zoom=1.3)
    space.view_init(elev=data["view"][1], azim=data["view"][0] - 90)
    space.set_axis_off()
    png = io.BytesIO()
    with plt.rc_context({"savefig.bbox": None}):
        figure.savefig(png, format="png", metadata={"Software": None})
    return base64.b64encode(png.getvalue()).decode()
