"""Is a simulated cohort like a real one? Intervals, amplitudes, spectra, and a network's opinion.

    measured = measure(cohort)                          # a row a record
    table = compare(measure(simulated), measure(real))  # the same code for both cohorts
    python -m ecgtutorial.evaluate.realism --data ../shared/ptb-xl

The delineator knows nothing of the simulator. It works as electrocardiographs do: it aligns the
beats of a record, takes their median, and looks for the earliest onset and the latest offset over
all leads. Its thresholds are our choice. Explained in the chapter *Cohorts*.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import signal
from torch import nn
from torch.nn import functional as F

from .. import leads, metrics, plots, runs
from ..cohort import open_cohort
from .windows import window_starts

FS = 500  # Hz, the rate at which beats are measured
BEFORE, AFTER = 200, 340  # samples of a beat before and after its QRS: 400 and 680 ms
QUARTILES = [0.25, 0.5, 0.75]
BANDS = ((0.5, 3), (3, 10), (10, 25), (25, 45))  # Hz
_CORE = slice(BEFORE - 50, BEFORE + 51)  # the QRS and 50 ms around it
_LAGS = 20  # samples by which a beat may move when it is aligned

# --- the delineator ---------------------------------------------------------------------------


def find_beats(x):
    """Where the QRS complexes of a record are. `x`: mV (lead, time) at 500 Hz -> samples."""
    band = signal.butter(2, (8, 30), "bandpass", fs=FS, output="sos")
    slope = np.abs(np.gradient(signal.sosfiltfilt(band, x), axis=1))
    slope = np.minimum(slope, np.quantile(slope, 0.995, axis=1, keepdims=True))  # spikes
    energy = np.convolve(np.sqrt(np.square(slope).mean(axis=0)), np.ones(30) / 30, "same")
    n = max(1, len(energy) // (FS * 3 // 2))
    highest = energy[: n * (FS * 3 // 2)].reshape(n, -1).max(axis=1)  # of each 1.5 s
    return signal.find_peaks(energy, height=0.4 * np.median(highest), distance=FS // 4)[0]


def median_beat(x, peaks):
    """The median of the beats that look alike, aligned to a fraction of a sample.

    `x`: mV (lead, time) at 500 Hz; `peaks`: samples. Returns beats (beat, lead, time) and times of
    all beats (s). Raises ``ValueError`` for fewer than 3 alike.
    """
    centres = np.asarray(peaks, float)
    centres = centres[(centres > 80) & (centres < x.shape[1] - 80)]
    for _ in range(2):
        beats = _alike(_cut(x, centres))
        template = np.median(beats, axis=0)[:, _CORE]
        template = template - template.mean(axis=1, keepdims=True)
        centres = np.array([_aligned(x, centre, template) for centre in centres])
    return _alike(_cut(x, centres)), centres / FS


def _cut(x, centres):
    """Beats around fractional samples, zero between P and QRS: (beat, lead, time)."""
    whole = np.floor(centres).astype(int)
    inside = (whole >= BEFORE) & (whole + AFTER + 1 < x.shape[1])
    if inside.sum() < 3:
        raise ValueError(f"{inside.sum()} whole beats: expected at least 3")
    whole, part = whole[inside], (centres - np.floor(centres))[inside, None]
    index = whole[:, None] + np.arange(-BEFORE, AFTER + 1)
    beats = (1 - part) * x[:, index] + part * x[:, index + 1]  # (lead, beat, time)
    level = np.median(beats[:, :, BEFORE - 75 : BEFORE - 30], axis=2, keepdims=True)
    return (beats - level).transpose(1, 0, 2)


def _alike(beats):
    """Without the beats whose QRS is unlike the median's: premature ones, artefacts."""
    core = beats[:, :, _CORE].reshape(len(beats), -1)
    with np.errstate(invalid="ignore", divide="ignore"):  # flat beats are like nothing
        alike = np.corrcoef(core, np.median(core, axis=0))[-1, :-1] > 0.85
    if alike.sum() < 3:
        raise ValueError(f"{alike.sum()} beats alike: expected at least 3")
    return beats[alike]


