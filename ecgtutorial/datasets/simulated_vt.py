"""Ventricular tachycardia with a known origin: the built-in cohort for localisation.

    cohort = ecg.open_cohort("simulated-vt", n_patients=500, seed=0)
    cohort.targets("all")                                  # 0/1 (record, region), 22 regions
    cohort.table[["site_x", "site_y", "site_z"]]           # mm, heart coordinates
    many = simulated_vt.recordings(range(20), fs=500)      # records with their truth
    beats = simulated_vt.pace_map(fs=500)                  # one typical heart, paced everywhere

A front starts at one node on the surface of the wall model and spreads through muscle, half as
fast again under the endocardium, where it meets Purkinje fibres, and slowly through scar. What the
electrodes read follows from that, as in the cohort "simulated". Six patients in ten have an
infarct, and their tachycardias leave its border at several sites. The others have a sound heart and
one focus, mostly in an outflow tract: it gives tachycardia or single beats in sinus rhythm. Atria
keep their own time (AV dissociation) or follow the ventricles. Nothing below is put in; all of it
comes out, and is tested:

    origin                   what the beat shows
    outflow tract            inferior axis: aVF positive
    inferior wall            superior axis: aVF negative
    free wall, left          V1 positive (like right bundle branch block)
    right ventricle          V1 negative (like left bundle branch block)
    septum                   narrower than from the free wall
    apex, base               V4-V6 negative, V2-V6 mostly positive
    epicardium               slower begin, wider than from the endocardium
    RVOT against LVOT        R grows larger than S further left in V1-V6

Rules: Josephson & Callans 2005 and every textbook of electrophysiology; slow begin of epicardial
beats: Berruezo et al. 2004. How often which region, and all spreads, are our choice.
Explained in the chapter *Where a tachycardia begins*.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from ecgtutorial.datasets import simulated
from ecgtutorial.heart import check_number, source
from ecgtutorial.heart.people import STATEMENTS
from ecgtutorial.heart.recording import DAY, PERSON, read
from ecgtutorial.heart.rhythm import CODES, rhythm
from ecgtutorial.heart.source import QRS_TIME, REST
from ecgtutorial.heart.torso import lead_field
from ecgtutorial.heart.ventricles import SEGMENTS, spread, ventricles
from ecgtutorial.leads import EXPANSION

MODEL = 2  # goes up with every change of this file's model
_KEY = 1 << 62  # patients of this cohort have numbers of their own among all random keys
_RECORDS_PER_PATIENT = (0.55, 0.30, 0.15)  # shares of patients with one, two, three records
_LAYERS = ("endocardium", "middle", "epicardium")  # origins lie on the first and the last
_OWN = (12, 4)  # uniform and normal numbers a patient takes besides those of heart and chest

_ISCHAEMIC = 0.6  # share of patients with an infarct
# Share of infarcts by place (%), in the main cohort's names.
_INFARCTS = {"IMI": 26, "ILMI": 14, "IPLMI": 7, "IPMI": 6, "PMI": 5, "AMI": 13, "ASMI": 14,
             "ALMI": 10, "LMI": 5}  # fmt: skip
# Share of foci in sound hearts by region (%), in the order of `SEGMENTS`.
_FOCI = np.array([6, 4, 3, 3, 2, 3, 1, 2, 5, 1, 1, 2, 1, 1, 1, 1, 1, 12, 3, 8, 5, 34])
_ENDOCARDIAL = 0.8  # share of origins under the endocardium
_SINGLE = 0.4  # share of records of sound hearts with single beats in sinus rhythm
_DISSOCIATED = 0.6  # share of tachycardias whose atria keep their own time

_SLOW = 1.18  # of all travel times, against muscle alone in the wall model
_FIBRES = 1.5  # speed under the endocardium, against muscle
_SCAR = 2.5  # how much longer a front takes through dense scar
# The fit to normal beats of PTB-XL turns the heart out of its textbook position. With all of that
# turn the base lies so far back that beats from the RVOT are often positive in V1; this share keeps
# most of them negative.
_TURN = 0.25


def open(n_patients=500, seed=0, fs=100, seconds=10, records_per_patient=_RECORDS_PER_PATIENT,
         noise=1.0, n_jobs=None, cache=None):  # fmt: skip
    """A cohort of ventricular tachycardias with a known origin; made in seconds, kept on disk.

    n_patients: number of patients, at least 1. seed: whole number from 0 up.
    fs: sampling rate in Hz, 50 to 1,000. seconds: length of a record, at least 2.
    records_per_patient: shares of patients with 1, 2, 3, ... records.
    noise: multiplies everything electrodes pick up besides the heart; 0 for none.
    n_jobs: threads; None: one a core. The records are the same with any number.
    cache: folder for stores; None: the package's usual place.

    Returns a `Cohort`. Its labels are the regions (`heart.ventricles.SEGMENTS`), one a record; its
    table keeps the truth, see `simulate`. Folds are stratified by region.
    Raises ValueError for an argument out of its range.
    Model: this module's docstring. Chapter: *Where a tachycardia begins*.
    """
    options = simulated.checked(seed, fs, seconds, records_per_patient, noise)
    model = [simulated.MODEL, MODEL]
    return simulated.stored("simulated-vt", model, n_patients, options, simulate,
                            lambda table: table["region_number"], n_jobs, cache)  # fmt: skip


def simulate(patients, **options):
    """Records of the given patients in memory: `open` without store and folds.

    patients: sequence of patient numbers, from 0. options: arguments of `open` from `seed` to
    `noise`.
    Returns `signals`, int16 µV (record, 12, time), `table` and `labels`, DataFrames as in a cohort,
    but without folds. Columns of truth: `cause` ("infarct", "idiopathic"), `form` ("VT", or "PVC":
    single beats in sinus rhythm), `atria` ("dissociated", "retrograde", "sinus"); of the origin
    `region`, `region_number` (in `SEGMENTS`), `node` (in `ventricles()`), `layer` ("endocardium",
    "epicardium"), `site_x`, `site_y`, `site_z` (mm, heart coordinates), `outflow`; `cycle` (ms, no
    one in PVC), `heart_rate` (beats a minute), `qrs` (ms) and `axis` (degrees, frontal) of the
    ventricular beat; `scar` (share of the left ventricle's muscle); `turn_x`, `turn_y`, `turn_z`
    (the heart's long axis in the body, left, down, back); `noise` (µV), `lead_off`, `swapped_arms`.
    Raises ValueError as `open` does.
    """
    many = recordings(patients, truth=False, **options)
    return many.signals, many.table, many.labels


def recordings(patients, seed=0, fs=100, seconds=10, records_per_patient=_RECORDS_PER_PATIENT,
               noise=1.0, truth=True):  # fmt: skip
    """Records of the given patients with the truth at every step.

    Arguments: those of `open`. Returns a namespace: `signals`, `table`, `labels` as there;
    `clean`, int16 µV (record, 12, time) without noise; `vector`, the heart vector in mV, X left, Y
    down, Z back (record, 3, time); `beats(i)`, the waves of record `i`, see `heart.recording.waves`
    (no T in tachycardia, where it hides in the next beat); `field`, what each lead reads (record,
    8, 9), see `heart.torso.lead_field`; of the ventricular beat `fires`, when every node is
    activated, ms (record, node), and `beat`, float32 mV (record, 12, time) of QRS at `time` in ms;
    `fs`, `seconds`.
    """
    options = simulated.checked(seed, fs, seconds, records_per_patient, noise)
    who, streams = _people(patients, options)
    heart = _hearts(who, options["fs"])
    beats = _beats(who, heart, streams[0], seconds)
    out = read(beats, heart, who["person"], who["day"], *streams, options["fs"], seconds, noise,
               truth)  # fmt: skip
    table = _table(who, heart, out)
    regions = np.eye(len(SEGMENTS), dtype=np.uint8)[table["region_number"]]
    labels = pd.DataFrame(regions, columns=SEGMENTS)
    many = simulated.gathered(out, table, labels, options, truth)
    if truth:
        many.field, many.fires = out["field"][:, :8], heart["fires"]
        many.beat, many.time = _twelve_leads(many.field, heart), QRS_TIME
    return many


def pace_map(nodes=None, fs=500):
    """One beat from each node of a typical heart, without noise: a library to compare beats with.

    nodes: node numbers in `heart.ventricles.ventricles()`; None: all of the surface. fs: Hz.
    Returns a namespace: `beats`, float32 mV (node, 12, time) of QRS and `time` in ms from the first
    activation; `table`, a row a node, with the columns of `simulate` that describe origin and beat;
    `fires`, ms (node, node).
    Raises ValueError for a node that does not exist.
    """
    check_number("fs", fs, 50, 1000, whole=True)
    tissue = ventricles()
    nodes = np.flatnonzero(tissue.layer != 0.5) if nodes is None else np.asarray(nodes)
    simulated.check_numbers("nodes", nodes, len(tissue.layer) - 1)
    n = len(nodes)
    who = {
        "severity": np.zeros((n, len(STATEMENTS))), "age": np.full(n, 55.0),
        "female": np.zeros(n, bool), "slow": np.zeros(n), "single": np.zeros(n, bool),
        "cycle": np.zeros(n), "pick": np.zeros(n), "node": nodes,
        "person": (np.full((n, PERSON[0]), 0.5), np.zeros((n, PERSON[1]))),
    }  # fmt: skip
    heart = _hearts(who, fs)
    chest, day = np.zeros((n, 8, 5)), np.zeros((n, 8, 3))
    field = lead_field(heart["turn"], heart["centre"], chest, day).astype(np.float32)
    table = pd.DataFrame(_origin(nodes) | _beat(heart, field))
    return SimpleNamespace(
        beats=_twelve_leads(field, heart), time=QRS_TIME, table=table, fires=heart["fires"]
    )


def neighbours():
    """Which regions touch: a DataFrame of bool (region, region), False on the diagonal."""
    tissue = ventricles()
    touch = np.zeros((len(SEGMENTS),) * 2, bool)
    touch[tissue.segment[:, None], tissue.segment[tissue.neighbours]] = True
    touch = (touch | touch.T) & ~np.eye(len(SEGMENTS), dtype=bool)
    return pd.DataFrame(touch, index=SEGMENTS, columns=SEGMENTS)


# --- who ------------------------------------------------------------------------------------------


def _people(patients, options):
    """Everything known of patients before they are recorded, a row a record, and generators."""
    widths = (_OWN[0] + PERSON[0], _OWN[1] + PERSON[1])
    d = simulated.drawn(patients, options, widths, (DAY[0] + 8, DAY[1] + 4), _KEY)
    u, z, day_u, day_z = d.u[d.who], d.z[d.who], d.day_u, d.day_z
    own_u, own_z = day_u[:, DAY[0] :], day_z[:, DAY[1] :]
    scarred = u[:, 1] < _ISCHAEMIC
    age = np.where(scarred, 66 + 9 * z[:, 0], 46 + 14 * z[:, 0])
    pick = np.searchsorted(np.cumsum(list(_INFARCTS.values())) / 100, u[:, 2])
    severity = np.zeros((len(u), len(STATEMENTS)))
    place = np.array([STATEMENTS.index(name) for name in _INFARCTS])[pick]
    severity[np.arange(len(u)), place] = scarred * (0.5 + 0.6 * u[:, 3])
    single = ~scarred & (own_u[:, 0] < _SINGLE)
    severity[single, STATEMENTS.index("PVC")] = 1.0
    focus = np.searchsorted(np.cumsum(_FOCI) / 100, u[:, 4])
    rows = {
        "severity": severity, "age": np.clip(np.round(age), 18, 90), "number": d.number,
        "female": u[:, 5] < np.where(scarred, 0.15, 0.52), "patient_id": d.patient_id,
        "slow": 0.05 * z[:, 1], "scarred": scarred, "single": single,
        "node": np.where(scarred, -1, _of_region(focus, u[:, 6], u[:, 7])),
        "pick": own_u[:, 1],  # where on a scar's border
        "cycle": np.where(scarred, 350 + 45 * own_z[:, 0], 335 + 50 * own_z[:, 0]),
        "dissociated": own_u[:, 3] < _DISSOCIATED, "phase": own_u[:, 4], "back": own_u[:, 5],
        "rate": np.where(single, np.clip(72 + 9 * own_z[:, 1], 52, 98),
                         np.clip(82 + 14 * own_z[:, 1], 55, 125)),
        "person": (u[:, _OWN[0] :], z[:, _OWN[1] :]),
        "day": (day_u[:, : DAY[0]], day_z[:, : DAY[1]]),
    }  # fmt: skip
    return rows, d.streams


def _of_region(region, u, layer_u):
    """A node of each region, of its endocardium or epicardium (record,)."""
    tissue = ventricles()
    layer = np.where(layer_u < _ENDOCARDIAL, 0, 1)
    mine = (tissue.segment == region[:, None]) & (tissue.layer == layer[:, None])
    return _pick(mine, u)


def _pick(weights, u):
    """A node a row, with chances proportional to weight and area (record,)."""
    area = np.sin(np.radians(ventricles().polar))  # nodes crowd at the apex
    total = np.cumsum(weights * area, axis=1, dtype=float)
    return (total <= (u * total[:, -1])[:, None]).sum(axis=1)


def _exit(scar, pick):
    """Where a front leaves a scar: a node of its border, rather close to dense scar (record,)."""
    tissue = ventricles()
    chance = np.where(tissue.layer == 0, _ENDOCARDIAL, 1 - _ENDOCARDIAL) * (tissue.layer != 0.5)
    near = np.maximum(1 - np.abs(scar - 0.40) / 0.30, 0) + 1e-6  # without a border: anywhere
    return _pick(near * chance * ~tissue.right, pick)


def _has(who):
    return lambda name: who["severity"][:, STATEMENTS.index(name)]


# --- heart ----------------------------------------------------------------------------------------


def _hearts(who, fs):
    """Shapes as `heart.source.shapes` gives them, the second one from each record's own origin."""
    has, age, z = _has(who), who["age"], who["person"][1]
    heart = source.shapes(has, age, who["female"], *who["person"], np.zeros(len(age), bool), fs)
    scar, weights = heart["scar"], heart["weights"]
    node = np.where(who["node"] < 0, _exit(scar, who["pick"]), who["node"])
    slow = _SLOW * np.exp(who["slow"][:, None] + 0.06 * source.smooth_field(z[:, 16:24]))
    fires = spread(node, slow * (1 + _SCAR * scar), _FIBRES)
    qrs, on, off = source.depolarisation(fires, weights, fs)
    heart["qrs"][:, 1], heart["on"][:, 1], heart["off"][:, 1] = qrs, on, off
    # A heart cannot beat again while it is still activated.
    cycle = np.clip(who["cycle"], np.maximum(270, heart["off"][:, 1] + 95), 500)
    # Recovery adapts to the rate, activation does not: ST-T is stretched where beats are placed.
    stretch = np.where(who["single"], 1, np.cbrt(cycle / 1000 / REST)).astype(np.float32)
    recovery = heart["apd"], heart["plateau"], weights
    heart["st"][:, 1] = source.repolarisation(fires / stretch[:, None], *recovery)
    # From the AV node back through the atria: up, and mostly from right to left.
    heart["p"][:, 1] = heart["p"][:, 0] * np.float32([[0.5], [-0.9], [-0.4]])
    return heart | {"turn": source.turn(has, age, z, _TURN), "fires": fires, "node": node,
                    "cycle": cycle}  # fmt: skip


# --- recording ------------------------------------------------------------------------------------


def _beats(who, heart, streams, seconds):
    """Beat times as `heart.rhythm.rhythm` gives them; a tachycardia takes their place."""
    beats = rhythm(_has(who), who["age"], *who["day"], streams, seconds, who["rate"])
    slots = beats["p"].shape[1]
    n, fast = len(who["age"]), ~who["single"]
    wobble = np.stack([g.standard_normal(slots) for g in streams])
    cycle = heart["cycle"][:, None] / 1000
    times = cycle * (np.arange(slots) + who["phase"][:, None]) - 1 + 0.002 * wobble
    p = times + 0.12 + 0.07 * who["back"][:, None] + heart["off"][:, 1:] / 2000
    back = fast & ~who["dissociated"]
    for name, fill, own in (("qrs", np.inf, times), ("before", 1.0, cycle + 0 * times),
                            ("code", 0, CODES.index("V")), ("kind", 0, 1)):  # fmt: skip
        wide = np.full((n, slots), fill, beats[name].dtype)
        wide[:, : beats[name].shape[1]] = beats[name][:, :slots]
        beats[name] = np.where(fast[:, None], own, wide)
    beats["p"] = np.where(back[:, None], p, beats["p"])
    beats["p_kind"] = np.where(back[:, None], 1, beats["p_kind"])
    beats["rr"] = np.where(fast, cycle[:, 0], beats["rr"])
    beats["pr"] = np.where(fast, np.nan, beats["pr"])
    return beats


# --- what is known --------------------------------------------------------------------------------


def _origin(node):
    tissue = ventricles()
    number = tissue.segment[node]
    region = np.array(SEGMENTS, object)[number]
    return {
        "region": region, "region_number": number, "node": node,
        "layer": np.array(_LAYERS)[(2 * tissue.layer[node]).astype(int)],
        **{f"site_{a}": tissue.position[node, k].round(1) for k, a in enumerate("xyz")},
        "outflow": np.isin(region, ("LVOT", "RVOT")),
    }  # fmt: skip


def _twelve_leads(field, heart):
    """QRS of the ventricular beat, float32 mV (record, 12, time)."""
    return np.matmul(EXPANSION.astype(np.float32), np.matmul(field, heart["qrs"][:, 1]))


def _beat(heart, field):
    """QRS duration and frontal axis of the ventricular beat."""
    qrs = heart["off"][:, 1] - heart["on"][:, 1]
    return {"qrs": qrs.round(), "axis": simulated.frontal_axis(field, heart["qrs"][:, 1])}


def _table(who, heart, out):
    """The table: who, and what is known of each record."""
    fast = ~who["single"]
    atria = np.where(who["dissociated"], "dissociated", "retrograde")
    left = ~ventricles().right
    return pd.DataFrame({
        **simulated.who_columns(who),
        "cause": np.where(who["scarred"], "infarct", "idiopathic"),
        "form": np.where(fast, "VT", "PVC"), "atria": np.where(fast, atria, "sinus"),
        **_origin(heart["node"]),
        "cycle": np.where(fast, heart["cycle"].round(), np.nan),
        "heart_rate": (60 / out["rhythm"]["rr"]).round(1),
        **_beat(heart, out["field"]),
        "scar": heart["scar"][:, left].mean(axis=1, dtype=float).round(3),
        **simulated.place_columns(out),
    })  # fmt: skip
