"""A recording: beats of a heart, read by eight leads, with noise.

    who a patient is, what day it is  ->  rhythm (when)   ->  placed in time -> leads -> noise
                                      ->  source (shapes) ->

Explained in the chapters *The heart vector* and *Cohorts*.
"""

import numpy as np
import pandas as pd

from . import noise as noises
from .people import STATEMENTS
from .rhythm import CODES, DRAWS, rhythm
from .source import NORMAL_DRAWS, P_TIME, QRS_TIME, REST, ST_TIME, UNIFORM, shapes
from .torso import lead_field, rotation

# Uniform and normal numbers: of a person's heart and chest, of a day.
PERSON = (UNIFORM, NORMAL_DRAWS + 40)
DAY = (DRAWS[0] + 8, DRAWS[1] + 24 + 20)


def record(severity, age, female, person, day, streams, noise_streams, fs, seconds, noise=1.0,
           rate=None, truth=False):  # fmt: skip
    """Recordings of many hearts, one a row.

    severity: of `people.STATEMENTS` (record, statement). age: years; female: bool (record,).
    person: uniform and normal numbers of each one's patient, (record, `PERSON`) each; day: those of
    the recording, (record, `DAY`). streams, noise_streams: two Generators a record. fs: Hz.
    seconds: length. noise: multiplies all noise. rate: beats a minute (record,) or None.
    truth: see `read`, which says what is returned.
    """

    def has(code):
        return severity[:, STATEMENTS.index(code)]

    beats = rhythm(has, age, *day, streams, seconds, rate)
    ectopic = (beats["kind"] == 1).any(axis=1)
    heart = shapes(has, age, female, *person, ectopic, fs)
    return read(beats, heart, person, day, streams, noise_streams, fs, seconds, noise, truth)


def read(beats, heart, person, day, streams, noise_streams, fs, seconds, noise=1.0, truth=False):
    """What eight leads read of hearts that beat.

    beats: what `rhythm.rhythm` gave. heart: what `source.shapes` gave. truth: keep the heart vector
    and the signal without noise too. The other arguments are those of `record`.
    Returns a dict: `leads`, float32 mV (record, 8, time); `noise`, the table of `noise.noise`;
    `rhythm`; `shapes`; `field` (record, 8, 9); `turn`, today's, heart to body axes (record, 3, 3);
    `waves`, mV at the leads: ST-T of a beat (record, 8, time); with truth `clean` (record, 8,
    time), `vector`, mV in body axes (record, 3, time), and its rows below those of `field`.
    """
    samples, z, day_z = round(seconds * fs), person[1], day[1]
    # Posture turns the heart a few degrees from day to day.
    posture = np.radians(4) * day_z[:, DRAWS[1] + 24 : DRAWS[1] + 27]
    turn = rotation(posture) @ heart["turn"]
    chest = z[:, NORMAL_DRAWS : PERSON[1]].reshape(-1, 8, 5)
    electrodes = day_z[:, DRAWS[1] : DRAWS[1] + 24].reshape(-1, 8, 3)
    field = lead_field(turn, heart["centre"], chest, electrodes).astype(np.float32)
    # Beat by beat: a batch with longer records reads on, and changes nothing before.
    jitter = np.stack([g.standard_normal((beats["qrs"].shape[1], 2)) for g in streams])
    clean, waves = _leads(beats, heart, turn, field, jitter, day, fs, samples)
    out = {"rhythm": beats, "shapes": heart, "field": field, "turn": turn, "waves": waves}
    if truth:  # the heart vector is what three leads along the body axes would read
        axes = np.concatenate([turn, np.zeros((len(z), 3, 6))], axis=-1).astype(np.float32)
        vector = _leads(beats, heart, turn, axes, jitter, day, fs, samples)[0]
        out |= {"clean": clean, "vector": vector, "field": np.concatenate([field, axes], axis=1)}
    added, table = noises.noise(noise_streams, fs, samples, noise)
    return out | {"leads": noises.mishaps(clean + added, table), "noise": table}


