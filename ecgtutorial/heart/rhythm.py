"""When the heart beats: atria, AV node and ventricles, step by step, for many records at once.

The sinus node fires; breathing, blood pressure and chance move its interval. The AV node conducts
after PR, later and later (Wenckebach), not every time (Mobitz, 2:1) or never (third degree). Single
foci fire early: an atrial one resets the sinus node, a ventricular one finds the next sinus beat
blocked, so that a full pause follows. Fibrillating atria let beats through at random; a flutter
lets every second, third or fourth through.

Sources: respiratory and slow variation, Task Force of ESC and NASPE 1996; the rest is every
cardiologist's textbook; the sizes are our choice. Chapter: *Arrhythmias and infarcts*.
"""

import math

import numpy as np

FASTEST = 220  # beats a minute
DRAWS = (24, 12)  # uniform and normal numbers a record, besides those of each beat
CODES = ("N", "A", "V", "/", "E", "j")  # WFDB: sinus, atrial and ventricular premature, paced,
_N, _A, _V, _PACED, _ESCAPE, _JUNCTION = range(6)  # ventricular and junctional escape


def rhythm(has, age, u, z, streams, seconds, rate=None):
    """Beat times of many records.

    has: function from a statement to its severities (record,), 0 for absent. age: years (record,).
    u, z: uniform and normal numbers (record, at least `DRAWS`). streams: a Generator a record.
    seconds: length. rate: beats a minute (record,), or None for a rate that fits the statements.
    Returns a dict of arrays, times in s from the start of the record, never-happening ones inf:
    `p`, `p_kind` (record, beat): P waves, 0 sinus or 1 ectopic; `qrs`, `kind`, `code` (record,
    beat), sorted: onsets of QRS, 0 conducted or 1 from the ventricular focus, index in `CODES`;
    `before`: interval before each QRS; `rr`: mean interval; `pr`: PR interval (record,), nan
    without one; `breathing`: Hz and phase (record, 2); `fibrillates`, `flutter`, `cycle` of the
    flutter. Chapter: *Arrhythmias and infarcts*.
    """
    slots = math.ceil(seconds * FASTEST / 60 * 1.1) + 8
    normal = np.stack([g.standard_normal(slots) for g in streams])  # (record, beat)
    chance = np.stack([g.random((slots, 2)) for g in streams])
    kind = _kinds(has, u)
    rr = 60 / (_rate(has, kind, u, z) if rate is None else np.asarray(rate, float))
    pr = _pr(has, z, rr)
    draws = {"normal": normal, "chance": chance}
    breathing = np.stack([0.20 + 0.12 * u[:, 2], u[:, 3]], axis=1)
    events = _conduct(has, kind, age, rr, pr, u, z, draws, breathing, seconds, slots)
    p, p_kind, qrs, code = events
    if kind["3AVB"].any():
        _escape(qrs, code, kind["3AVB"], normal, u, slots)
    order = np.argsort(qrs, axis=1, kind="stable")
    qrs = np.take_along_axis(qrs, order, 1)
    code = np.take_along_axis(code, order, 1)
    last = np.isfinite(qrs).sum(1).max()
    qrs, code = qrs[:, :last], code[:, :last]
    with np.errstate(invalid="ignore"):  # inf - inf, where no beat is
        before = np.nan_to_num(np.diff(qrs, axis=1, prepend=qrs[:, :1] - rr[:, None]), posinf=1)
    seen = (qrs > 0) & (qrs < seconds)
    first = np.where(seen, qrs, np.inf).min(1)
    final = np.where(seen, qrs, -np.inf).max(1)
    count = seen.sum(1)
    mean = np.where(count > 1, (final - np.where(count > 1, first, 0)) / np.maximum(count - 1, 1),
                    rr)  # fmt: skip
    none = kind["AFIB"] | kind["AFLT"] | kind["3AVB"] | kind["no P"]
    return {
        "p": p, "p_kind": p_kind, "qrs": qrs, "code": code,
        "kind": np.isin(code, (_V, _ESCAPE)).astype(int), "before": before, "rr": mean,
        "pr": np.where(none, np.nan, pr), "breathing": breathing, "fibrillates": kind["AFIB"],
        "flutter": kind["AFLT"], "cycle": 0.19 + 0.05 * u[:, 5],
    }  # fmt: skip