def _aligned(x, centre, template):
    """`centre` moved to where the QRS fits the template (lead, time) best, by a parabola."""
    middle, half = round(centre), template.shape[1] // 2
    part = x[:, max(0, middle - half - _LAGS) : middle + half + _LAGS + 1]
    if part.shape[1] < 2 * (half + _LAGS) + 1:
        return centre
    windows = np.lib.stride_tricks.sliding_window_view(part, 2 * half + 1, axis=1)
    error = windows - windows.mean(axis=2, keepdims=True) - template[:, None]  # (lead, lag, time)
    error = np.square(error).sum(axis=(0, 2))
    best = error.argmin()
    if not 0 < best < len(error) - 1:
        return centre
    left, low, right = error[best - 1 : best + 2]
    return middle + best - _LAGS + 0.5 * (left - right) / max(left - 2 * low + right, 1e-12)


def qrs_bounds(beat):
    """First and last sample of the QRS over all leads of a beat, mV (lead, time).

    It ends where the slope over all leads stays small for 16 ms. Small is 5 % of the steepest, or
    as much more as it takes: after a bundle branch block the ST segment is steep as well.
    Raises ``ValueError`` where no slope is small.
    """
    smooth = signal.savgol_filter(beat, 7, 2, axis=1)
    slope = np.sqrt(np.square(np.gradient(smooth, axis=1)).sum(axis=0))
    steepest = _CORE.start + slope[_CORE].argmax()
    for share in (0.05, 0.08, 0.12, 0.18, 0.25):
        limit = max(share * slope[steepest], 2 * np.quantile(slope, 0.25))
        quiet = np.convolve(slope < limit, np.ones(8), "valid") == 8  # the 16 ms from here on
        before, after = np.flatnonzero(quiet[: steepest - 7]), np.flatnonzero(quiet[steepest:])
        if len(before) and len(after):
            first, last = before[-1] + 7, steepest + after[0]
            if last - first < 0.19 * FS:
                return first, last
    raise ValueError("the QRS has no end")


def _wave(beats, first, last):
    """The wave that most leads share between two samples, upright, and how steady it is.

    `beats`: (beat, lead, time), `first`, `last`: samples. Returns the first principal component of
    the median beat in mV (time,), and mean over standard deviation of its size in single beats.
    """
    parts = signal.savgol_filter(beats[:, :, first:last], 15, 2, axis=2)
    median = np.median(parts, axis=0)  # (lead, time)
    centred = median - median.mean(axis=1, keepdims=True)
    direction = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    wave = direction @ median
    wave *= np.sign(wave[np.abs(wave).argmax()])
    shape = direction @ centred
    sizes = np.einsum("l,blt,t->b", direction, parts, shape) / max(shape @ shape, 1e-12)
    return wave, sizes.mean() / max(sizes.std(), 1e-9)


def _foot(wave):
    """Where the tangent at the first half height of a wave meets its base, in samples.

    `wave` (time,) rises from a base on the left. The tangent is the steepest within 30 ms.
    """
    peak = wave.argmax()
    base = np.quantile(wave[: peak + 1], 0.1)
    half = np.argmax(wave > base + 0.5 * (wave[peak] - base))
    slope = np.gradient(wave)
    near = np.arange(max(0, half - 15), min(half + 16, len(wave)))
    steepest = near[slope[near].argmax()]
    foot = steepest - (wave[steepest] - base) / max(slope[steepest], 1e-9)
    return min(max(foot, 0), peak)