def _leads(beats, heart, turn, field, jitter, day, fs, samples):
    """The signal without noise, (record, lead, time), and the ST-T shape of a conducted beat."""
    n, (day_u, day_z) = len(field), day
    total = np.zeros((n * samples, field.shape[1]), np.float32)
    qrs = np.matmul(field[:, None], heart["qrs"])  # (record, 2, lead, time)
    st = np.matmul(field[:, None], heart["st"])
    first = {"times": beats["qrs"], "kind": beats["kind"]}
    _place(total, qrs, QRS_TIME, **first, gain=1 + 0.03 * jitter[..., 0], fs=fs)
    gain = 1 + 0.04 * jitter[..., 1] + 0.05 * day_z[:, -1:]
    _place(total, st, ST_TIME, **first, gain=gain, fs=fs, stretch=_stretch(beats), overlap=2)
    # P, f and F waves are dipoles in body axes.
    atria = np.matmul(field[:, :, :3], turn.swapaxes(1, 2).astype(np.float32))  # (record, lead, 3)
    p = np.matmul(atria[:, None], heart["p"])
    ones = np.ones(beats["p"].shape)
    _place(total, p, P_TIME, beats["p"], beats["p_kind"], ones, fs)
    total = total.reshape(n, samples, -1).transpose(0, 2, 1)  # (record, lead, time)
    for rows, wave in ((beats["fibrillates"], _fibrillation), (beats["flutter"], _flutter)):
        for i in np.flatnonzero(rows):
            total[i] += atria[i] @ wave(day_u[i], beats["cycle"][i], fs, samples)
    paced = np.flatnonzero((beats["code"] == CODES.index("/")).any(axis=1))
    for i in paced:
        total[i] += _spikes(beats["qrs"][i], field[i, :, :3], fs, samples)
    time = np.arange(samples) / fs
    breath = np.sin(2 * np.pi * (beats["breathing"][:, :1] * time + beats["breathing"][:, 1:]))
    tilt = np.radians(2.0) * np.exp(0.5 * day_z[:, -2:-1]) * day_z[:, -5:-2]  # (record, 3)
    total += np.matmul(_rocking(field, turn, tilt), total) * breath[:, None].astype(np.float32)
    return total, st[:, 0]


def _stretch(beats):
    """Repolarisation adapts to the rate: Fridericia's cube root, mostly of the mean interval."""
    interval = 0.75 * beats["rr"][:, None] + 0.25 * np.clip(beats["before"], 0.3, 1.6)
    return np.cbrt(interval / REST)


def _rocking(field, turn, tilt):
    """Breathing rocks the heart: the change of every lead per lead, (record, lead, lead)."""
    x, y, z = tilt.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    dipole = np.matmul(field[:, :, :3].astype(float), turn.swapaxes(1, 2))  # leads from body axes
    gram = np.linalg.inv(np.matmul(dipole.swapaxes(1, 2), dipole))
    back = np.matmul(gram, dipole.swapaxes(1, 2))  # body axes from leads
    return np.matmul(np.matmul(dipole, cross), back).astype(np.float32)


