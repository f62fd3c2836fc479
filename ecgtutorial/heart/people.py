"""Who the simulated patients are: age, sex, statements with severities, and what the reader writes.

    age, female, severity = people.draw(u, z)                      # the truth
    labels = people.read(severity, severity > 0, v, rate=0.03)     # what a reader makes of it

Age and sex come first, then one basic rhythm, then whether the patient is sound (has no disease
that shows). All other statements follow from a Gaussian copula: each has a latent score, made of
age, sex, rhythm, six factors that all share and a part of its own (tied for some pairs); above a
threshold it is there. Who is not sound has at least one diagnostic statement. Two kinds of
rules come last: contradictions (`check`), and statements that readers of PTB-XL write instead of
one another. The rarer statement of such a pair stays.

The copula's table is `people.csv`, a row a statement: share (%), thresholds if sick and if sound
(inf: never), effects on the score of a = (age - 60) / 20, its square, female sex and three groups
of rhythms, loadings on the six factors.

The numbers were fitted to 2,992 records of PTB-XL, statements at any likelihood (Wagner et al.
2020, doi 10.1038/s41597-020-0495-6, CC BY 4.0): effects by ridge probit, loadings by the pairwise
likelihood of joint counts, thresholds by simulation under all rules. Statements rarer than 0.1 %
were raised to that. Severities, what is confused with what, and the rules are our choice.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from ecgtutorial.datasets import ptbxl
from ecgtutorial.heart import check_number

STATEMENTS = tuple(ptbxl.STATEMENTS)  # all 71, in the official order
RHYTHMS = ("SR", "SBRAD", "STACH", "SARRH", "AFIB", "AFLT", "SVTAC", "PSVT", "SVARR", "PACE")
COMPLETE = ("CLBBB", "CRBBB", "3AVB", "PACE")  # there or not: never borderline
_AT = {code: i for i, code in enumerate(STATEMENTS)}
_DIAGNOSTIC = [code for code, s in ptbxl.STATEMENTS.items() if s.diagnostic and code != "NORM"]
_BESIDE_NORM = ("IRBBB", "IVCD", "1AVB")  # diagnostic, and yet PTB-XL's readers call it normal
_DISEASES = [code for code in _DIAGNOSTIC if code not in _BESIDE_NORM]

# Basic rhythms: share (%), intercept, effects of a = (age - 60) / 20, a squared, female sex.
_RHYTHM_TABLE = {
    "SR": (76.40, 0.00, 0.00, 0.00, 0.00),
    "SBRAD": (3.06, -3.03, -0.08, -0.08, -0.31),
    "STACH": (3.50, -3.45, 0.43, 0.21, 0.33),
    "SARRH": (3.77, -3.46, -0.23, 0.34, 0.06),
    "AFIB": (6.63, -2.43, 1.18, -0.24, -0.32),
    "AFLT": (0.44, -4.41, 0.54, -0.90, -1.15),
    "SVTAC": (0.10, -6.67, 0.01, -0.00, -0.00),
    "PSVT": (0.10, -6.32, -0.11, -0.31, -0.26),
    "SVARR": (0.54, -4.74, 0.37, -0.27, -0.12),
    "PACE": (1.25, -4.17, 1.39, -0.08, -0.75),
    "-": (4.21, -2.98, 0.49, 0.25, -0.31),
}
# A statement, one whose own part its own part follows, and the correlation of the two.
_TIES = """ISC_ LVH 0.97, VCLVH LVH 0.84, RVH IRBBB 0.97, RAO/RAE RVH 0.85, ANEUR ASMI 0.73,
INJAL INJAS 0.87, ALMI ASMI 0.44, NT_ NDT 0.69, LOWT STD_ 0.80, INVT STD_ 0.51,
DIG STD_ 0.90, QWAVE IMI 0.79, LPFB CRBBB 0.81, BIGU PVC 0.71, TRIGU PVC 0.72"""
_GROUPS = ("AFIB AFLT", "STACH SVTAC PSVT", "SBRAD")
_SOUND = (0.162, -0.64, -0.01, 0.36, 0.00, -0.34, 0.30)  # threshold, effects as in `people.csv`
_OTHER_SOUND = {"AFIB": 0.1, "AFLT": 0.6, "SVTAC": 0.5, "PSVT": 0.5, "PACE": 0.95}
_FEMALE = 0.478
_AGES = {  # years, at twelfths of the men and of the women
    "male": (18, 33, 42, 49, 54, 56, 59, 62, 66, 69, 74, 79, 95),
    "female": (18, 27, 40, 47, 52, 57, 62, 66, 70, 75, 79, 83, 95),
}
# What cannot be true together: the statements left of | with those right of it, or all with all.
_CONTRADICTIONS = {
    " ".join(RHYTHMS): "a record has one basic rhythm",
    "NORM | " + " ".join(_DISEASES): "a normal ECG shows no disease",
    "NORM | AFIB AFLT SVTAC PSVT PACE": "a normal ECG beats in sinus rhythm",
    "AFIB AFLT SVTAC PSVT | 1AVB 2AVB LPR": "without sinus P waves no PR interval is graded",
    "AFIB AFLT | PAC LAO/LAE RAO/RAE": "the atria give no P waves to compare",
    "3AVB | 1AVB 2AVB LPR": "in complete block no P wave is conducted",
    "WPW | 1AVB LPR": "pre-excitation shortens the PR interval",
    "CLBBB | CRBBB IRBBB ILBBB LAFB LPFB": "the whole left bundle is blocked, and only that shows",
    "CRBBB | IRBBB": "the right bundle is blocked either wholly or in part",
    "LAFB | LPFB": "with both fascicles blocked the left bundle is blocked",
    "IVCD | CLBBB CRBBB ILBBB IRBBB": "IVCD stands for a delay that is no bundle branch block",
    "PACE | CLBBB CRBBB IRBBB ILBBB LAFB LPFB IVCD WPW":
        "the pacemaker starts the ventricles, so their own conduction does not show",
    "LVOLT | HVOLT VCLVH": "voltages are either low or high",
}  # fmt: skip
# What PTB-XL's readers write instead of one another (few or none together): no contradictions.
_ALTERNATIVES = """
IMI ILMI IPMI IPLMI LMI
ASMI AMI
AMI ALMI
NDT ISC_ ISCAL ISCIN INJAS CLBBB CRBBB
ISC_ ISCAL CRBBB NT_
ABQRS | STD_ QWAVE LOWT NT_ PAC LPR INVT CLBBB ISCIL
CLBBB | IMI ILMI NST_ NT_ STD_ VCLVH QWAVE WPW
CRBBB | STD_ VCLVH ILBBB WPW
LVOLT | LVH ASMI
NST_ | NT_ ISCAL
IMI | NT_ ISCIL
IRBBB ILBBB
1AVB 2AVB
3AVB | AFIB AFLT SVTAC PSVT STACH
BIGU TRIGU
BIGU TRIGU | AFIB AFLT SVTAC PSVT 3AVB
"""
# What a reader takes a statement for. A rhythm is always taken for another one, never missed.
_CONFUSED = """
NDT:NST_ NST_:NDT DIG:STD_ LNGQT:NDT NORM:NDT IMI:LAFB ASMI:LVH LVH:VCLVH LAFB:IMI ISC_:NDT
IRBBB:IVCD 1AVB:LPR IVCD:IRBBB ISCAL:ISC_ CRBBB:IRBBB CLBBB:IVCD ILMI:IMI LAO/LAE:RAO/RAE AMI:ASMI
ALMI:AMI ISCIN:NDT INJAS:ISCAS LMI:ALMI ISCIL:ISCIN LPFB:RVH ISCAS:ISCAL INJAL:ISCAL ISCLA:ISCAL
RVH:LPFB ANEUR:ASMI RAO/RAE:LAO/LAE EL:LNGQT WPW:IVCD ILBBB:LVH IPLMI:ILMI ISCAN:ISCAS IPMI:IMI
SEHYP:LVH INJIN:ISCIN INJLA:ISCLA PMI:RVH 3AVB:2AVB INJIL:ISCIL 2AVB:1AVB ABQRS:QWAVE PVC:PRC(S)
STD_:NST_ VCLVH:HVOLT QWAVE:IMI LOWT:NT_ NT_:NDT PAC:PRC(S) LPR:1AVB INVT:TAB_ LVOLT:ABQRS
HVOLT:VCLVH TAB_:INVT STE_:NST_ PRC(S):PVC
SR:SARRH AFIB:SVARR STACH:SVTAC SARRH:SR SBRAD:SR PACE:SR SVARR:AFIB BIGU:TRIGU AFLT:AFIB
SVTAC:STACH PSVT:SVTAC TRIGU:BIGU
"""
_RHYTHM_ERRORS = 0.1  # rhythms are misread so many times as often as the rest
_SHAPE = 1.5  # of severities: both parameters of Kumaraswamy's distribution, much like a Beta
_REFERENCE = 20_000  # patients with whom thresholds are set for a prevalence of the caller's


_RHYTHM = np.array([_AT[code] for code in RHYTHMS])
_IS_RHYTHM = np.array([s.rhythm for s in ptbxl.STATEMENTS.values()])
_FACTORS = 6
K_U = 4 + len(STATEMENTS)  # uniform numbers a patient: sex, age, rhythm, sound, severities
K_Z = _FACTORS + len(STATEMENTS) - len(RHYTHMS) - 1  # normal ones: factors, own parts


def _pairs(rows):
    """Pairs of statements that the rows of a rule name, each both ways."""
    for row in rows:
        left, _, right = (part.split() for part in row.partition("|"))
        for a in left:
            for b in right or left:
                if a != b:
                    yield row, a, b
                    yield row, b, a


def _matrix(rows):
    """The same as a symmetric matrix, bool (statement, statement)."""
    matrix = np.zeros((len(STATEMENTS),) * 2, bool)
    for _, a, b in _pairs(rows):
        matrix[_AT[a], _AT[b]] = True
    return matrix


_CONTRADICT = _matrix(_CONTRADICTIONS)
_INSTEAD = _matrix(_ALTERNATIVES.strip().splitlines())


def check(statements):
    """Raise ValueError if one of the statements is unknown or two cannot be true together.

    statements: codes of PTB-XL, such as ("IMI", "AFIB"). The message names the two and why.
    """
    if isinstance(statements, str):
        raise ValueError(f"statements: found the text {statements!r}, expected a list of codes")
    for row, a, b in _conflicts(list(statements)):
        raise ValueError(f"{a} contradicts {b}: {_CONTRADICTIONS[row]}")


def _conflicts(codes):
    """Every two of the codes that contradict each other, and by which rule: (rule, code, code)."""
    for code in codes:
        if code not in _AT:
            expected = f"one of {' '.join(STATEMENTS)}"
            raise ValueError(f"unknown statement {code!r}, expected {expected}")
    return [pair for pair in _pairs(_CONTRADICTIONS) if pair[1] in codes and pair[2] in codes]


def draw(u, z, prevalence=None):
    """Patients: age, sex and true statements with their severities.

    u: uniform random numbers in [0, 1), (patient, at least K_U). z: standard normal ones, (patient,
    at least K_Z). A patient depends on its own row only.
    prevalence: share of patients by statement, in place of PTB-XL's, such as {"AFIB": 0.3}. Other
    statements keep their share as far as the rules leave room; if NORM is given, those that exclude
    it share the rest in proportion.

    Returns age in whole years, float (patient,), 18 to 95; female, bool (patient,); severity, float
    (patient, statement): 0 absent, else from 0.15 (borderline) to 1.15 (obvious); complete blocks
    and pacing from 0.65.
    Raises ValueError for an unknown statement, a share that is no number from 0 to 1, shares that
    contradict one another. Model and source: this module's docstring.
    """
    levels = _levels(_wanted(prevalence))
    age, female = _age_and_sex(u)
    present = _present(u, z, age, female, levels).T  # (patient, statement)
    return age, female, np.where(present, _severity(u[:, 4:K_U]), 0.0)


def _wanted(prevalence):
    """The caller's shares, checked one by one and in pairs: ((code, share), ...)."""
    if prevalence is not None and not isinstance(prevalence, Mapping):
        raise ValueError(f"prevalence: found {prevalence!r}, expected shares by statement")
    wanted = dict(prevalence or {})
    conflicts = _conflicts(wanted)
    for code, share in wanted.items():
        check_number(f"prevalence of {code}", share, 0, 1)
    for row, a, b in conflicts:
        if wanted[a] + wanted[b] > 1 + 1e-9:
            raise ValueError(
                f"prevalence: {a} {wanted[a]} and {b} {wanted[b]} sum above 1, but exclude each "
                f"other: {_CONTRADICTIONS[row]}"
            )
    rhythms = {code: wanted[code] for code in RHYTHMS if code in wanted}
    if sum(rhythms.values()) > 1 + 1e-9:
        raise ValueError(f"prevalence: {rhythms} sum above 1, but a record has one basic rhythm")
    return tuple(sorted((code, float(share)) for code, share in wanted.items()))


