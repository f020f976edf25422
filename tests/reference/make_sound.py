"""Writes sound.npz: spectrograms in decibels and cepstra of one clip, by librosa and torchaudio.

    pip install librosa==0.11.0 torch==2.11.0 torchaudio==2.11.0 numpy && \
        python tests/reference/make_sound.py
"""

from pathlib import Path

import librosa
import numpy as np
import torch
import torchaudio

RATE = 16_000


def clip() -> np.ndarray:
    """A tone that rises, softer and softer, over some noise."""
    time = np.arange(8_000) / RATE
    tone = np.sin(2 * np.pi * (200 * time + 6_000 * time**2)) * np.exp(-4 * time)
    return (0.5 * tone + 0.01 * np.random.default_rng(0).normal(size=len(time))).astype(np.float32)


def main() -> None:
    samples = clip()
    wide = samples.astype(np.float64)
    found = {"samples": samples}
    mel = librosa.feature.melspectrogram(y=wide, sr=RATE, n_fft=1024, n_mels=64)
    found["librosa/log_mel"] = librosa.power_to_db(mel).T
    found["librosa/mfcc"] = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=13).T
    # A window that is shorter than the transform, and HTK's scale.
    mel = librosa.feature.melspectrogram(
        y=wide, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=60, fmax=7_800,
        htk=True, norm=None, center=False,
    )  # fmt: skip
    found["librosa/short_window"] = librosa.power_to_db(mel, top_db=None).T

    torch.set_default_dtype(torch.float64)
    clip_of_torch = torch.from_numpy(wide)
    mel = torchaudio.transforms.MelSpectrogram(RATE, n_fft=400, n_mels=64)
    found["torchaudio/log_mel"] = torchaudio.transforms.AmplitudeToDB()(
        mel(clip_of_torch)
    ).T.numpy()
    mfcc = torchaudio.transforms.MFCC(
        RATE,
        n_mfcc=13,
        melkwargs={"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40},
    )
    found["torchaudio/mfcc"] = mfcc(clip_of_torch).T.numpy()
    np.savez_compressed(Path(__file__).with_name("sound.npz"), **found)


if __name__ == "__main__":
    main()