def _place(total, shape, grid, times, kind, gain, fs, stretch=None, overlap=1):
    """Add a shape at every event to `total` (record x time, lead), between samples by a line.

    shape: (record, kind, lead, time) at `grid` ms. times: s, kind, gain, stretch: (record, event),
    times sorted or inf. overlap: how many events may last at the same moment.
    """
    n, kinds, leads, length = shape.shape
    samples = len(total) // n
    rows = np.ascontiguousarray(shape.transpose(0, 1, 3, 2)).reshape(-1, leads)
    step = grid[1] - grid[0]
    stretch = np.ones_like(times) if stretch is None else stretch
    # The latest event whose window has begun: count the beginnings up to each sample.
    start = np.clip(np.ceil((times + grid[0] * stretch / 1000) * fs), 0, samples)
    start = start.astype(np.int64) + np.arange(n)[:, None] * (samples + 1)
    begun = np.bincount(start.ravel(), minlength=n * (samples + 1)).reshape(n, samples + 1)
    latest = np.cumsum(begun[:, :samples], axis=1) - 1  # (record, time)
    first = times.shape[1] * np.arange(n)[:, None]  # event of a record, among all events
    time = np.arange(samples) / fs
    for back in range(overlap):
        event = latest - back
        known = first + np.maximum(event, 0)
        place = ((time - times.take(known)) * 1000 / stretch.take(known) - grid[0]) / step
        inside = np.flatnonzero((event >= 0) & (place >= 0) & (place < length - 1))
        place, known = place.take(inside), known.take(inside)
        whole = place.astype(np.int64)
        part = (place - whole).astype(np.float32)[:, None]
        row = (inside // samples * kinds + kind.take(known)) * length + whole
        value = rows.take(row, axis=0) * (1 - part)
        value += rows.take(row + 1, axis=0) * part
        value *= gain.take(known).astype(np.float32)[:, None]
        total[inside] += value


def _fibrillation(u, cycle, fs, samples):
    """Fibrillating atria: three wandering rotors, largest in V1; mV in body axes (3, time)."""
    time = np.arange(samples) / fs
    wave = np.zeros((3, samples))
    coarse = 0.025 + 0.10 * u[-1] ** 2
    for k, (speed, part) in enumerate(((4.8, 1.0), (6.4, 0.7), (8.0, 0.45))):
        a, b = u[2 * k : 2 * k + 2]
        c, d = u[2 * k + 8 : 2 * k + 10]
        phase = (speed + 1.4 * a) * time + 0.5 * np.sin(2 * np.pi * ((0.2 + 0.5 * d) * time + b))
        swell = 1 + 0.6 * np.sin(2 * np.pi * ((0.3 + 0.4 * b) * time + c))
        direction = np.array([0.15 - 0.3 * k * a, 0.5 - 0.2 * k, -0.8 + 0.4 * k])
        wave += np.outer(coarse * part * direction, swell * np.sin(2 * np.pi * (phase + c)))
    return wave.astype(np.float32)


def _flutter(u, cycle, fs, samples):
    """A circuit around the right atrium: a saw-tooth, up the septum; mV in body axes (3, time)."""
    phase = 2 * np.pi * (np.arange(samples) / fs / cycle + u[-2])
    harmonics = [1, 2, 3] if fs <= 100 else [1, 2, 3, 4, 5]
    saw = sum(np.sin(h * phase) / h for h in harmonics)
    size = 0.05 + 0.06 * u[-1]
    late = sum(np.cos(h * phase) / h**1.5 for h in harmonics)
    return (size * np.stack([0.15 * late, 0.9 * saw, -0.45 * late - 0.2 * saw])).astype(np.float32)


def _spikes(times, dipole, fs, samples):
    """The pacemaker's pulses just before each paced QRS, mV (lead, time)."""
    time = np.arange(samples) / fs
    width = max(0.001, 0.5 / fs)  # s; an anti-alias filter widens half a millisecond
    wave = np.zeros(samples)
    for spike in times[np.isfinite(times)] - 0.006:
        wave += np.exp(-0.5 * ((time - spike) / width) ** 2)
    size = 0.9 * min(1, 0.0015 / width)
    return np.outer(dipole @ np.array([0.5, 0.6, 0.4]) * size, wave).astype(np.float32)


# --- truth ----------------------------------------------------------------------------------------


def waves(out, i, seconds):
    """Every wave of recording `i`: a DataFrame with a row a wave, in time order.

    out: what `record` gave. Columns: `beat` (number, -1 for a P wave that was not conducted),
    `wave` ("P", "QRS", "T"), `code` (WFDB's beat code), `onset`, `peak`, `offset`, in s.
    A QRS begins and ends with the muscle's activation. A T peaks and ends where the tangent to its
    fall meets the line, on the root mean square of the leads.
    """
    beats, heart = out["rhythm"], out["shapes"]
    rows = []
    stretch = _stretch(beats)[i]
    t_peak, t_end = t_wave(out["waves"][i : i + 1])
    size = np.linalg.norm(heart["qrs"][i, :, :3], axis=1)  # (kind, time)
    r_peak = QRS_TIME[size.argmax(axis=1)]
    shown = np.flatnonzero((beats["qrs"][i] >= 0) & (beats["qrs"][i] < seconds))
    for number, b in enumerate(shown):
        start, kind, code = beats["qrs"][i, b], beats["kind"][i, b], CODES[beats["code"][i, b]]
        first, last = heart["on"][i, kind], heart["off"][i, kind]
        rows.append((number, "QRS", code, start + first / 1e3, start + r_peak[kind] / 1e3,
                     start + last / 1e3))  # fmt: skip
        if kind == 0:
            rows.append((number, "T", code, np.nan, start + stretch[b] * t_peak[0] / 1e3,
                         start + stretch[b] * t_end[0] / 1e3))  # fmt: skip
    number = dict(zip(shown, range(len(shown))))
    for k, start in enumerate(beats["p"][i]):
        if 0 <= start < seconds:
            after = beats["qrs"][i] - start
            sinus = np.isin(beats["code"][i], [CODES.index(c) for c in "NA/"])
            near = np.flatnonzero((after > 0.05) & (after < 0.45) & sinus)
            wave = np.linalg.norm(heart["p"][i, beats["p_kind"][i, k]], axis=0)
            over = P_TIME[wave > 0.12 * wave.max()]
            belongs = number.get(near[0], len(shown)) if len(near) else -1
            rows.append((belongs, "P", "p", start + over[0] / 1e3,
                         start + P_TIME[wave.argmax()] / 1e3, start + over[-1] / 1e3))  # fmt: skip
    columns = ["beat", "wave", "code", "onset", "peak", "offset"]
    table = pd.DataFrame(rows, columns=columns)
    return table[table["peak"] < seconds].sort_values("peak", ignore_index=True)


def t_wave(shape):
    """Peak and end of T in ms at rest, two arrays (record,), from ST-T shapes (record, lead, time).

    The end is where the steepest tangent after the peak meets the base line.
    """
    size = np.sqrt((shape**2).mean(axis=1))  # (record, time)
    late = ST_TIME > 160
    peak = np.argmax(np.where(late, size, 0), axis=1)
    slope = np.diff(size, axis=1)
    after = np.arange(slope.shape[1]) >= peak[:, None]
    steepest = np.argmin(np.where(after, slope, 0), axis=1)
    here = np.arange(len(shape))
    fall = np.minimum(slope[here, steepest], -1e-9)
    step = ST_TIME[1] - ST_TIME[0]
    end = ST_TIME[steepest] - step * size[here, steepest] / fall
    return ST_TIME[peak], np.clip(end, ST_TIME[peak], ST_TIME[-1])