def _age_and_sex(u):
    """Age in years and sex of each patient: (patient,) each."""
    female = u[:, 0] < _FEMALE
    at = np.linspace(0, 1, len(_AGES["male"]))
    age = np.where(female, np.interp(u[:, 1], at, _AGES["female"]),
                   np.interp(u[:, 1], at, _AGES["male"]))  # fmt: skip
    return np.rint(age), female


def _present(u, z, age, female, levels):
    """Which statements each patient has, bool (statement, patient)."""
    rhythm, sound, person = _rhythm_and_sound(u, age, female, levels)
    present = np.zeros((len(STATEMENTS), len(u)), bool)
    present[_RHYTHM] = rhythm == np.arange(len(RHYTHMS))[:, None]
    present[_AT["NORM"]] = sound & np.isnan(levels["other"][rhythm])
    loadings, own = levels["loadings"], z[:, _FACTORS:K_Z].T.copy()  # (statement, patient)
    for child, parent, r in levels["ties"]:
        own[child] = r * own[parent] + math.sqrt(1 - r * r) * own[child]
    own *= np.sqrt(1 - (loadings**2).sum(1))[:, None]
    score = levels["effects"] @ person + loadings @ z[:, :_FACTORS].T + own
    score -= np.where(sound, levels["beside NORM"][:, None], levels["cut"][:, None])
    present[levels["codes"]] = score > 0
    for i, s in enumerate(levels["order"]):  # of two that exclude each other, the first stays
        before = levels["order"][:i]
        before = before[levels["exclude"][s, before]]
        if len(before) and present[s].any():
            present[s] &= ~present[before].any(axis=0)
    _give_the_sick_a_disease(present, score, ~sound, levels)
    return present


