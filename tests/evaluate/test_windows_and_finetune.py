import numpy as np
import pandas as pd
import pytest
import torch

from ecgtutorial.cohort import Cohort
from ecgtutorial.encoders.single_lead import SingleLeadCNN
from ecgtutorial.evaluate.finetune import fine_tune, predict
from ecgtutorial.evaluate.windows import embed, over_windows, window_starts
from ecgtutorial.metrics import macro_auc


class Mean(torch.nn.Module):
    def forward(self, signals):
        return signals.mean(dim=2)


def tones(n=60, seed=0):
    """A cohort in which a class is a rhythm: 3 Hz or 7 Hz in all leads, and noise."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 2
    time = np.arange(300) / 100
    phase = generator.uniform(0, 6, (n, 1))
    wave = np.sin(2 * np.pi * np.where(label, 7, 3)[:, None] * time + phase)
    signals = 300 * wave[:, None] + generator.normal(0, 100, (n, 12, 300))
    table = pd.DataFrame({"record_id": range(n), "patient_id": range(n)})
    labels = pd.DataFrame({"slow": 1 - label, "fast": label}, dtype=np.uint8)
    return Cohort(signals.astype(np.int16), table, labels, 100, "tones")


def test_window_starts_cover_the_record():
    assert window_starts(1000, 250) == [0, 250, 500, 750]
    assert window_starts(1000, 250, overlap=0.5) == list(range(0, 751, 125))
    assert window_starts(1000, 300) == [0, 300, 600, 700]  # the last is flush with the end
    assert window_starts(250, 250) == [0]
    with pytest.raises(ValueError, match="300 samples do not fit records of 250"):
        window_starts(250, 300)
    with pytest.raises(ValueError, match="overlap is 1"):
        window_starts(250, 100, overlap=1)


def test_windows_are_averaged_per_record_in_millivolts():
    cohort = tones(7)
    found = over_windows(Mean(), cohort, 1.0, batch_size=3)
    np.testing.assert_allclose(found, cohort.millivolts().mean(axis=2), atol=1e-4)


def test_embedding_a_record_does_not_depend_on_its_neighbours():
    cohort, encoder = tones(6), SingleLeadCNN()
    together = embed(encoder, cohort, 1.5)
    alone = embed(encoder, cohort.select([4]), 1.5)
    np.testing.assert_allclose(together[4:5], alone, atol=1e-3)
    assert together.shape == (6, 256)


def test_fine_tuning_learns_repeats_and_leaves_the_encoder_alone():
    train, test = tones(60), tones(40, seed=1)
    torch.manual_seed(0)
    encoder = SingleLeadCNN()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    models = [
        fine_tune(encoder, train, train.labels, seconds=1.0, min_steps=25, epochs=1, batch_size=16)
        for _ in range(2)
    ]
    scores = [predict(model, test, 1.0) for model in models]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert macro_auc(test.labels, scores[0]) > 0.95
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_every_training_crop_is_masked_and_no_test_window(monkeypatch):
    from ecgtutorial.evaluate import finetune

    masked = []

    def record(signals, fraction):
        masked.append((tuple(signals.shape), fraction))
        return signals

    monkeypatch.setattr(finetune, "time_mask", record)
    cohort = tones(8)
    model = fine_tune(
        SingleLeadCNN(), cohort, cohort.labels, seconds=1.0, min_steps=3, epochs=1, batch_size=4,
        mask=0.25,
    )  # fmt: skip
    predict(model, cohort, 1.0)
    assert masked == [((4, 12, 100), 0.25)] * 3


def test_targets_must_fit():
    cohort = tones(8)
    with pytest.raises(ValueError, match="5 target rows for 8 records"):
        fine_tune(SingleLeadCNN(), cohort, cohort.labels[:5], seconds=1.0)
