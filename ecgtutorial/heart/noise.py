"""What electrodes pick up besides the heart: breathing, skin, muscle, mains, and mishaps.

Noise arises at the nine electrodes RA, LA, LL, V1 ... V6 and eight leads read it there, so the laws
of the limb leads hold for it too. Below are one-sided densities in µV per root Hz at an electrode,
f in Hz; the variance is the integral of their squares over frequency.

        drift       w / (1 + (f / 0.12)²)
        breathing   w b exp(-(f - f_b)² / (2 · 0.04²)), f_b in 0.15-0.4 Hz, b about 0.5
        contact     c / hypot(f, 0.8) / sqrt(1 + (f / 13)⁴): the electrode moves on the skin
        tremor      t f / hypot(f, 4) · exp(-(f - 9)² / (2 · 4²)), of the limbs only
        muscle      m f / hypot(f², 12²) / sqrt(1 + (f / 220)⁸): 1 / f between 15 and 200 Hz

The device takes out what is slow, by a first-order high pass of 0.05 Hz, f / hypot(f, 0.05), or
(about a quarter of devices) by a baseline filter, (f / 0.45)³ / sqrt(1 + (f / 0.45)⁶). It takes
out muscle noise too fast to sample: 1 / sqrt(1 + (f / 0.48 fs)⁴⁰). Muscle noise swells and falls:
it is multiplied by exp(s g - s²), where g is Gaussian, of variance 1, new every half second. Mains
are sines of 50 Hz and its multiples below fs / 2. Some records have bumps, as one electrode moves,
or steps of the baseline, an electrode that is off, or arms swapped.

Drift and breathing are alike at neighbouring electrodes; all else is each electrode's own. The
trunk lies between the limbs and follows most of the mean of their contact, tremor and muscle noise:
Wilson's terminal brings less of it into V1-V6 than independent electrodes would.

Sizes, spreads and what goes with what are our choice, set so that this noise resembles the pauses
between T and P, and what lies below 0.55 Hz, in 2,992 records of PTB-XL, measured alike (Wagner et
al. 2020, CC BY 4.0, doi 10.1038/s41597-020-0495-6). Shape and size of mains come from 100 of them.
"""

import math

import numpy as np
import pandas as pd
from scipy import fft

from ecgtutorial.heart import check_number
from ecgtutorial.leads import INDEPENDENT

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
# Leads I, II, V1 ... V6 from electrodes; Wilson's terminal is the mean of the first three.  (8, 9)
READ = np.zeros((len(INDEPENDENT), len(ELECTRODES)))
READ[:2, :3] = (-1, 1, 0), (-1, 0, 1)
READ[2:, :3] = -1 / 3
READ[2:, 3:] = np.eye(6)

# Median size at each electrode: w, c, t, m of the formulas, and µV rms of the 50 Hz.
_SIZES = {
    "wander": (75, 70, 150, 150, 165, 190, 205, 225, 235),
    "contact": (6.5, 6.5, 6.5, 10.5, 10.5, 10.5, 10.5, 10.5, 10.5),
    "tremor": (1.6, 1.6, 1, 0, 0, 0, 0, 0, 0),
    "muscle": (20, 21, 6.5, 10.5, 10.5, 10.5, 10.5, 10.5, 10.5),
    "mains": (0.3, 1.0, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2),
}
# Standard deviation of their logarithm: between records, and between the electrodes of a record.
_BETWEEN = {"wander": 0.60, "contact": 0.30, "tremor": 0.22, "muscle": 0.55, "mains": 0.60}
_WITHIN = {
    "wander": (0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75),
    "contact": 0.25, "tremor": 0.25, "mains": 0.5,
    "muscle": (0.75, 0.75, 1.0, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35),
}  # fmt: skip
_MAINS = {50: 1.0, 100: 0.25, 150: 0.9, 200: 0.1, 250: 0.12}  # Hz: size against the 50 Hz
_BURST = 0.47  # by how much muscle noise swells, standard deviation of the logarithm
_TRUNK = 0.8  # how much of the limbs' mean the chest follows
_SLOW, _FILTER = 0.05, 0.45  # Hz, high pass without and with baseline filter
# Shares of records. Swaps: 0.4 % of ECGs of out-patients (Rudiger et al. 2007); electrodes off:
# as often as PTB-XL notes a problem of electrodes.
_CHANCE = {"filter": 0.27, "motion": 0.08, "steps": 0.04, "off": 0.003, "swap": 0.004}
_BUMPS, _STEPS = 6, 2  # the most in one record