def _rhythm_and_sound(u, age, female, levels):
    """Each patient's rhythm, an index into RHYTHMS or one past it (none stated); who is sound; and
    what acts on the scores: age, its square, sex, groups of rhythms, (effect, patient)."""
    a = (age - 60) / 20
    person = np.stack([a, a * a, female])
    weight = np.exp(levels["rhythm effects"] @ person + levels["rhythm"][:, None])
    upto = np.cumsum(weight, axis=0)
    rhythm = (u[:, 2] * upto[-1] >= upto[:-1]).sum(0)
    groups = [np.isin(rhythm, [RHYTHMS.index(c) for c in codes.split()]) for codes in _GROUPS]
    person = np.concatenate([person, groups])
    other = levels["other"][rhythm]  # chance to be sound; NaN: a sinus rhythm, NORM if sound
    chance = ndtr(levels["sound effects"] @ person - levels["sound"])
    return rhythm, u[:, 3] < np.where(np.isnan(other), chance, other), person


def _give_the_sick_a_disease(present, score, sick, levels):
    """Who is not sound has a diagnostic statement: at least the one nearest to its threshold."""
    codes = np.array([_AT[c] for c in _DIAGNOSTIC])
    who = np.flatnonzero(sick & ~present[codes].any(axis=0))
    blocked = levels["exclude"].astype(np.float32) @ present[:, who].astype(np.float32) > 0
    near = np.full((len(STATEMENTS), len(who)), -np.inf)
    near[levels["codes"]] = score[:, who]
    near = np.where(blocked, -np.inf, near)[codes]  # (diagnostic statement, patient)
    best = near.argmax(axis=0)
    found = np.isfinite(near[best, np.arange(len(who))])
    present[codes[best[found]], who[found]] = True


