"""The ledger: what four papers claim, the rule that tests each claim, and what came out.

    python -m ecgtutorial.claims

writes ``results/claims.csv`` from the tables beside it. Every rule has one form. A *part* is a
weighted sum of cells of one result table, such as one method less another, or half its labels less
all. Its 95 % interval comes from bootstrap resamples over test patients, pre-training seeds and
draws of labels, the same for all its cells. A part is *reproduced* if the whole interval lies above
the margin, *not reproduced* if the whole interval lies below it, else *open*. A claim with several
parts is reproduced if all of them are, and not reproduced if one of them is not: the worst part
decides. A part whose cells the table does not hold counts as open, so that a claim can fail without
it but not be reproduced. A claim without a single part in the table is *not testable here*.

Three margins cover all claims. One of order ("beats", "most", "strongest") asks for a difference
above 0. One of size ("+1.3 points") asks for at least half of the size. One of equality ("as good
as") allows a loss of half of what the same paper counts as a gain.

Explained in the chapter *The ledger of claims*.
"""

import argparse
import functools
import os
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import experiments, runs
from .evaluate.label_efficiency import _resample, scored_classes
from .metrics import bootstrap_macro_auc, interval, patient_weights

REPRODUCED, NOT, OPEN, UNTESTABLE = "reproduced", "not reproduced", "open", "not testable here"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper and the rule that tests it; fixed before the runs that decide it.

    `paper_value`: what the paper reports on the scale of the rule, None where it could not be read;
    `source`: where. `tables`: cohort -> experiment in ``results/<cohort>/``, or, in brackets, why
    the cohort cannot test it. `parts`: name -> terms ``(weight, cell)``; a cell is a dictionary of
    columns of the table. `relative`: a part is the sum of its positive terms over that of its
    negative ones, less 1. `rule_first`: cohort -> ``"no"`` where the table stood before the rule,
    ``"partly"`` where seeds or methods were added later; a cohort not named: ``"yes"``.
    """

    name: str
    paper: str
    statement: str
    paper_value: float | None
    source: str
    tables: dict
    metric: str
    parts: dict
    rule: str
    margin: float = 0.0
    relative: bool = False
    rule_first: dict = field(default_factory=dict)


def less(method, other, protocol="fine-tuned", other_protocol=None, **where):
    """Terms of one method less another, in the same place of the table."""
    theirs = {"method": other, "protocol": other_protocol or protocol}
    return ((1, {"method": method, "protocol": protocol} | where), (-1, theirs | where))


def scaled(weight, terms):
    """The same terms, each so many times."""
    return tuple((weight * w, cell) for w, cell in terms)


def mean_over(column, values, terms):
    """The mean of `terms` over several values of a column: lead sets, budgets, noise levels."""
    return tuple((w / len(values), cell | {column: v}) for v in values for w, cell in terms)


_A, _B, _C = "A (Oh et al. 2022)", "B (Mehari and Strodthoff 2022)", "C (Ran and Liu 2024)"
_D = "D (Gopal et al. 2021)"
_BOTH = ("ptb-xl", "simulated")
_AFTER = {"ptb-xl": "no"}  # the table on real records stood before the rule
_FULL = "w2v+cmsc+rlm"  # local, global and random lead masking: all of paper A
_MASKING = ("w2v+cmsc+rlm", "w2v+cmsc")
_ALL_STATEMENTS = {"ptb-xl": "linear-evaluation-all", "simulated": "linear-evaluation"}
_TOGETHER = "rotate 45, scale 1.5, mask"
_ONE_KIND = (
    "nothing", "mask", "rotate 5", "rotate 10", "rotate 25", "rotate 45", "scale 1.05", "scale 1.1",
    "scale 1.5", "scale 2", "rotate 45, scale 1.5",
)  # fmt: skip
_GROUPS = ("single-lead waveform", "multi-lead waveform")


def _gain_at(leads):
    return less(*_MASKING, leads=leads)


def _group_gain(group):
    return less("3kg-l", "supervised", "probe", "fine-tuned", budget=0.01, statement=group)


CLAIMS = (
    Claim(
        "A1", _A, "Local and global learning together beat either alone in diagnosis.",
        0.014, "table 1 (.732) less table 3 (.718 with W2V, .697 with CMSC), 12 leads",
        {c: "any-lead" for c in _BOTH}, "challenge_score",
        {f"over {one}": less(_FULL, f"{one}+rlm", leads=12) for one in ("w2v", "cmsc")},
        "W2V+CMSC less W2V, and less CMSC, all three with random lead masking so that only the "
        "losses differ; fine-tuned, 12 leads, Challenge score. Both differences must be above 0.",
        rule_first=_AFTER,
    ),
    Claim(
        "A2", _A, "The full method is best at patient identification, and CMSC beats W2V there.",
        0.012, "tables 1 and 3: .577, the next best (CMSC+RLM) .565; CMSC .513, W2V .492; 12 leads",
        {c: "identification" for c in _BOTH}, "top1",
        {f"over {one}": less(_FULL, one, leads=12)
         for one in ("random", "w2v", "cmsc", "3kg", "simclr+rlm", "w2v+cmsc", "w2v+rlm",
                     "cmsc+rlm")}
        | {"cmsc over w2v": less("cmsc", "w2v", leads=12)},
        "Top-1 with 12 leads after training on identities. The full method less each of the eight "
        "others, and CMSC less W2V: all nine differences must be above 0.",
        rule_first=_AFTER,
    ),
    Claim(
        "A3", _A, "Random lead masking gains most with one lead.",
        0.025, "table 1: gain .072 with one lead, .047 in the mean of 12, 6, 3 and 2 leads",
        {c: "any-lead" for c in _BOTH}, "challenge_score",
        {"gain with one lead": _gain_at(1),
         "above the mean gain with more": _gain_at(1)
         + scaled(-1, mean_over("leads", (12, 6, 3, 2), less(*_MASKING)))},
        "The gain is W2V+CMSC with random lead masking less the same without; fine-tuned, "
        "Challenge score. With one lead it must be above 0, and above the mean gain with 12, 6, 3 "
        "and 2 leads. (Not above each of them: the paper's own gains with one and two leads, .072 "
        "and .070, cannot be told apart.)",
        rule_first=_AFTER,
    ),
    Claim(
        "A4", _A, "Three leads (I, II, V2) beat the six limb leads.",
        0.052, "table 1: .714 with three leads, .662 with six",
        {c: "any-lead" for c in _BOTH}, "challenge_score",
        {"3 less 6": ((1, {"method": _FULL, "protocol": "fine-tuned", "leads": 3}),
                      (-1, {"method": _FULL, "protocol": "fine-tuned", "leads": 6}))},
        "The full method, fine-tuned, Challenge score: with I, II and V2 less with the six limb "
        "leads. The difference must be above 0.",
        rule_first=_AFTER,
    ),
    Claim(
        "B1", _B, "A linear probe on CPC is within 0.5 points of the same network supervised.",
        -0.005, "abstract; .927 and .932 as quoted by others", _ALL_STATEMENTS, "macro_auc",
        {"probe less supervised":
         less("cpc", "supervised-cpc", "probe", "fine-tuned", budget=1.0)},
        "CPC's probe less its network trained from scratch, all labels, macro AUC over all "
        "statements (simulated hearts: over superclasses). It must not be more than 0.005 below.",
        margin=-0.005, rule_first={"ptb-xl": "no", "simulated": "no"},
    ),
    Claim(
        "B2", _B, "Fine-tuning after CPC gains about 1 point over training from scratch.",
        0.010, "abstract; .942 and .932 as quoted by others", _ALL_STATEMENTS, "macro_auc",
        {"fine-tuned less supervised": less("cpc", "supervised-cpc", budget=1.0)},
        "Fine-tuned CPC less its network trained from scratch, all labels, macro AUC over all "
        "statements (simulated hearts: over superclasses). The gain must be above 0.005, half of "
        "what the paper reports.",
        margin=0.005, rule_first={"ptb-xl": "no", "simulated": "no"},
    ),
    Claim(
        "B3", _B, "Pre-training needs fewer labels.",
        None, "abstract; its curve could not be read",
        {c: "label-efficiency-all" for c in _BOTH}, "macro_auc",
        {"half less all": ((1, {"method": "cpc", "protocol": "fine-tuned", "budget": 0.5}),
                           (-1, {"method": "random-cpc", "protocol": "fine-tuned",
                                 "budget": 1.0}))},
        "CPC fine-tuned with half of the labels less its network trained from scratch with all of "
        "them, macro AUC over superclasses. It must not be more than 0.005 below, half of what the "
        "paper counts as a gain. (That it is half of the labels is our choice.)",
        margin=-0.005, rule_first={"ptb-xl": "no"},
    ),
    Claim(
        "B4", _B, "Pre-training makes a network more robust to physiological noise.",
        None, "abstract; its curve could not be read",
        {c: "noise-robustness" for c in _BOTH}, "macro_auc",
        {"smaller loss": less("supervised-cpc", "cpc", budget=1.0, noise=0)
         + mean_over("noise", (1, 2, 3, 4, 5, 6), less("cpc", "supervised-cpc", budget=1.0))},
        "What noise costs the network from scratch less what it costs fine-tuned CPC: macro AUC "
        "over superclasses on clean records less the mean over the six noise levels. The "
        "difference must be above 0. (Being ahead on clean records does not count.)",
        rule_first={"ptb-xl": "no", "simulated": "no"},
    ),
    Claim(
        "B5", _B, "A linear probe on CPC beats one on SimCLR and one on BYOL.",
        0.044, ".927 against .883 (SimCLR) and .878 (BYOL), as quoted by others", _ALL_STATEMENTS,
        "macro_auc",
        {f"over {one}": less("cpc", one, "probe", budget=1.0) for one in ("simclr", "byol")},
        "CPC's probe less that of SimCLR, and less that of BYOL, all labels, macro AUC over all "
        "statements (simulated hearts: over superclasses). Both differences must be above 0.",
        rule_first={"ptb-xl": "no", "simulated": "no"},
    ),
    Claim(
        "C1", _C, "With 60 % of the labels the method equals full supervision.",
        0.0, "abstract", {c: "spatio-temporal" for c in _BOTH}, "exact_match",
        {"60 % less all": ((1, {"method": "spatio-temporal", "protocol": "fine-tuned",
                                "budget": 0.6}),
                           (-1, {"method": "random", "protocol": "fine-tuned", "budget": 1.0}))},
        "Fine-tuned with 60 % of the labels less the network from scratch with all of them, "
        "accuracy of whole records (our reading). It must not be more than 0.0065 below, half of "
        "what the paper counts as a gain.",
        margin=-0.0065, rule_first=_AFTER,
    ),
    Claim(
        "C2", _C, "Pre-training gains 1.3 points in the classification of arrhythmias.",
        0.013, "abstract", {c: "spatio-temporal" for c in _BOTH}, "exact_match",
        {"gain": less("spatio-temporal", "random", budget=1.0)},
        "Fine-tuned with all labels less the network from scratch with all labels, accuracy of "
        "whole records (our reading). The gain must be above 0.0065, half of what the paper "
        "reports.",
        margin=0.0065, rule_first=_AFTER,
    ),
    Claim(
        "C3", _C, "Pre-training gains 8.6 points in finding where a tachycardia begins.",
        0.086, "abstract",
        {"ptb-xl": "(no record says where a beat began)", "simulated-vt": "ventricular-origin"},
        "region_accuracy",
        {"gain": less("spatio-temporal", "random", budget=0.25)},
        "Fine-tuned with the most labelled patients in the table (400, a quarter) less the network "
        "from scratch with as many, accuracy of the region. The gain must be above 0.043, half of "
        "what the paper reports.",
        margin=0.043, rule_first={"simulated-vt": "no"},
    ),
    Claim(
        "D1", _D, "At 1 % of the labels 3KG beats the best other method by 9.1 % relative.",
        0.091, "table 2: .826 against .757 (PCLR), macro AUC",
        {c: "subgroups" for c in _BOTH}, "macro_auc",
        {f"over {one}": less("3kg-l", one, "probe", budget=0.01)
         for one in ("simclr", "cmsc", "cmlc", "cmsmlc", "patients")},
        "Probe at 1 % of the labels, macro AUC of 3KG over that of each other method of table 2 "
        "that learns on the same network (SimCLR, CMSC, CMLC, CMSMLC, PCLR), less 1. Each must be "
        "above 0.0455, half of what the paper reports.",
        margin=0.0455, relative=True, rule_first={"ptb-xl": "partly"},
    ),
    Claim(
        "D2", _D, "Spatial and temporal augmentation together are strongest.",
        0.005, "table 1: .812, .869, .883 against .807, .861, .881, the best with one kind alone",
        {c: "augmentation-grid" for c in _BOTH}, "macro_auc",
        {f"over {one}": mean_over("budget", (0.01, 0.1, 1.0), less(_TOGETHER, one, "probe"))
         for one in _ONE_KIND},
        "Probe, macro AUC, mean over 1, 10 and 100 % of the labels: rotation, scaling and mask "
        "together less each row of table 1 with only one kind of augmentation, less the mask alone "
        "and less none. Each of the eleven differences must be above 0.",
        rule_first=_AFTER,
    ),
    Claim(
        "D3", _D, "Disorders of conduction and rhythm gain most.",
        0.05, "figure 2, by eye: .22 and .17 against .12 and .04 (waveforms)",
        {c: "subgroups" for c in _BOTH}, "auc",
        {f"{one} over {other}": _group_gain(one) + scaled(-1, _group_gain(other))
         for one in ("conduction", "rhythm") for other in _GROUPS},
        "The gain is 3KG's probe less supervised training at 1 % of the labels, mean AUC of a "
        "group. Those of conduction and of rhythm less those of waveforms in one lead and in "
        "several: all four differences must be above 0.",
        rule_first={"ptb-xl": "no"},
    ),
    Claim(
        "D4", _D, "With all labels supervised training still wins over the probe.",
        0.008, "table 2: .898 against .890",
        {c: "subgroups" for c in _BOTH}, "macro_auc",
        {"supervised less probe": less("supervised", "3kg-l", "fine-tuned", "probe", budget=1.0)},
        "Supervised training less 3KG's probe, all labels, macro AUC. The difference must be above "
        "0.",
        rule_first={"ptb-xl": "no"},
    ),
)  # fmt: skip


def verdict(low, high, margin):
    """What an interval says about a margin: reproduced above it, not reproduced below, else open.

    Raises ``ValueError`` where there is no interval or its ends are the wrong way round.
    Chapter: *The ledger of claims*.
    """
    if not low <= high:
        raise ValueError(f"an interval from {low} to {high}: expected two numbers, low <= high")
    return REPRODUCED if low > margin else NOT if high < margin else OPEN


def contrast(weights, values, draws, relative=False):
    """A weighted sum of cells with its 95 % interval: (value, low, high).

    `weights`, `values`: (cell,); `draws`: (cell, resample), of the same resamples for all cells.
    `relative`: cells with positive weights over those with negative ones, less 1.
    Chapter: *The ledger of claims*.
    """
    weights = np.asarray(weights, dtype=float)
    all_cells = np.column_stack([values, draws])  # (cell, 1 + resample)
    above, below = np.maximum(weights, 0) @ all_cells, np.maximum(-weights, 0) @ all_cells
    difference = above / below - 1 if relative else above - below  # (1 + resample,)
    return float(difference[0]), *interval(difference[1:])


def ledger(cohorts=None, data=None):
    """Every claim on every cohort, computed again from the result tables: a row each.

    `cohorts`: the names of those wanted (default: all); `data`: folder of PTB-XL, asked for where a
    table holds ranks, whose AUC needs the labels (default: ``ECGTUTORIAL_DATA``, else downloaded).
    Returns a data frame: the claim and its rule; ``value``, ``low`` and ``high`` of the part that
    decides, named in ``part``; ``verdict``; ``parts``, how many of all are reproduced; ``why``, if
    the claim is open or cannot be tested; and the hashes of the cells in ``table`` that were used.
    Chapter: *The ledger of claims*.
    """
    tables = {}
    rows = [
        decide(claim, cohort, data, tables)
        for claim in CLAIMS
        for cohort in claim.tables
        if cohorts is None or cohort in cohorts
    ]
    return pd.DataFrame(rows)


def decide(claim, cohort, data=None, tables=None):
    """The row of one claim on one cohort: a dictionary with the columns of the ledger.

    Change a claim with `dataclasses.replace` and see whether its verdict hangs on the metric or the
    budget. `data`: as in `ledger`; `tables`: those read so far, by path, to be used again.
    Chapter: *The ledger of claims*.
    """
    tables = {} if tables is None else tables
    experiment = claim.tables[cohort]
    path = f"results/{cohort}/{experiment}.csv"
    row = {
        "claim": claim.name, "paper": claim.paper, "statement": claim.statement,
        "paper_value": claim.paper_value, "cohort": cohort, "value": np.nan, "low": np.nan,
        "high": np.nan, "rule": claim.rule, "verdict": UNTESTABLE, "metric": claim.metric,
        "margin": claim.margin, "rule_first": claim.rule_first.get(cohort, "yes"),
        "part": None, "parts": None, "why": None, "seeds": None, "table": None, "cells": None,
        "source": claim.source,
    }  # fmt: skip
    if experiment.startswith("("):
        return row | {"why": experiment.strip("()")}
    if not (runs.results_folder() / cohort / f"{experiment}.csv").exists():
        return row | {"why": f"the experiment {experiment} was not run on this cohort"}
    if path not in tables:
        tables[path] = _Cells(cohort, experiment, data)
    table = tables[path]
    found = {name: table.part(terms, claim) for name, terms in claim.parts.items()}
    there = {name: one for name, one in found.items() if one}
    if not there:
        return row | {"why": f"none of its cells is in {path}"}
    return row | _decided(there, sorted(found.keys() - there.keys()), table.sizes) | {"table": path}


def _decided(there, missing, sizes):
    """What the parts of a claim come to: {part: its row} -> columns of the ledger."""
    worst = {NOT: 0, OPEN: 1, REPRODUCED: 2}
    name = min(there, key=lambda n: (worst[there[n]["verdict"]], there[n]["value"]))
    part, why = there[name], None
    good = sum(one["verdict"] == REPRODUCED for one in there.values())
    if part["verdict"] == OPEN:
        why = f"the interval of the difference holds the margin: {sizes}, seeds: {part['seeds']}"
    if missing and part["verdict"] == REPRODUCED:
        part = part | {"verdict": OPEN}
    if missing:
        why = "; ".join(filter(None, [why, f"not in the table: {', '.join(missing)}"]))
    parts = f"{good} of {len(there) + len(missing)}"
    return part | {"part": name, "parts": parts, "why": why}


class _Cells:
    """The cells of a result table, and the bootstrap values of each."""

    def __init__(self, cohort, experiment, data=None):
        self.table = runs.Table(runs.results_folder() / cohort / f"{experiment}.csv")
        self.how = runs.load_provenance(self.table.path)
        self.origin = experiment, cohort, data
        tested = "identified" if experiment == "identification" else "test"
        self.sizes = f"{self.how.get(f'n_{tested}_patients')} test patients"
        cells = self.table.read().drop_duplicates(["config", "metric", "statement"])
        self.cells = cells[cells["seed"] != "all"]
        self.samples = self.table.samples()

    def part(self, terms, claim):
        """Value, interval and verdict of one part of a claim; None where a cell is missing.

        All cells count the same seeds and, in the same place, the same subsets: they are paired.
        """
        cells = self.cells[self.cells["metric"] == claim.metric]
        frames = [cells[_matches(cells, where)] for _, where in terms]
        seeds = set.intersection(*(set(frame["seed"]) for frame in frames))
        if not seeds:
            return None
        places = [(where.get("budget"), where.get("noise")) for _, where in terms]
        order = list(dict.fromkeys(places))  # each place draws its own label subsets
        values, draws, used = [], [], []
        for frame, place in zip(frames, places):
            both = [set(f["subset"]) for f, p in zip(frames, places) if p == place]
            frame = frame[frame["seed"].isin(seeds) & frame["subset"].isin(set.intersection(*both))]
            sampled = {row.config: self.sampled(row) for row in frame.itertuples()}
            values.append(frame["value"].mean())
            draws.append(_resample(frame, sampled, 2 + order.index(place)))
            used += list(sampled)
        weights = [weight for weight, _ in terms]
        value, low, high = contrast(weights, values, draws, claim.relative)
        return {
            "value": value, "low": low, "high": high, "seeds": len(seeds),
            "verdict": verdict(low, high, claim.margin), "cells": " ".join(dict.fromkeys(used)),
        }  # fmt: skip

    def sampled(self, row):
        """The bootstrap values of one cell: stored, or from its ranks and the labels."""
        key = f"{row.config}:{row.metric}"
        key = key if pd.isna(row.statement) else f"{key}:{row.statement}"
        if key not in self.samples:
            target, weights = self.truth
            self.samples[key] = bootstrap_macro_auc(target, self.ranks[row.config], weights)
        return self.samples[key]

    @functools.cached_property
    def ranks(self):
        return self.table.ranks()

    @functools.cached_property
    def truth(self):
        """Labels of the test records (record, class) and weights of their patients."""
        experiment, name, data = self.origin
        rate = experiments.rate_of(experiment)
        cohort = experiments.open_for(self.how["scale"], name, data, rate)
        if cohort.fingerprint != self.how["cohort_fingerprint"]:
            raise ValueError(
                f"{self.table.path} is of cohort {self.how['cohort_fingerprint']}; {cohort!r} has "
                f"{cohort.fingerprint}: give the data that the table was made with"
            )
        train, _, test = cohort.split()
        task = self.cells["task"].iloc[0]
        target = test.targets(task)[scored_classes(train, test, task)].to_numpy()
        return target, patient_weights(test.table["patient_id"])


def _matches(cells, where):
    """Which rows are in a place: True where every column has the wanted value."""
    same = [
        cells[name] == value if isinstance(value, str) else np.isclose(cells[name], value)
        for name, value in where.items()
    ]
    return np.logical_and.reduce(same)


def published():
    """The ledger as it is published, ``results/claims.csv``."""
    return pd.read_csv(runs.results_folder() / "claims.csv")


def rows(names):
    """The published rows of some claims, to be shown: ``rows("B")``, ``rows("A3")``.

    Returns a data frame with a row a claim and cohort, its numbers as text on the claim's scale.
    Raises ``ValueError`` where no claim's name begins so. Chapter: *The ledger of claims*.
    """
    frame = published()
    frame = frame[frame["claim"].str.startswith(names)]
    if not len(frame):
        known = ", ".join(claim.name for claim in CLAIMS)
        raise ValueError(f"names is {names!r}: expected the beginning of one of {known}")
    number = "{:+.3f}".format
    ours = [
        "" if pd.isna(row.value) else f"{row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
        for row in frame.itertuples()
    ]
    return pd.DataFrame({
        "claim": frame["claim"] + ": " + frame["statement"], "cohort": frame["cohort"],
        "paper": frame["paper_value"].map(number, na_action="ignore").fillna("not known"),
        "margin": frame["margin"].map(number), "here, with 95 % interval": ours,
        "verdict": frame["verdict"],
    }).reset_index(drop=True)  # fmt: skip


def summary(frame=None, cohort="ptb-xl"):
    """One line: how many claims came out how on a cohort, by default on real ECG.

    `frame`: a ledger (default: the published one). Chapter: *The ledger of claims*.
    """
    frame = published() if frame is None else frame
    found = list(frame.loc[frame["cohort"] == cohort, "verdict"])
    good, bad, unclear, never = map(found.count, (REPRODUCED, NOT, OPEN, UNTESTABLE))
    where = "real ECG (PTB-XL)" if cohort == "ptb-xl" else f"the cohort {cohort}"
    return (
        f"{good} of {len(found)} claims reproduced, {bad} not, {unclear} open, {never} not "
        f"testable, on {where}"
    )


def main():
    """Compute the ledger and write ``results/claims.csv``."""
    parser = argparse.ArgumentParser(prog="python -m ecgtutorial.claims", description=main.__doc__)
    parser.add_argument(
        "--data", default=os.environ.get("ECGTUTORIAL_DATA"), help="PTB-XL's folder"
    )
    frame = ledger(data=parser.parse_args().data)
    frame.to_csv(runs.results_folder() / "claims.csv", index=False, float_format="%.6g")
    print(frame[["claim", "cohort", "value", "low", "high", "margin", "verdict"]].to_string())
    print(summary(frame))


if __name__ == "__main__":
    main()