_UNIFORM = {**dict.fromkeys(_CHANCE, 1), "many": 2, "which": 1, "moved": 2, "rate": _BUMPS,
            "turn": _BUMPS, "step": 2 * _STEPS, "phase": 9 * len(_MAINS)}  # fmt: skip
_NORMAL = {"drift": 1, "restless": 1, "hum": 1, "breath": 2, "burst": 1, "offset": _BUMPS,
           "bump": _BUMPS, "step": _STEPS, **dict.fromkeys(_SIZES, 9)}  # fmt: skip
# Records' part of a size; contact, tremor and muscle noise grow together in a restless patient.
_SHARED = {"wander": "drift", "contact": "restless", "tremor": "restless", "muscle": "restless",
           "mains": "hum"}  # fmt: skip


def _alike():
    """Correlation of drift between electrodes: falls with distance around the chest.  (9, 9)"""
    place = np.array([-1.0, 8, 5, 1, 2, 3, 4, 5, 6])
    alike = np.exp(-np.abs(place[:, None] - place) / 4.7)
    alike[2] *= 0.5  # the left leg is far from all
    alike[:, 2] *= 0.5
    np.fill_diagonal(alike, 1)
    return alike


_ALIKE = _alike()
_MIX = np.linalg.cholesky(_ALIKE)
_OWN = np.eye(9)  # noise that arises at an electrode, to potentials: the chest follows the limbs
_OWN[3:, :3] = _TRUNK / 3
_OWN = READ @ _OWN  # ... and to leads  (8, 9)


def noise(streams, fs, samples, level=1.0):
    """Noise of many records, each from its own random numbers.

    streams: sequence of numpy Generators, one a record. fs: sampling rate in Hz, 50 to 1,000.
    samples: length of a record. level: multiplies all sizes, and the chances that an electrode is
        off or arms are swapped; 0 gives none.
    Returns `leads`, float32 mV (record, 8, time) of I, II, V1 ... V6, and `table`, a DataFrame:
    `wander` (drift, breathing), `muscle` (with tremor), `mains`, `motion` (contact, bumps), all in
    µV rms over the eight leads; `steps`, their number; `baseline_filter`, bool; `lead_off`, an
    electrode or ""; `swapped`, bool (see `mishaps`).
    A record is the same in any batch, and another `fs` sees the same noise in another band.
    Raises ValueError for an argument out of its range. Model: this module's docstring.
    """
    check_number("fs", fs, 50, 1000)
    check_number("samples", samples, 1, 1e12, whole=True)
    check_number("level", level, 0, 1e6)
    samples = int(samples)
    u, z = _draw(streams)
    size = {name: level * _size(z, name) for name in _SIZES}  # (record, 9)
    shape = _shapes(fs, samples)
    device = _happens(u, "filter").astype(int)  # 1: with baseline filter
    wander = shape["device"][device] * _wander(shape["few"], z["breath"])  # (record, frequency)
    burst = _BURST * np.exp(0.35 * z["burst"][:, 0])
    leads = np.empty((len(streams), len(INDEPENDENT), samples), np.float32)  # µV until the end
    for i, stream in enumerate(streams):
        own = {name: size[name][i] for name in size}
        leads[i] = _slow_noise(stream, wander[i], shape, device[i], own, samples)
        leads[i] += _muscle_noise(stream, shape, burst[i], own["muscle"], samples)
    power = _powers(wander, shape, device, size)
    power["mains"] = _add_mains(leads, size["mains"], u["phase"], fs)
    power["motion"] += _add_bumps(leads, u, z, fs, level)
    table = {name: np.sqrt(power[name]) for name in ("wander", "muscle", "mains", "motion")}
    table |= {"steps": _add_steps(leads, u, z, fs, level), "baseline_filter": device == 1}
    name = np.array(ELECTRODES, object)[_electrode(u["which"][:, 0])]
    table["lead_off"] = np.where(_happens(u, "off", level), name, "")
    table["swapped"] = _happens(u, "swap", level)
    leads *= np.float32(1e-3)
    return leads, pd.DataFrame(table)