def _severity(u):
    """Severities that statements have if they are present, from uniform numbers (patient, 71)."""
    lowest, spread = np.where(np.isin(STATEMENTS, COMPLETE), [[0.65], [0.5]], [[0.15], [1.0]])
    return lowest + spread * (1 - (1 - u) ** (1 / _SHAPE)) ** (1 / _SHAPE)


# --- thresholds: PTB-XL's, or those for the caller's shares -------------------------------------


@lru_cache(maxsize=1)
def _copula():
    """`people.csv`: the statements that the copula draws, indices and numbers (statement, 15)."""
    table = np.loadtxt(Path(__file__).with_name("people.csv"), str, delimiter=",", skiprows=1)
    return np.array([_AT[code] for code in table[:, 0]]), table[:, 1:].astype(float)


def _defaults():
    (codes, table), rhythm = _copula(), np.array(list(_RHYTHM_TABLE.values()))
    place = {STATEMENTS[s]: i for i, s in enumerate(codes)}
    rank = np.zeros(len(STATEMENTS))
    rank[codes] = table[:, 0]
    rank[_RHYTHM], rank[_AT["NORM"]] = -2, -1  # rhythms, NORM, then the rarer before the commoner
    return {
        "codes": codes, "rhythm": rhythm[:, 1], "rhythm effects": rhythm[:, 2:],
        "sound": _SOUND[0], "sound effects": np.array(_SOUND[1:]),
        "other": np.array([_OTHER_SOUND.get(code, np.nan) for code in (*RHYTHMS, "-")]),
        "cut": table[:, 1], "beside NORM": table[:, 2], "effects": table[:, 3:9],
        "loadings": table[:, 9:], "order": np.argsort(rank, kind="stable"),
        "exclude": _CONTRADICT | _INSTEAD,
        "ties": [(place[a], place[b], float(r)) for a, b, r in map(str.split, _TIES.split(","))],
    }  # fmt: skip


