"""All methods side by side, each on its paper's own network, held against it untrained."""

import dataclasses
import functools

import numpy as np
import pandas as pd

from .. import augment, losses, metrics, runs
from ..cohort import Cohort, open_cohort
from ..encoders import recurrent, single_lead, transformer, xresnet
from ..evaluate import (
    arrhythmia,
    crossing,
    finetune,
    health,
    label_efficiency,
    localisation,
    probe,
    traits,
)
from ..methods import byol, cpc, local_global, simclr, spatio_temporal, swav, three_kg
from .common import RAN_SCALES, SCALES, SIMULATED, alone, filled, random_encoder, untrained
from .gopal import METHODS, entrants, pretraining_run
from .mehari import MEHARI, mehari, mehari_entrants, mehari_options, mehari_run
from .oh import OH, OH_SCALES, oh_entrants, oh_run
from .ran import RAN, ran_entrants, ran_run, run_ran

# Every pre-training of the book that meets in "all methods": name -> network it trains.
ALL_NETWORKS = {
    "simclr": "xresnet", "byol": "xresnet", "swav": "xresnet", "spatio-temporal": "xresnet",
    "cpc": "cpc", "w2v+cmsc+rlm": "transformer", "3kg-l": "single-lead",
}  # fmt: skip
ALL_BUDGETS = {0.1: 2}
ALL_REFERENCE = {name: (f"random-{net}", "fine-tuned") for name, net in ALL_NETWORKS.items()}
ALL_OVER = {"random": {name: f"random-{net}" for name, net in ALL_NETWORKS.items()}}
_CODE = (
    augment, losses, metrics, recurrent, single_lead, transformer, xresnet, simclr, byol, swav,
    cpc, local_global, spatio_temporal, three_kg, finetune, probe, label_efficiency,
)  # fmt: skip
# Label efficiency of all methods. Fine-tuning was chosen on fold 9: with fewer steps the networks
# from scratch stop short, and the share of labels that pre-training saves comes out too large.
ALL_SUBSETS = {
    "quick": {0.1: 1, 1.0: 1},
    "full": {0.01: 5, 0.02: 5, 0.05: 5, 0.10: 5, 0.25: 1, 0.50: 1, 0.60: 1, 1.0: 1},
    "paper": label_efficiency.SUBSETS,
}
ALL_FINE_TUNING = {
    "quick": {"head_lr": 5e-3},
    "full": {"head_lr": 5e-3, "epochs": 15, "min_steps": 100},
    "paper": {"head_lr": 5e-3},
}
# What else there is to pre-train on: the training folds and foreign records (`more`), simulated
# hearts alone, or these and the training folds. All for about as many steps.
UNLABELLED = ("real", "more", "simulated")
UNLABELLED_BUDGETS = {0.1: 3, 1.0: 1}
TRAIT_SUBSETS = {0.1: 3, 1.0: 1}


def all_entrants(cohort, scale, seeds=(0,), progress=True, origin=False):
    """Every pre-training of the book, and every network of theirs untrained (``random-...``).

    `origin`: for finding the origin of a beat, where all fine-tune with `RAN_SCALES`' settings.
    Else those of papers A and D keep the rates and the masking of their own chapters.
    """
    oh = OH_SCALES[scale]
    own = {"transformer": oh["fine_tuning"], "single-lead": SCALES[scale]["fine_tuning"]}
    steps = ("epochs", "min_steps", "batch_size")  # as many as the others have
    own = {
        name: {"views": None} | {k: v for k, v in one.items() if k not in steps}
        for name, one in own.items()
    }
    for seed in seeds:
        networks = {
            "xresnet": RAN_SCALES[scale]["encoder"], "cpc": mehari("cpc", scale)[1]["encoder"],
            "transformer": oh["encoder"],
        }  # fmt: skip
        makes = {
            name: functools.partial(untrained, name, cohort.fs, seed) for name in networks.values()
        }
        makes["single-lead"] = functools.partial(random_encoder, cohort.fs, seed)
        networks["single-lead"] = "single-lead"
        for name, network in networks.items():
            yield label_efficiency.Entrant(
                f"random-{name}", seed, network, makes[network],
                fine_tuning={} if origin else own.get(name, {}),
            )  # fmt: skip
        papers = [
            *mehari_entrants(cohort, scale, (seed,), progress),
            *ran_entrants(cohort, scale, (seed,), progress=progress),
            *oh_entrants(cohort, scale, (seed,), ("w2v+cmsc+rlm",), progress=progress),
            *entrants(cohort, scale, (seed,), progress),
        ]
        # SimCLR is in two papers: here it is paper B's.
        first = {one.method: one for one in reversed(papers) if one.method in ALL_NETWORKS}
        for name, network in ALL_NETWORKS.items():
            more = {} if origin else own.get(network, {})
            yield dataclasses.replace(
                first[name], protocols=label_efficiency.PROTOCOLS,
                fine_tuning=more | first[name].fine_tuning,
            )  # fmt: skip