def delineate(x, peaks):
    """Intervals and the median beat of a record, `x`: mV (lead, time) at 500 Hz.

    Returns a dictionary: `heart_rate` (beats a minute), `pr`, `qrs`, `qt` (ms, global; NaN where a
    wave is not found) and `beat`, mV (lead, time), with samples `first`, `last` of the QRS and
    `end` of the T wave. Raises ``ValueError`` where there are no three beats alike.
    """
    beats, times = median_beat(x, peaks)
    rr = np.median(np.diff(times)) * FS
    first, last = qrs_bounds(np.median(beats, axis=0))
    beats = beats - np.median(beats[:, :, first - 10 : first - 3], axis=2, keepdims=True)
    end = p_first = np.nan
    start = last + 30
    stop = round(min(first + 0.58 * np.sqrt(rr * FS), first + rr - 75, beats.shape[2]))
    if stop - start > 40:
        wave, _ = _wave(beats, start, stop)
        end = stop - 1 - _foot(wave[::-1])
    start = round(max(first - 160, np.nan_to_num(end - rr + 10), 0))
    if first - start > 40:
        wave, steadiness = _wave(beats, start, first - 5)
        foot = _foot(wave)
        # Fibrillation leaves a wave in the median, but of any size in single beats; a foot at the
        # very start is a T wave's tail.
        if steadiness > 1.5 and foot > 5:
            p_first = start + foot
    ms = 1000 / FS
    return {
        "heart_rate": 60 * FS / rr, "pr": (first - p_first) * ms, "qrs": (last - first) * ms,
        "qt": (end - first) * ms, "beat": np.median(beats, axis=0), "first": first, "last": last,
        "end": end,
    }  # fmt: skip


# --- measures of a cohort ---------------------------------------------------------------------

INTERVALS = {"heart_rate": "beats/min", "pr": "ms", "qrs": "ms", "qt": "ms"}
AMPLITUDES = ("QRS", "R", "S", "T")
FEATURES = {
    **INTERVALS,
    **{f"{kind}_{lead}": "mV" for kind in AMPLITUDES for lead in leads.LEADS},
    "noise": "µV",
    **{f"{low:g}-{high:g} Hz": "µV" for low, high in BANDS},
}  # name: unit


def measure(cohort, n_jobs=1):
    """Intervals, amplitudes and noise of every record, as a data frame with a row a record.

    `cohort`: 12 leads, at least 100 Hz; `n_jobs`: processes. Columns besides ``record_id`` are
    those of `FEATURES`: ``heart_rate``, ``pr``, ``qrs``, ``qt``; of the median beat in each lead
    ``QRS_V1`` (peak to peak), ``R_V1`` (highest), ``S_V1`` (deepest, counted positive; a Q wave or
    a QS complex counts too) and ``T_V1`` (signed); ``noise``, the robust deviation above 20 Hz
    between the QRS complexes; and root mean squares in the bands of the spectrum. The last two are
    medians over the 8 independent leads. NaN where a record has no measurable beat.
    Raises ``ValueError`` for other leads or a lower rate.
    """
    if tuple(cohort.leads) != leads.LEADS or cohort.fs < 100:
        raise ValueError(
            f"measure needs the 12 standard leads at 100 Hz or more, found {len(cohort.leads)} "
            f"leads at {cohort.fs} Hz"
        )
    rows = joblib.Parallel(n_jobs, batch_size=64)(
        joblib.delayed(_measure)(record * 1e-3, cohort.fs) for record in cohort.signals
    )
    frame = pd.DataFrame(rows, columns=list(FEATURES))
    frame.insert(0, "record_id", cohort.table["record_id"].to_numpy())
    return frame