def _kinds(has, u):
    """Which process rules each record: a dict of bool (record,)."""
    kind = {name: has(name) > 0 for name in ("AFIB", "AFLT", "SVTAC", "PSVT", "SVARR", "3AVB",
                                             "2AVB", "PACE")}  # fmt: skip
    # A pacemaker either follows the atria or, where they fibrillate, keeps its own time.
    kind["no P"] = kind["PACE"] & (u[:, 4] < 0.4)
    kind["fast"] = kind["SVTAC"] | kind["PSVT"]
    return kind


def _rate(has, kind, u, z):
    """Beats a minute (record,): of the atria in third-degree block, else of the ventricles."""
    rate = np.clip(71 + 11 * z[:, 0], 52, 98)
    fits = (
        ("SBRAD", 58.5 - 15 * has("SBRAD") * (0.3 + 0.7 * u[:, 0])),
        ("STACH", 101 + 30 * has("STACH") * u[:, 0]),
        ("SARRH", np.clip(64 + 9 * z[:, 0], 48, 92)), ("AFIB", np.clip(88 + 20 * z[:, 0], 45, 165)),
        ("AFLT", 75 + 0 * z[:, 0]), ("SVTAC", 150 + 40 * u[:, 0]), ("PSVT", 78 + 8 * z[:, 0]),
        ("SVARR", np.clip(80 + 14 * z[:, 0], 55, 120)), ("PACE", 60 + 15 * u[:, 0] ** 2),
        ("2AVB", np.clip(76 + 9 * z[:, 0], 58, 98)), ("3AVB", np.clip(78 + 11 * z[:, 0], 58, 99)),
    )  # fmt: skip
    for name, value in fits:
        rate = np.where(has(name) > 0, value, rate)
    return rate


def _pr(has, z, rr):
    """PR interval in s (record,): shorter at speed, long in first-degree block, short in WPW."""
    pr = np.clip(0.164 + 0.019 * z[:, 1] + 0.02 * (np.minimum(rr, 1.1) - 0.85), 0.115, 0.196)
    slow = np.maximum(has("1AVB"), has("LPR"))
    pr = np.where(slow > 0, np.maximum(pr, 0.19) + 0.016 + 0.075 * slow, pr)
    return np.where(has("WPW") > 0, np.minimum(pr, 0.135), pr)


