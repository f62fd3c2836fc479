"""Draw the book's one figure, for the landing page and the README, from ``results/``.

    python book/_tools/cover.py        # writes book/_static/label-efficiency.png
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from ecgtutorial import plots, runs

OUT = Path(__file__).resolve().parents[1] / "_static" / "label-efficiency.png"
LOOKS = {  # label, colour, marker
    "simclr": ("SimCLR", plots.BLUE, "o"),
    "byol": ("BYOL", plots.GREEN, "D"),
    "swav": ("SwAV", plots.PURPLE, "P"),
    "spatio-temporal": ("space and time", plots.SKY, "h"),
    "cpc": ("CPC", plots.VERMILLION, ">"),
    "w2v+cmsc+rlm": ("W2V+CMSC+RLM", plots.ORANGE, "v"),
    "3kg-l": ("3KG-L", plots.GREY, "^"),
}
NETWORKS = {"cpc": "convolutions, LSTM", "single-lead": "a CNN for each lead"}
MARKS = {"markersize": 8, "markeredgecolor": "white", "linewidth": 1.8}
LARGE = {"font.size": 14, "axes.labelsize": 14, "xtick.labelsize": 14, "ytick.labelsize": 14}
TICKS = (1, 2, 5, 10, 25, 50, 100)  # % of the training patients; 60 lies too close to 50


def main():
    table, how = runs.load_results("ptb-xl", "label-efficiency-all")
    rows = table[(table["seed"] == "all") & (table["protocol"] == "fine-tuned")]
    rows = rows[rows["budget"].mul(100).round().isin(TICKS)]
    with plt.rc_context(plots.style() | LARGE):
        figure, axes = plt.subplots(
            2, 1, figsize=(7, 8.4), height_ratios=[1.15, 1], sharex=True, layout="constrained"
        )
        curves(axes[0], rows)
        gains(axes[1], rows)
        axes[1].set_xlabel(f"labelled patients (% of {how['n_train_patients']:,})")
        figure.savefig(OUT, dpi=200)
    print(OUT)


def curves(axis, rows):
    """The macro AUC of every method, and of the best network from scratch with its interval."""
    auc = rows[rows["metric"] == "macro_auc"]
    scratch = auc[auc["method"].str.startswith("random-")]
    best = scratch.groupby("method")["value"].mean().idxmax()
    for method, (_, colour, marker) in LOOKS.items():
        line = auc[auc["method"] == method].sort_values("budget")
        axis.plot(100 * line["budget"], line["value"], marker=marker, color=colour, **MARKS)
    line = scratch[scratch["method"] == best].sort_values("budget")
    x = 100 * line["budget"]
    axis.fill_between(x, line["low"], line["high"], color="black", alpha=0.1, linewidth=0)
    axis.plot(x, line["value"], color="black", linewidth=2.6)
    name = best.removeprefix("random-")
    text = f"black: from scratch, best network\n({NETWORKS.get(name, name)})"
    axis.text(0.98, 0.06, text, transform=axis.transAxes, ha="right")
    axis.set_title("Fine-tuned on real ECG: superclass macro AUC")
    axis.grid(axis="y")


def gains(axis, rows):
    """What each method adds to its own network from scratch, in points, with intervals."""
    gain = rows[rows["metric"] == "macro_auc_gain"]
    there = [method for method in LOOKS if method in set(gain["method"])]
    for k, method in enumerate(there):
        label, colour, marker = LOOKS[method]
        line = gain[gain["method"] == method].sort_values("budget")
        x = 100 * line["budget"] * 1.05 ** (k - (len(there) - 1) / 2)  # intervals side by side
        axis.vlines(x, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.35)
        axis.plot(x, 100 * line["value"], marker=marker, color=colour, label=label, **MARKS)
    axis.axhline(0, color="black", linewidth=2.6)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, TICKS)
    axis.minorticks_off()
    axis.set_title("Gain over the same network from scratch (points)")
    axis.grid(axis="y")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1)


if __name__ == "__main__":
    main()