def mishaps(leads, table):
    """The leads as they come out where the arms are swapped, then where an electrode is off.

    leads: (record, 8, time) of I, II, V1 ... V6, heart and noise. table: its column `swapped` says
    where the arms' electrodes are exchanged: lead I turns over, II becomes III, and so on; V1 to V6
    stay, since Wilson's terminal does. `lead_off` names an electrode that reads nothing, or "". An
    open input rests where the network of resistors behind Wilson's terminal holds it, at the mean
    of the limb electrodes that are left. So V1 ... V6 are flat without their electrode; without one
    of a limb two limb leads halve what the third reads, and V1 ... V6 change their reference.
    Returns a new array. Raises ValueError for an unknown electrode.
    """
    leads = np.array(leads)
    for i in np.flatnonzero(table["swapped"]):
        one, two = leads[i, :2]
        leads[i, :2] = -one, two - one
    for i in np.flatnonzero(table["lead_off"] != ""):
        leads[i] = _without(ELECTRODES.index(table["lead_off"][i])) @ leads[i]
    return leads


def _without(electrode):
    """Eight leads to eight leads with one electrode open.  (8, 8)"""
    limbs = [e for e in range(3) if e != electrode]
    potential = np.eye(9)
    potential[electrode] = 0
    potential[electrode, limbs] = 1 / len(limbs)
    return READ @ potential @ np.linalg.pinv(READ)


# --- what is drawn ------------------------------------------------------------------------------


def _draw(streams):
    """Random numbers that choose sizes, kinds and times: first of all, and the same at any `fs`."""
    u = [stream.random(sum(_UNIFORM.values())) for stream in streams]
    z = [stream.standard_normal(sum(_NORMAL.values())) for stream in streams]
    return _columns(u, _UNIFORM), _columns(z, _NORMAL)


def _columns(rows, widths):
    """Rows of numbers by name: a dict of arrays (record, width)."""
    rows = np.reshape(rows, (len(rows), sum(widths.values())))
    return dict(zip(widths, np.split(rows, np.cumsum(list(widths.values()))[:-1], axis=1)))


def _size(z, name):
    """Sizes of one kind of noise, log-normal: (record, 9)."""
    spread = _BETWEEN[name] * z[_SHARED[name]] + np.array(_WITHIN[name]) * z[name]
    return np.array(_SIZES[name]) * np.exp(spread)


def _happens(u, name, level=1.0):
    """Which records have this kind of event: bool (record,)."""
    return u[name][:, 0] < _CHANCE[name] * level


def _electrode(uniform):
    """A number from 0 to 1 picks an electrode."""
    return np.floor(9 * uniform).astype(int)


# --- spectra and time courses -------------------------------------------------------------------