@lru_cache(maxsize=16)
def _levels(wanted):
    """Thresholds for the shares `wanted`, ((code, share), ...), found on a reference population."""
    levels = _defaults()
    if not wanted:
        return levels
    wanted = {_AT[code]: share for code, share in wanted}
    mine = np.isin(np.arange(len(STATEMENTS)), list(wanted))
    people = _reference()
    target = _targets(wanted, mine, _present(*people, levels).mean(axis=1), levels)
    levels["exclude"] = _CONTRADICT | (_INSTEAD & ~np.outer(mine, mine))
    head, rest = np.split(levels["order"], [len(RHYTHMS) + 1])
    levels["order"] = np.concatenate([head, rest[mine[rest]], rest[~mine[rest]]])
    _move_rhythm_and_sound(levels, people, target, mine)
    _move_cuts(levels, people, target, mine)
    reached = _present(*people, levels).mean(axis=1)
    worst = max(wanted, key=lambda s: abs(reached[s] - wanted[s]))
    if abs(reached[worst] - wanted[worst]) > 0.01:
        raise ValueError(
            f"prevalence: these shares contradict one another: {STATEMENTS[worst]} should be "
            f"{wanted[worst]} and comes to {reached[worst]:.3f} beside the others"
        )
    return levels


def _reference():
    """Numbers of a fixed population, evenly spread in every column; its ages and sexes."""
    rng = np.random.Generator(np.random.Philox(key=1))
    even = np.tile((np.arange(_REFERENCE)[:, None] + 0.5) / _REFERENCE, (1, 4 + K_Z))
    u, z = np.split(rng.permuted(even, axis=0), [4], axis=1)
    return u, ndtri(z), *_age_and_sex(u)


def _targets(wanted, mine, usual, levels):
    """The share that each statement should have, (statement,); changes levels["other"]."""
    target, norm, not_mine = usual.copy(), _AT["NORM"], ~mine[_RHYTHM]
    target[list(wanted)] = list(wanted.values())
    sick = [s for s in wanted if _CONTRADICT[s, norm] and s not in _RHYTHM]
    # So many patients must be sick at least: the largest share, with those that exclude it.
    need = max([target[s] + sum(target[t] for t in sick if _CONTRADICT[s, t]) for s in sick] + [0])
    left = max(1 - need - target[norm] * mine[norm], 0)
    rivals = np.zeros(len(RHYTHMS), bool)  # rhythms make room for what they exclude
    for s in (s for s in wanted if s not in _RHYTHM):
        mates = levels["exclude"][s, _RHYTHM]
        room = 1 - target[s] - target[_RHYTHM[mates & ~not_mine]].sum()
        room = min(room, left / 2) if s in sick else room
        rivals |= mates & not_mine
        full = target[_RHYTHM[mates & not_mine]].sum()
        target[_RHYTHM[mates & not_mine]] *= np.clip(room / max(full, 1e-9), 0, 1)
    # The healthy in other rhythms make room too, and sinus rhythm fills what the others leave.
    healthy = np.nansum(target[_RHYTHM] * levels["other"][:-1])
    levels["other"] = levels["other"] * min(1, left / 2 / max(healthy, 1e-9))
    if mine[norm]:
        ill = _CONTRADICT[norm] & ~mine
        ill[_RHYTHM] = False
        target[ill] *= (1 - target[norm]) / (1 - usual[norm])
    else:
        lost = healthy + target[_RHYTHM[rivals]].sum() if sick else 0
        target[norm] = min(target[norm], max(left - lost, 0))
    return target


def _rhythm_goal(target, usual_none, mine):
    """Shares of all rhythms and of none stated, which sum to 1: sinus rhythm gives way first."""
    goal, free = np.append(target[_RHYTHM], usual_none), np.append(~mine[_RHYTHM], True)
    if free[0]:
        goal[0] = max(1 - goal[1:].sum(), 0)
    goal[free] *= max(1 - goal[~free].sum(), 0) / max(goal[free].sum(), 1e-9)
    return goal


