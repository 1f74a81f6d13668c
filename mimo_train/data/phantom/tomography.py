"""What a CT scanner adds to a slice: streaks, cupping, rings and grain.

The slice is projected; quantum noise, beam hardening and detector gain errors are put on the projections; what they change
is filtered and projected back.
"""

from __future__ import annotations

import numpy as np

from .canvas import blur, resize


def artefacts(rng: np.random.Generator, hu: np.ndarray, spacing: float, photons: float) -> np.ndarray:
    """What noise, beam hardening and gain errors of the projections add to a slice: ``float32 [H, W]`` in HU.

    Parallel beam, 120 views on a grid of half resolution; only the *error* of the sinogram is reconstructed, by filtered
    back-projection (Kak & Slaney 1988, chapter 3; noise after log: variance exp(p) / photons). Fine grain with the same
    ramp-shaped noise power spectrum (Riederer 1978) is added at full resolution.
    """
    height, width = hu.shape
    small = resize(np.maximum(hu, -1000) / 1000 + 1, (height + 1) // 2, (width + 1) // 2) * 0.019  # attenuation, 1 / mm
    step = spacing * 2
    views, bins = 120, int(np.ceil(np.hypot(*small.shape))) + 4
    angles = np.arange(views) * (np.pi / views)
    x = np.arange(small.shape[1], dtype=np.float32) - (small.shape[1] - 1) / 2
    y = np.arange(small.shape[0], dtype=np.float32) - (small.shape[0] - 1) / 2
    weights = small.ravel()
    sinogram = np.empty((views, bins), dtype=np.float32)
    nearest = []
    for view, angle in enumerate(angles):
        at = (x * np.float32(np.cos(angle)) + np.float32(bins / 2 - 0.5))[None, :] + (y * np.float32(np.sin(angle)))[:, None]
        index = (at + 0.5).astype(np.int32).ravel()
        nearest.append(index)
        sinogram[view] = np.bincount(index, weights, minlength=bins)[:bins]
    sinogram = blur(sinogram, (0, 0.8)) * step  # line integrals; the blur removes the moire of nearest binning
    error = rng.standard_normal(sinogram.shape, dtype=np.float32) * np.sqrt(np.exp(np.minimum(sinogram, 9)) / photons)
    error -= rng.uniform(0.0, 0.006) * sinogram**2 * 0.5  # beam hardening: long paths are under-estimated
    if rng.random() < 0.3:  # detector elements of wrong gain draw rings
        gain = rng.normal(0, 1, bins) * (rng.random(bins) < 0.06)
        error += (gain * rng.uniform(0.003, 0.012)).astype(np.float32) * (sinogram > 0.05)
    length = 1 << int(np.ceil(np.log2(2 * bins)))
    frequency = np.fft.rfftfreq(length).astype(np.float32)
    ramp = frequency * np.cos(np.pi * frequency) / step  # ramp with a cosine window
    filtered = np.fft.irfft(np.fft.rfft(error, length) * ramp, length)[:, :bins].astype(np.float32)
    total = np.zeros(weights.size, dtype=np.float32)
    for view in range(views):
        total += filtered[view].take(nearest[view])
    coarse = resize(total.reshape(small.shape) * (np.pi / views), height, width, bicubic=True) * (1000 / 0.019)
    body = blur((hu > -500).astype(np.float32), 1.5)
    coarse -= (coarse * body).sum() / max(float(body.sum()), 1.0)  # a scanner's calibration keeps the mean
    spectrum = np.fft.rfft2(rng.standard_normal(hu.shape, dtype=np.float32))
    radial = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    fine = np.fft.irfft2(spectrum * np.sqrt(radial) * np.exp(-((radial / 0.34) ** 2)), hu.shape).astype(np.float32)
    fine *= 3.5e3 / np.sqrt(photons) / max(float(fine.std()), 1e-6)
    return coarse * (0.25 + 0.75 * body) + fine * (0.3 + 0.7 * body)