def _shapes(fs, samples):
    """What all records share: densities for a size of 1, by frequency, and the envelope's knots.

    Drift and breathing end before 4 Hz, contact and tremor before 20 Hz, whatever `fs`. A spectrum
    gives periodic noise, so the slow kinds are made for a quarter longer, and cut.
    """
    step, fine = fs / (samples + samples // 4), fs / samples  # Hz
    f, g = np.arange(int(20 / step) + 1) * step, np.arange(samples // 2 + 1) * fine
    few = f[: int(4 / step) + 1]
    filtered = (f / _FILTER) ** 3 / np.sqrt(1 + (f / _FILTER) ** 6)
    device = np.stack([f / np.hypot(f, _SLOW), filtered])  # (without or with filter, frequency)
    muscle = g / np.hypot(g**2, 12**2) / np.sqrt(1 + (g / 220) ** 8)
    contact = device / np.hypot(f, 0.8) / np.sqrt(1 + (f / 13) ** 4)
    tremor = device * f / np.hypot(f, 4) * np.exp(-((f - 9) ** 2) / (2 * 4**2))
    at = np.arange(samples) * (2 / fs)  # two knots a second, straight lines between them
    weights = np.array([1 - at % 1, at % 1])
    return {
        "step": step, "fine": fine, "few": few, "device": device[:, : len(few)],
        "contact": np.float32(contact), "tremor": np.float32(tremor),
        "muscle": np.float32(muscle / np.sqrt(1 + (g / (0.48 * fs)) ** 40)),
        "knot": at.astype(int), "weights": np.float32(weights / np.hypot(*weights)),  # variance 1
    }  # fmt: skip


def _wander(f, breath):
    """Drift and breathing for a size of 1: (record, frequency). A record has its own breathing."""
    rate = np.clip(0.25 * np.exp(0.25 * breath[:, :1]), 0.15, 0.40)  # Hz
    depth = 0.5 * np.exp(0.5 * breath[:, 1:] - 0.125)
    return np.hypot(1 / (1 + (f / 0.12) ** 2), depth * np.exp(-((f - rate) ** 2) / (2 * 0.04**2)))


def _powers(wander, shape, device, size):
    """Mean squares over the leads, µV²: a dict of arrays (record,)."""
    integral = {name: (shape[name] ** 2).sum(-1) for name in ("contact", "tremor", "muscle")}
    own = {name: (size[name] ** 2) @ (_OWN**2).mean(0) for name in integral}
    tremor = own["tremor"] * integral["tremor"][device] * shape["step"]
    drift = np.einsum("ie,if,ef->i", size["wander"], size["wander"], (READ.T @ READ) * _ALIKE)
    return {
        "wander": drift / len(READ) * (wander**2).sum(1) * shape["step"],
        "motion": own["contact"] * integral["contact"][device] * shape["step"],
        "muscle": tremor + own["muscle"] * integral["muscle"] * shape["fine"],
    }


def _slow_noise(stream, wander, shape, device, size, samples):
    """Drift, breathing, contact and tremor of one record at the leads, µV (8, time)."""
    to_leads = _MIX.T @ (size["wander"][:, None] * READ.T)  # (9, 8)
    drift = _white(stream, wander, shape["step"]) @ to_leads.astype(np.float32)
    contact = shape["contact"][device, :, None] * np.float32(size["contact"])  # (frequency, 9)
    tremor = shape["tremor"][device, :, None] * np.float32(size["tremor"])
    own = np.sqrt(contact**2 + tremor**2)
    spectrum = _white(stream, own, shape["step"]) @ _OWN.T.astype(np.float32)
    spectrum[: len(drift)] += drift  # (frequency x 2, 8)
    return _series(spectrum, samples + samples // 4)[:, :samples]


def _muscle_noise(stream, shape, burst, size, samples):
    """Muscle noise of one record at the leads, µV (8, time). Its envelope keeps the mean square."""
    knots = stream.standard_normal((shape["knot"][-1] + 2, 9), np.float32).T
    steady = _series(_white(stream, shape["muscle"], shape["fine"]), samples)  # (9, time)
    left, right = shape["weights"]
    swell = knots.take(shape["knot"], 1) * left + knots.take(shape["knot"] + 1, 1) * right
    steady *= np.exp(np.float32(burst) * swell - np.float32(burst**2))
    return (_OWN * size).astype(np.float32) @ steady


def _white(stream, density, step):
    """Gaussian spectrum of nine electrodes, low frequencies first: (frequency x 2, 9).

    density: (frequency,) or (frequency, 9). Real and imaginary parts are rows of their own.
    """
    # The real inverse transform counts each frequency twice: half of the amplitude.
    draws = stream.standard_normal((len(density), 2, 9), np.float32)
    draws *= np.float32(density * (math.sqrt(step) / 2)).reshape(len(density), 1, -1)
    return draws.reshape(-1, 9)


def _series(spectrum, length):
    """Time courses (channel, time) from a spectrum (frequency x 2, channel)."""
    turned = np.ascontiguousarray(spectrum.T).view(np.complex64)  # (channel, frequency)
    return fft.irfft(turned, length, norm="forward")


# --- mains, bumps, steps: added to the leads in place -------------------------------------------


def _add_mains(leads, size, phase, fs):
    """Sines at 50 Hz and its multiples below half of `fs`; returns the mean square, µV²."""
    kept = [hertz for hertz in _MAINS if hertz < fs / 2]
    if not kept:  # the filter before sampling leaves nothing
        return np.zeros(len(leads))
    share = math.sqrt(2) * np.array([_MAINS[hertz] for hertz in kept])
    turn = np.exp(2j * np.pi * phase.reshape(len(phase), 9, len(_MAINS))[:, :, : len(kept)])
    hum = READ @ (size[:, :, None] * share * turn)  # µV (record, 8, multiple)
    angle = 2 * np.pi * np.array(kept)[:, None] * np.arange(leads.shape[2]) / fs
    waves = np.concatenate([np.cos(angle), -np.sin(angle)]).astype(np.float32)
    leads += np.concatenate([hum.real, hum.imag], axis=2).astype(np.float32) @ waves
    return (np.abs(hum) ** 2).sum(2).mean(1) / 2


def _add_bumps(leads, u, z, fs, level):
    """One electrode moves: a few waves of 1-8 Hz close together; returns their mean square, µV²."""
    power = np.zeros(len(leads))
    t = np.arange(leads.shape[2]) / fs
    for i in np.flatnonzero(_happens(u, "motion")):
        where, when = u["moved"][i]
        many = 2 + int((_BUMPS - 1) * u["many"][i, 0])  # 2 to all
        rate, turn = 8 ** u["rate"][i, :many, None], u["turn"][i, :many, None]  # Hz; share of 2 pi
        past = t - when * len(t) / fs - 0.4 * z["offset"][i, :many, None]  # s (bump, time)
        size = level * 130 * np.exp(0.7 * z["bump"][i, :many, None])  # µV
        waves = size * np.exp(-0.5 * (past * rate / 0.4) ** 2)
        waves *= np.cos(2 * np.pi * (rate * past + turn))
        weight, bump = READ[:, _electrode(where)], waves.sum(0)
        leads[i] += np.outer(weight, bump).astype(np.float32)
        power[i] = (weight**2).mean() * (bump**2).mean()
    return power


def _add_steps(leads, u, z, fs, level):
    """Jumps of one electrode's baseline, recovering as the device's high pass lets them.

    Some happen in the three seconds before the record. Returns how many each record has.
    """
    t = np.arange(leads.shape[2]) / fs
    many = _happens(u, "steps") * (1 + (_STEPS * u["many"][:, 1]).astype(int)) * (level > 0)
    for i in np.flatnonzero(many):
        corner = _FILTER if _happens(u, "filter")[i] else _SLOW
        for k in range(many[i]):
            where, when = u["step"][i, 2 * k : 2 * k + 2]
            past = t + 3 - when * (len(t) / fs + 3)
            spread = z["step"][i, k]
            size = level * 120 * math.copysign(math.exp(0.8 * abs(spread)), spread)  # µV
            step = np.where(past >= 0, size * np.exp(-2 * np.pi * corner * np.maximum(past, 0)), 0)
            leads[i] += np.outer(READ[:, _electrode(where)], step).astype(np.float32)
    return many