def _measure(record, fs):
    """The features of one record, mV (lead, time)."""
    common = math.gcd(FS, fs)
    x = signal.resample_poly(record, FS // common, fs // common, axis=1, padtype="line")
    peaks = find_beats(x)
    row = _noise(record[leads.index(leads.INDEPENDENT)], fs, peaks / FS)
    try:
        found = delineate(x, peaks)
    except ValueError:  # no beat can be measured: NaN
        return row
    first, last, end, beat = (found[name] for name in ("first", "last", "end", "beat"))
    qrs = beat[:, first - 5 : last + 6]
    values = {"QRS": np.ptp(qrs, axis=1), "R": qrs.max(axis=1), "S": -qrs.min(axis=1)}
    if np.isfinite(end):
        t_wave = beat[:, last + 30 : round(end) + 1]
        highest = np.abs(t_wave).argmax(axis=1)[:, None]
        values["T"] = np.take_along_axis(t_wave, highest, axis=1)[:, 0]
    for kind, numbers in values.items():
        row |= {f"{kind}_{lead}": value for lead, value in zip(leads.LEADS, numbers)}
    return row | {name: found[name] for name in INTERVALS}


def _noise(record, fs, times):
    """Noise floor and band amplitudes in µV: medians over the leads, mV (lead, time)."""
    fast = signal.sosfiltfilt(signal.butter(4, 20, "highpass", fs=fs, output="sos"), record)
    moments = np.arange(record.shape[1]) / fs
    away = np.ones(len(moments), bool)
    for time_of_beat in times:
        away &= np.abs(moments - time_of_beat) > 0.12
    quiet = fast[:, away] if away.any() else fast
    row = {"noise": 1e3 * np.median(1.4826 * np.median(np.abs(quiet), axis=1))}
    hz, power = signal.periodogram(record, fs, window="hann")  # mV²/Hz (lead, frequency)
    for low, high in BANDS:
        inside = (hz >= low) & (hz < high)
        row[f"{low:g}-{high:g} Hz"] = 1e3 * np.median(np.sqrt(power[:, inside].sum(axis=1) * hz[1]))
    return row


def spectrum(cohort):
    """Power spectral density of each lead by Welch's method, over records.

    Windows of 4 s. Returns a data frame: ``lead``, ``hz``, and ``q25``, ``median``, ``q75`` over
    the records in mV²/Hz.
    """
    parts = []
    for start in range(0, len(cohort), 256):
        block = cohort.signals[start : start + 256] * 1e-3
        hz, power = signal.welch(block, cohort.fs, nperseg=min(4 * cohort.fs, block.shape[2]))
        parts.append(power.astype(np.float32))  # (record, lead, frequency)
    low, middle, high = np.quantile(np.concatenate(parts), QUARTILES, axis=0)
    return pd.DataFrame({
        "lead": np.repeat(cohort.leads, len(hz)), "hz": np.tile(hz, len(cohort.leads)),
        "q25": low.ravel(), "median": middle.ravel(), "q75": high.ravel(),
    })  # fmt: skip


def compare(simulated, real):
    """Are the simulated medians inside the real interquartile ranges?

    `simulated`, `real`: data frames of `measure`. Returns one row a feature: ``feature``, ``unit``,
    ``simulated`` (median), ``real_q25``, ``real``, ``real_q75``, ``inside``, and ``simulated_q25``,
    ``simulated_q75``. Raises ``ValueError`` without a common feature.
    """
    names = [name for name in FEATURES if name in simulated and name in real]
    if not names:
        raise ValueError("simulated and real have no feature in common: give frames of measure()")
    mine, theirs = (frame[names].quantile(QUARTILES).to_numpy() for frame in (simulated, real))
    return pd.DataFrame({
        "feature": names, "unit": [FEATURES[name] for name in names], "simulated": mine[1],
        "real_q25": theirs[0], "real": theirs[1], "real_q75": theirs[2],
        "inside": (theirs[0] <= mine[1]) & (mine[1] <= theirs[2]),
        "simulated_q25": mine[0], "simulated_q75": mine[2],
    })  # fmt: skip


# --- a network's opinion ----------------------------------------------------------------------

INPUTS = ("millivolts", "standardised")


def discriminator(simulated, real, seed=0, *, inputs="millivolts", seconds=2.5, epochs=8):
    """How well a small network tells simulated records from real ones: 0.5 is not at all.

    `simulated`, `real`: cohorts of one rate; as many records of each are used in each part. The
    network sees crops of `seconds` of the 8 independent leads, in ``"millivolts"``, or
    ``"standardised"``: each record less its leads' means, over its standard deviation. It learns on
    folds 1-8, fold 9 picks the epoch, fold 10 answers, each record the mean over its windows.
    Returns a data frame: ``metric`` (``auc``, ``accuracy``), ``inputs``, ``seed``, ``value`` with
    its 95 % interval ``low``, ``high`` over patients, ``n_records``, ``n_patients``.
    Raises ``ValueError`` for other inputs or two rates.
    """
    if inputs not in INPUTS:
        raise ValueError(f"inputs is {inputs!r}: expected one of {INPUTS}")
    if simulated.fs != real.fs:
        raise ValueError(f"simulated has {simulated.fs} Hz, real {real.fs} Hz: expected one rate")
    length = round(seconds * real.fs)
    train, validation, (signals, target, patients) = (
        _both(mine, theirs, inputs, seed) for mine, theirs in zip(simulated.split(), real.split())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _train(train, validation, length, epochs)
    score = _scores(network, signals, length)
    weights = metrics.patient_weights(patients)
    right, columns = (score > 0) == (target > 0), (target[:, None], score[:, None])
    table = pd.DataFrame({"metric": ["auc", "accuracy"], "inputs": inputs, "seed": seed})
    table["value"] = [float(metrics.macro_auc(*columns)), float(right.mean())]
    table[["low", "high"]] = [
        metrics.interval(metrics.bootstrap_macro_auc(*columns, weights)),
        metrics.interval(weights @ right / weights.sum(axis=1)),
    ]
    return table.assign(n_records=len(target), n_patients=len(np.unique(patients)))


def _both(simulated, real, inputs, seed):
    """Signals (record, lead, time), targets (1 is simulated) and patients, as many of each."""
    generator, many = np.random.default_rng(seed), min(len(simulated), len(real))
    signals, patients = [], []
    for name, cohort in (("simulated", simulated), ("real", real)):
        rows = np.sort(generator.permutation(len(cohort))[:many])
        part = cohort.millivolts(rows)[:, leads.index(leads.INDEPENDENT)]
        if inputs == "standardised":
            part = part - part.mean(axis=2, keepdims=True)
            part = part / (part.std(axis=(1, 2), keepdims=True) + 1e-6)
        signals.append(torch.from_numpy(np.ascontiguousarray(part)))
        patients += [f"{name} {patient}" for patient in cohort.table["patient_id"].iloc[rows]]
    return torch.cat(signals), np.repeat([1, 0], many), np.array(patients)


def _network(n_leads):
    """Four convolutions, the mean over time, one number: about 20,000 weights."""
    layers, width = [], n_leads
    for wider, kernel in ((24, 7), (32, 7), (48, 5), (48, 3)):
        layers += [nn.Conv1d(width, wider, kernel, stride=2, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm1d(wider), nn.ReLU()]
        width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 1))


def _train(train, validation, length, epochs, batch_size=64):
    """The network of the epoch with the best AUC on the validation part."""
    signals, target = train[0], torch.tensor(train[1], dtype=torch.float32)
    network = _network(signals.shape[1])
    steps = math.ceil(len(signals) / batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps)
    best, best_auc = None, -1.0
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(signals)).tensor_split(steps):
            start = torch.randint(signals.shape[2] - length + 1, ()).item()
            logits = network(signals[rows, :, start : start + length])[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = _scores(network, validation[0], length)
        auc = metrics.macro_auc(validation[1][:, None], score[:, None])
        if auc > best_auc:
            best_auc, best = auc, copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return network


@torch.inference_mode()
def _scores(network, signals, length):
    """Mean logit over the windows of each record: (record,)."""
    network.eval()
    starts = window_starts(signals.shape[2], length)
    batches = [
        sum(network(block[:, :, start : start + length])[:, 0] for start in starts) / len(starts)
        for block in signals.split(256)
    ]
    return torch.cat(batches).numpy()


# --- figure and publication -------------------------------------------------------------------

COHORTS = {  # colour, marker, line
    "simulated": (plots.VERMILLION, "o", "--"), "real": (plots.BLUE, "s", "-"),
}  # fmt: skip
SHOWN = (*INTERVALS, *(f"QRS_{lead}" for lead in leads.LEADS),
         *(f"{kind}_V{i}" for kind in "RS" for i in range(1, 7)))  # fmt: skip
_HISTOGRAMS = {  # axis label, width of a bin
    "heart_rate": ("heart rate", 4), "pr": ("PR interval", 8), "qrs": ("QRS duration", 4),
    "qt": ("QT interval", 8),
}  # fmt: skip


def figure(simulated, real, spectra):
    """The realism figure: amplitudes, R/S progression, intervals and spectra of both cohorts.

    `simulated`, `real`: data frames of `measure`; `spectra`: {"simulated": frame, "real": frame} of
    `spectrum`. Points are medians, bars and bands the middle half of the records.
    Returns the matplotlib figure. Chapter: *Cohorts*.
    """
    frames = {"simulated": simulated, "real": real}
    rows = (["QRS", "QRS"], ["RS", "RS"], ["heart_rate", "pr"], ["qrs", "qt"], ["II", "V2"])
    # Outside the context: leaving it would switch off a notebook's inline display.
    page = plt.figure(figsize=(7.0, 13.0), dpi=plots.style()["figure.dpi"], layout="constrained")
    with plt.rc_context(plots.style()):
        axes = page.subplot_mosaic([list(row) for row in rows], height_ratios=(1, 1.1, 0.8, 0.8, 1))
        for shift, (name, frame) in zip((-0.13, 0.13), frames.items()):
            _bars(axes["QRS"], frame, "QRS", leads.LEADS, name, shift, line="none")
            _bars(axes["RS"], frame, "R", leads.LEADS[6:], name, shift / 2)
            _bars(axes["RS"], frame, "S", leads.LEADS[6:], name, shift / 2, sign=-1)
            for lead in ("II", "V2"):
                _density(axes[lead], spectra[name], lead, name)
        for feature in INTERVALS:
            _histograms(axes[feature], frames, feature)
        axes["QRS"].set(ylabel="peak to peak (mV)", title="QRS amplitude", ylim=(0, None))
        axes["QRS"].legend(ncols=2, loc="upper left")
        axes["RS"].set(ylabel="amplitude (mV)", title="R (up) and S (down) across the chest")
        axes["RS"].axhline(0, color=plots.GREY, linewidth=0.8)
        axes["heart_rate"].set_title("Rate and intervals")
        axes["II"].set_ylabel("density (mV²/Hz)")
    return page


def _bars(ax, frame, kind, names, cohort, shift, sign=1, line="-"):
    """Medians and middle halves of one amplitude, lead by lead."""
    colour, marker, _ = COHORTS[cohort]
    columns = [f"{kind}_{name}" for name in names]
    low, middle, high = sign * frame[columns].quantile(QUARTILES).to_numpy()
    x = np.arange(len(names)) + shift
    ax.vlines(x, low, high, color=colour, linewidth=3, alpha=0.45)
    ax.plot(x, middle, marker=marker, color=colour, linestyle=line, markersize=6, label=cohort)
    ax.set_xticks(range(len(names)), names)
    ax.grid(axis="y")


def _histograms(ax, frames, feature):
    """One feature of both cohorts, without the last percent of stragglers."""
    label, width = _HISTOGRAMS[feature]
    both = pd.concat([frame[feature] for frame in frames.values()]).dropna()
    low, high = both.quantile([0.005, 0.99]) // width * width
    edges = np.arange(low, high + 2 * width, width)
    for name, frame in frames.items():
        values = frame[feature].dropna()
        share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        ax.stairs(share, edges, color=COHORTS[name][0], linestyle=COHORTS[name][2], linewidth=1.8)
    ax.set(xlabel=f"{label} ({FEATURES[feature]})", ylabel="records (%)")


def _density(ax, frame, lead, name):
    """The spectrum of one lead."""
    rows = frame[(frame["lead"] == lead) & (frame["hz"] > 0)]
    colour, _, style = COHORTS[name]
    ax.fill_between(rows["hz"], rows["q25"], rows["q75"], color=colour, alpha=0.2, linewidth=0)
    ax.loglog(rows["hz"], rows["median"], color=colour, linestyle=style, linewidth=1.6)
    ax.set(xlabel="frequency (Hz)", title=f"Spectrum, lead {lead}")
    ax.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()


def publish(simulated, real, path, n_jobs=1, seeds=(0, 1, 2)):
    """Measure, compare and discriminate two cohorts into ``path`` (.csv), with how it came to be.

    Rows of task ``realism`` hold the median over records in ``value`` and the quartiles in ``low``
    and ``high``; those of task ``discriminator`` a 95 % interval. Beside the table a file
    ``-records.npz`` holds what `figure` draws. Returns the tables of `compare` and `discriminator`.
    """
    began, path = time.monotonic(), Path(path)
    cohorts = {"simulated": simulated, "real": real}
    frames = {name: measure(cohort, n_jobs) for name, cohort in cohorts.items()}
    told = pd.concat(
        [discriminator(simulated, real, s, inputs=inputs) for inputs in INPUTS for s in seeds]
    )
    compared = compare(frames["simulated"], frames["real"])
    sizes = {
        name: {"n_records": len(c), "n_patients": c.table["patient_id"].nunique()}
        for name, c in cohorts.items()
    }
    settings = {name: cohort.fingerprint for name, cohort in cohorts.items()} | {"seeds": [*seeds]}
    shared = {"leads": 12, "config": runs.config_hash(settings)}
    rows = [
        {"method": name, "task": "realism", "seed": "all", **shared, **sizes[name],
         "metric": f"{row.feature} ({row.unit})", "value": getattr(row, name),
         "low": getattr(row, f"{name}_q25"), "high": getattr(row, f"{name}_q75")}
        for row in compared.itertuples() for name in cohorts
    ] + [
        {"method": "simulated", "task": "discriminator", **shared,
         **{"protocol" if k == "inputs" else k: v for k, v in row.items()}}
        for row in told.to_dict("records")
    ]  # fmt: skip
    path.unlink(missing_ok=True)
    table = runs.Table(path)
    table.add(rows)
    arrays = {}
    for name, cohort in cohorts.items():
        arrays[f"{name} measures"] = frames[name][list(SHOWN)].to_numpy(np.float16)
        density = spectrum(cohort)
        arrays[f"{name} spectrum"] = density[["q25", "median", "q75"]].to_numpy(np.float32)
        arrays |= {"hz": density["hz"], "lead": density["lead"].to_numpy(str)}
    np.savez_compressed(_records(path), **arrays)
    table.describe(
        experiment="realism", cohort=real.name, fs=real.fs, fingerprints=settings, sizes=sizes,
        inside=int(compared["inside"].sum()), features=len(compared),
        code=runs.definitions(sys.modules[__name__]), seconds=round(time.monotonic() - began),
    )  # fmt: skip
    return compared, told


def _records(path):
    return path.with_name(f"{path.stem}-records.npz")


def published(path):
    """What `publish` left beside the table at `path`: the three arguments of `figure`."""
    with np.load(_records(Path(path))) as file:
        frames, spectra = {}, {}
        for name in COHORTS:
            frames[name] = pd.DataFrame(file[f"{name} measures"].astype(float), columns=SHOWN)
            spectra[name] = pd.DataFrame(file[f"{name} spectrum"], columns=["q25", "median", "q75"])
            spectra[name] = spectra[name].assign(hz=file["hz"], lead=file["lead"])
    return frames["simulated"], frames["real"], spectra


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder in PTB-XL's layout; without it PTB-XL is downloaded")
    parser.add_argument("--patients", type=int, help="simulated patients; default: as many as real")
    parser.add_argument("--out", default="results")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    real = open_cohort("ptb-xl", data=arguments.data)
    patients = arguments.patients or real.table["patient_id"].nunique()
    simulated = open_cohort("simulated", n_patients=patients, seed=0, fs=real.fs)
    path = Path(arguments.out) / "ptb-xl" / "realism.csv"
    for table in publish(simulated, real, path, arguments.jobs):
        print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