def run_all_methods(cohort, scale, seeds, path, progress=True):
    """Every pre-training of the book against its network from scratch, on arrhythmias.

    Chapter: *Space and time*.
    """
    return run_ran(
        "all-methods", arrhythmia.arrhythmias,
        all_entrants(cohort, scale, seeds, alone(progress)), cohort, scale, seeds, path,
        progress, budgets=tuple(ALL_BUDGETS), subsets=ALL_BUDGETS, reference=ALL_REFERENCE,
        over=ALL_OVER, methods=ALL_NETWORKS, code=_CODE,
    )  # fmt: skip


def run_ventricular_origin_all(cohort, scale, seeds, path, progress=True):
    """Every pre-training of the book finds origins. Chapter: *Where a tachycardia begins*."""
    return run_ran(
        "ventricular-origin-all", localisation.localisation,
        all_entrants(cohort, scale, seeds, alone(progress), origin=True), cohort, scale,
        seeds, path, progress, patients=RAN_SCALES[scale]["some"],
        subsets=RAN_SCALES[scale]["subsets"], reference=ALL_REFERENCE, over=ALL_OVER,
        methods=ALL_NETWORKS, code=_CODE,
    )  # fmt: skip


def run_label_efficiency_all(cohort, scale, seeds, path, progress=True):
    """Every method at every label budget, probe and fine-tuned. Chapter: *Label efficiency*."""
    options = all_options(scale) | {
        "budgets": tuple(ALL_SUBSETS[scale]), "subsets": ALL_SUBSETS[scale],
        "reference": ALL_REFERENCE, "over": ALL_OVER,
    }  # fmt: skip
    return _run_all(
        "label-efficiency-all", _with_crossings,
        all_entrants(cohort, scale, seeds, alone(progress)), cohort, scale, seeds, path, progress,
        options, code=(crossing,),
    )  # fmt: skip


def _with_crossings(entrants, cohort, table, **options):
    """`label_efficiency`, and summary rows of the metric ``crossing``: shares of the labels."""
    frame = label_efficiency.label_efficiency(entrants, cohort, table, **options)
    train, _, test = cohort.split()
    task, summary = options["task"], frame[frame["seed"] == "all"].to_dict("records")
    classes = label_efficiency.scored_classes(train, test, task)
    found = crossing.crossing_points(table, test, classes, options["reference"], task=task)
    found = found.rename(columns={"share": "value"})
    found = found.assign(task=task, leads=12, seed="all", metric="crossing")
    table.replace_summary(summary + found.to_dict("records"))
    return table.read()


def all_options(scale):
    """Windows, task and fine-tuning of the label efficiency of all methods."""
    options = mehari_options(scale, "superclass")
    options["fine_tuning"] |= ALL_FINE_TUNING[scale]
    return {name: one for name, one in options.items() if name != "reference"}


def run_unlabelled(cohort, scale, seeds, path, progress=True, more=None):
    """Which unlabelled records teach a probe how much. Chapter: *Pre-training*.

    Methods are called ``simclr@real``, ``simclr@more`` ...: see `UNLABELLED`. `more`: a folder of
    WFDB records without labels; without it that row is left out.
    """
    records = unlabelled_records(cohort, scale, more)
    everyone = list(unlabelled_entrants(cohort, scale, seeds, alone(progress), records))
    names = {one.method for one in everyone if "@" in one.method}
    real = {name: f"{name.split('@')[0]}@real" for name in names if not name.endswith("@real")}
    networks = {name: f"random-{ALL_NETWORKS[name.split('@')[0]]}" for name in names}
    options = {name: one for name, one in all_options(scale).items() if name != "fine_tuning"} | {
        "budgets": tuple(UNLABELLED_BUDGETS), "subsets": UNLABELLED_BUDGETS,
        "reference": {name: (other, "probe") for name, other in networks.items()},
        "over": {"real": real},
    }  # fmt: skip
    return _run_all(
        "unlabelled", label_efficiency.label_efficiency, everyone, cohort, scale, seeds, path,
        progress, options,
        n_pretraining_records={name: len(one) for name, one in records.items()},
    )  # fmt: skip


def unlabelled_records(cohort, scale, more=None):
    """The cohort to pre-train on under each name of `UNLABELLED`."""
    kinds = {"real": cohort.split()[0]}
    if more is not None:
        foreign = open_cohort("wfdb-folder", data=more, fs=cohort.fs)
        kinds["more"] = joined(kinds["real"], foreign)
    n_patients = SIMULATED[scale]["n_patients"]
    hearts = open_cohort("simulated", n_patients=n_patients, seed=7, fs=cohort.fs)
    return kinds | {"simulated": hearts}


