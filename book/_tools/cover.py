"""Draw the book's one figure, for the landing page and the README, from ``results/``.

    python book/_tools/cover.py        # writes book/_static/label-efficiency.png
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from ecgtutorial import plots, runs

OUT = Path(__file__).resolve().parents[1] / "_static" / "label-efficiency.png"


def main():
    table, how = runs.load_results("ptb-xl", "label-efficiency")
    rows = table[(table["seed"] == "all") & (table["metric"] == "macro_auc")]
    rows = rows[(rows["protocol"] == "fine-tuned") | (rows["method"] == "random")]
    with plt.rc_context(plots.style()):
        axis = plots.label_efficiency(rows, title="Pre-trained, then fine-tuned with few labels")
        axis.set_ylabel("superclass macro AUC, PTB-XL fold 10")
        axis.set_xlabel(f"labelled patients (% of {how['n_train_patients']:,})")
        axis.figure.savefig(OUT, dpi=200)
    print(OUT)


if __name__ == "__main__":
    main()