def _move_rhythm_and_sound(levels, people, target, mine):
    u, _, age, female = people
    goal = None
    with np.errstate(divide="ignore"):
        for _ in range(12):
            rhythm, sound, _ = _rhythm_and_sound(u, age, female, levels)
            now = np.bincount(rhythm, minlength=len(RHYTHMS) + 1) / len(u)
            goal = _rhythm_goal(target, now[-1], mine) if goal is None else goal
            levels["rhythm"] = levels["rhythm"] + np.log(goal / np.maximum(now, 1e-5))
            sinus = np.isnan(levels["other"][rhythm])
            ceiling = max(sinus.mean(), 1e-5)
            levels["sound"] += _step((sound & sinus).mean(), target[_AT["NORM"]], ceiling)


def _move_cuts(levels, people, target, mine):
    codes = levels["codes"]
    goal, mine, moved = target[codes], mine[codes], np.zeros(len(codes))
    cut, beside = levels["cut"], levels["beside NORM"]
    first = np.concatenate([_RHYTHM, [_AT["NORM"]], codes[mine]])
    place = np.argsort(levels["order"])
    rivals = levels["exclude"][np.ix_(codes, first)] & (place[first] < place[codes, None])
    for _ in range(16):
        present = _present(*people, levels)
        ceiling = 1 - (rivals.astype(np.float32) @ present[first].astype(np.float32) > 0).mean(1)
        moved += _step(present[codes].mean(axis=1), goal, np.maximum(ceiling, 1e-5))
        moved = np.where(mine, moved, np.clip(moved, -0.7, 0.7))
        levels["cut"] = cut + moved
        levels["beside NORM"] = beside + np.where(np.isinf(beside), 0, moved)


def _step(now, goal, ceiling):
    """How far a threshold should move so that the share `goal` of patients pass, not `now`."""
    now, new = (ndtri(np.clip(share / ceiling, 1e-4, 1 - 1e-4)) for share in (now, goal))
    return np.where(goal <= 0, np.inf, np.where(goal >= 1, -np.inf, now - new))


# --- what the reader writes ---------------------------------------------------------------------


def read(severity, true, u, rate):
    """The labels a reader gives: the true statements, some of them missed or taken for others.

    severity: of the statements, (patient, statement), as from `draw`. true: which of them are true,
    bool, the same shape. u: uniform random numbers, the same shape. rate: chance from 0
    to 0.5 that a true diagnostic or form statement is missed or replaced by one that it is often
    confused with (half each). The chance is larger for a borderline than for an obvious one; its
    mean over severities is `rate`. A rhythm is taken for another one at a tenth of the rate. A
    statement that would contradict the rest is not written. Who misses the only disease writes
    NORM. With rate 0 the labels are the true statements.

    Returns labels, bool (patient, statement). Raises ValueError for another rate.
    """
    check_number("rate", rate, 0, 0.5)
    chance = rate * _chance(severity)
    wrong, labels = true & (u < chance), true.copy()
    replaced = wrong & ((u < chance / 2) | _IS_RHYTHM)
    for pair in _CONFUSED.split():
        code, instead = (_AT[c] for c in pair.split(":"))
        who = np.flatnonzero(wrong[:, code])
        if not len(who):
            continue
        labels[who, code] = False
        fits = ~labels[np.ix_(who, np.flatnonzero(_CONTRADICT[instead]))].any(axis=1)
        labels[who[fits & replaced[who, code]], instead] = True
        if _IS_RHYTHM[code]:  # never missed: where nothing else fits, it stays
            labels[who[~fits], code] = True
    ill = [_AT[code] for code in _DIAGNOSTIC]
    missed = true[:, ill].any(axis=1) & ~labels[:, ill].any(axis=1)
    labels[:, _AT["NORM"]] |= missed & ~labels[:, _CONTRADICT[_AT["NORM"]]].any(axis=1)
    return labels


def _chance(severity):
    """How often a statement is misread, relative to the rate: 1 on average over severities."""
    mean = _severity(np.linspace(0.0005, 0.9995, 1000)[:, None] * np.ones(len(STATEMENTS))).mean(0)
    chance = 1 + 1.2 * (mean - np.where(severity > 0, severity, mean))
    chance[:, _IS_RHYTHM] = _RHYTHM_ERRORS
    chance[:, _AT["NORM"]] = 1  # not a matter of degree
    return chance