def unlabelled_entrants(cohort, scale, seeds=(0,), progress=True, records=None):
    """Every network untrained, and every method pre-trained on each of `records`: probes.

    `records`: of `unlabelled_records`. All are trained for about as many steps.
    """
    records = unlabelled_records(cohort, scale) if records is None else records
    everyone = [
        dataclasses.replace(one, protocols=("probe",))
        for one in all_entrants(cohort, scale, seeds, progress)
    ]
    yield from (one for one in everyone if one.method not in ALL_NETWORKS)
    for kind, chosen in records.items():
        times = len(records["real"]) / len(chosen)  # as many epochs as on the training folds
        epochs = max(1, round(times * SCALES[scale]["pretraining"]["epochs"]))
        for one in (one for one in everyone if one.method in ALL_NETWORKS):
            # Paper A's runs elsewhere leave out patients that identification tests.
            if kind == "real" and one.method not in OH:
                yield dataclasses.replace(one, method=f"{one.method}@real")
                continue
            yield dataclasses.replace(
                one, method=f"{one.method}@{kind}",
                identity=runs.config_hash([one.identity, chosen.fingerprint, epochs]),
                make=functools.partial(
                    all_encoder, one.method, chosen, scale, one.seed, progress, times
                ),
            )  # fmt: skip


def joined(first, second):
    """Two cohorts of one rate, length and lead order as one without labels, for pre-training.

    Raises ``ValueError`` where they do not fit. Chapter: *Pre-training*.
    """
    if (first.fs, first.leads, first.signals.shape[2]) != (
        second.fs, second.leads, second.signals.shape[2]
    ):  # fmt: skip
        raise ValueError(
            f"{first!r} and {second!r} cannot be joined: rate, leads and length must be the same"
        )
    tables = [
        one.table[["record_id", "patient_id"]].astype(str).map(lambda name, k=k: f"{k}/{name}")
        for k, one in enumerate((first, second))
    ]
    signals = np.concatenate([np.asarray(first.signals), np.asarray(second.signals)])
    name = f"{first.name} and {second.name}"
    return Cohort(signals, pd.concat(tables), None, first.fs, name, first.leads)


def all_run(name, records, scale, seed=0, progress=True, times=1):
    """The run of a method of `ALL_NETWORKS` on any records: loaded, resumed or made.

    `times`: how many times the epochs of its scale.
    """
    if name in MEHARI:
        return mehari_run(name, records, scale, seed, progress, times)
    if name in RAN:
        return ran_run(name, records, scale, seed, progress, times)
    if name in METHODS:
        return pretraining_run(name, records, scale, seed, progress, times)
    return oh_run(name, records, scale, seed, progress, times)


def all_encoder(name, records, scale, seed=0, progress=True, times=1):
    """Its encoder; one that reads lead by lead lines the leads up."""
    encoder = all_run(name, records, scale, seed, progress, times).encoder
    if hasattr(encoder, "set_readout"):
        encoder.set_readout("concat")
    return encoder


def run_health(cohort, scale, seeds, path, progress=True):
    """What the representations look like, without any label. Chapter: *Pre-training*."""
    options = {name: all_options(scale)[name] for name in ("seconds", "overlap")}
    return _run_all(
        "health", health.fill_health, all_entrants(cohort, scale, seeds, alone(progress)), cohort,
        scale, seeds, path, progress, options, code=(health,),
    )  # fmt: skip


def run_traits(cohort, scale, seeds, path, progress=True):
    """Age, sex and, of simulated hearts, where they lie: what a probe finds in the representation.

    Chapter: *Beyond diagnosis*.
    """
    everyone = [
        dataclasses.replace(one, protocols=("probe",))
        for one in all_entrants(cohort, scale, seeds, alone(progress))
    ]
    options = {name: all_options(scale)[name] for name in ("seconds", "overlap")} | {
        "budgets": tuple(TRAIT_SUBSETS), "subsets": TRAIT_SUBSETS,
        "reference": {name: (f"random-{net}", "probe") for name, net in ALL_NETWORKS.items()},
        "over": ALL_OVER,
    }  # fmt: skip
    return _run_all(
        "traits", traits.traits, everyone, cohort, scale, seeds, path, progress, options,
        code=(traits,),
    )  # fmt: skip


def _run_all(
    name, experiment, everyone, cohort, scale, seeds, path, progress, options, code=(), **more
):
    """Fill and describe a table of all methods."""
    everyone = list(everyone)
    return filled(
        name, experiment, everyone, cohort, scale, seeds, path, progress, options,
        settings=options, methods=ALL_NETWORKS, pretraining=SCALES[scale]["pretraining"],
        own_fine_tuning={one.method: one.fine_tuning for one in everyone},
        code=runs.definitions(*_CODE, *code), **more,
    )  # fmt: skip