def _conduct(has, kind, age, rr, pr, u, z, draws, breathing, seconds, slots):
    """P waves and the ventricular beats that follow them or come before their turn."""
    n = len(rr)
    p, p_kind = np.full((n, slots), np.inf), np.zeros((n, slots), int)
    qrs, code = np.full((n, 3 * slots), np.inf), np.zeros((n, 3 * slots), int)
    # Weaker with age; in sinus arrhythmia it is what one sees.
    breath = np.minimum(0.030 * np.exp(0.6 * z[:, 2] - (age - 55) / 40), 0.07)
    breath = np.where(has("SARRH") > 0, 0.065 + 0.07 * has("SARRH") * np.exp(0.3 * z[:, 2]), breath)
    spread = np.clip(0.19 + 0.05 * z[:, 3], 0.12, 0.33)  # of intervals in atrial fibrillation
    cycle = 0.19 + 0.05 * u[:, 5]  # of a flutter
    # Its block, mostly 2:1; 0: changing.
    fixed = np.select([u[:, 6] < 0.6, u[:, 6] < 0.68, u[:, 6] < 0.76], [2, 3, 4], 0)
    starts = (0.10 + 0.5 * u[:, 7]) * seconds  # of a paroxysm
    atrial, ventricular = _ectopy(has, u)
    moment = (0.2 + 0.6 * u[:, 9:11]) * seconds  # by then each focus has fired once
    ratio = 3 + (u[:, 11] * 3).astype(int)  # of a Wenckebach period
    mobitz = np.where(has("2AVB") > 0, 1 + (u[:, 12] * 3).astype(int), 0)
    early, coupling = 0.24 + 0.18 * u[:, 13], 0.46 + 0.14 * u[:, 14]
    time = -(0.6 + u[:, 1]) * rr
    since, run = np.zeros(n, int), np.zeros(n, int)  # beats since a drop, since a premature one
    blocked, fired = np.zeros(n, bool), np.zeros((n, 2), bool)
    irregular = kind["AFIB"] | kind["AFLT"]
    for k in range(slots):
        draw, chance = draws["normal"][:, k], draws["chance"][:, k]
        wave = np.sin(2 * np.pi * (breathing[:, 0] * time + breathing[:, 1]))
        slow = 0.012 * np.sin(2 * np.pi * (0.1 * time + u[:, 15]))
        interval = rr * (1 + breath * wave + slow + 0.018 * draw)
        interval = np.where(kind["AFIB"], rr * np.exp(spread * draw - spread**2 / 2), interval)
        many = np.where(fixed > 0, fixed, 2 + (chance[:, 0] * 3).astype(int))
        interval = np.where(kind["AFLT"], many * cycle, interval)
        running = kind["SVTAC"] | (kind["PSVT"] & (time > starts))
        fast = np.where(kind["SVTAC"], rr, 60 / (150 + 40 * u[:, 0])) * (1 + 0.005 * draw)
        interval = np.where(running, fast, interval)
        interval = np.where(kind["SVARR"], rr * (1 + 0.5 * (chance[:, 0] - 0.5)), interval)
        interval = np.where(kind["PACE"], rr * (1 + 0.004 * draw), np.maximum(interval, 0.28))
        # An atrial focus fires early.
        due = (time > moment[:, 0]) & ~fired[:, 0]
        pac = (atrial > 0) & ((chance[:, 0] < atrial) | due) & (run > 0) & ~blocked & ~running
        time = np.where(pac, time - early * rr, time)
        fired[:, 0] |= pac & (time > 0)
        p[:, k] = time
        odd = kind["SVARR"] & (chance[:, 1] < 0.5)
        p_kind[:, k] = pac | running | odd
        # The AV node.
        period = since % ratio
        drop = np.select([mobitz == 1, mobitz == 2, mobitz == 3],
                         [period == ratio - 1, chance[:, 1] < 0.28, k % 2 == 1], False)  # fmt: skip
        late = np.where(mobitz == 1, 0.085 * np.sqrt(period), 0)
        conducted = ~drop & ~blocked & ~kind["3AVB"]
        since = since + 1
        onset = time + np.where(running, np.minimum(pr, 0.105), pr) + late + 0.01 * pac
        qrs[:, 2 * k] = np.where(conducted, onset, np.inf)
        code[:, 2 * k] = np.where(kind["PACE"], _PACED, np.where(pac, _A, _N))
        # A ventricular focus.
        due = (time > moment[:, 1]) & ~fired[:, 1]
        wanted = (chance[:, 1] < ventricular) | due | ((has("TRIGU") > 0) & (run % 2 == 1))
        pvc = (ventricular > 0) & conducted & wanted & ~pac & ~running
        premature = onset + np.maximum(coupling * rr, 0.33)
        qrs[:, 2 * k + 1] = np.where(pvc, premature, np.inf)
        code[:, 2 * k + 1] = _V
        fired[:, 1] |= pvc & (premature > 0)
        # In fibrillation there is no sinus beat to block: the pause is a longer interval.
        blocked = pvc & ~irregular
        interval = np.where(pvc & irregular, interval + premature - onset, interval)
        run = np.where(pac | pvc, 0, run + conducted)
        time = time + interval * np.where(pac, 1.06, 1)
    p[irregular | kind["no P"]] = np.inf
    return p, p_kind, qrs, code


def _ectopy(has, u):
    """Chance of a premature beat after each beat, atrial and ventricular; 0: never."""
    atrial = np.where(has("PAC") > 0, 0.02 + 0.16 * has("PAC") * u[:, 16], 0)
    ventricular = np.where(has("PVC") > 0, 0.02 + 0.16 * has("PVC") * u[:, 17], 0)
    some = (has("PRC(S)") > 0) & (atrial + ventricular == 0)
    pattern = (has("BIGU") + has("TRIGU")) > 0
    from_atria = u[:, 18] < 0.3
    atrial = np.where(some & from_atria, 0.04, atrial)
    ventricular = np.where(some & ~from_atria, 0.04, ventricular)
    ventricular = np.where((has("TRIGU") > 0) & (ventricular == 0), 1e-9, ventricular)
    ventricular = np.where(has("BIGU") > 0, 1, ventricular)  # after every beat that is conducted
    return np.where(pattern, 0, atrial), ventricular


def _escape(qrs, code, block, normal, u, slots):
    """Third-degree block: the ventricles, or the junction above them, beat on their own."""
    junction = u[:, 19] < 0.4
    rr = 60 / np.where(junction, 40 + 14 * u[:, 20], 28 + 13 * u[:, 20])
    times = np.cumsum(rr[:, None] * (1 + 0.02 * normal), axis=1) - (1 + u[:, 21:22]) * rr[:, None]
    qrs[block, 2 * slots :] = times[block]
    code[:, 2 * slots :] = np.where(junction, _JUNCTION, _ESCAPE)[:, None]
