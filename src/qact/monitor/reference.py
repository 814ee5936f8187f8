"""`Reference`: what a model sees when all is well, and how far a sound window strays from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact import atomic, checks
from qact.monitor.collect import Rows
from qact.monitor.distance import Signal
from qact.monitor.null import Null, rounded
from qact.monitor.signals import LOGITS, appearance
from qact.monitor.sketch import Frame
from qact.monitor.window import Open, Window

IMAGES = 1024  # images of the reference whose own distribution functions are kept
DRAWS = 4000
FORMAT = "qact.monitor.reference/1"


@dataclass(frozen=True)
class Verdict:
    """What a window's distances mean.

    Args:
        images: of the window.
        distances: by signal, the mean over channels of the largest gap of distribution functions.
        p_values: by signal, how often a sound window of as many images is as far.
        p: how often the furthest signal of a sound window is as far: corrected for the number of
            signals by their joint distribution (Westfall and Young 1993: the largest statistic).
        broken: share of the sampled images that were not finite.
        batch: images per call, on average.
        alike: intraclass correlation of the logits of one call: 0 if shuffled, 1 if calls are of
            one kind each. None of a single call, or of windows that were merged.
        spread: variance between images in the first layer, in terms of the reference's, or None.
    """

    images: int
    distances: Mapping[str, float]
    p_values: Mapping[str, float]
    p: float
    broken: float
    batch: float | None = None
    alike: float | None = None
    spread: float | None = None

    @property
    def worst(self) -> str:
        """The signal with the least p-value, of equal ones that with the largest distance."""
        return min(self.p_values, key=lambda s: (self.p_values[s], -self.distances[s]))


@dataclass
class Reference:
    """What a model sees when all is well: make it by :func:`record`, on images it never learnt.

    Args:
        signals: by name, in order.
        images: of the reference in all.
        positions: of an image that were sampled, per channel.
        confidence: of the labelled images, (M,); empty without labels.
        hits: whether these were classified correctly, (M,).
        draws: of sound windows, which calibrate: rates down to ``1 / (1 + draws)``.
        seed: of the draws.
    """

    signals: dict[str, Signal]
    images: int
    positions: int | None
    confidence: Tensor = field(
        default_factory=lambda: torch.zeros(0, dtype=torch.float32, device="cpu")
    )
    hits: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool, device="cpu"))
    draws: int = DRAWS
    seed: int = 0
    _nulls: dict[int, Null] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        kept: list[Rows],
        rest: Window | None = None,
        *,
        positions: int | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Reference:
        """The reference of sampled rows (n, C, L) by signal, and of a window of further images."""
        checks.integer("draws", draws, 19)
        count = sum(len(next(iter(rows.values()))) for rows in kept)
        if count < 16:
            raise ValueError(f"a reference of {count} images: 16 are needed, 1,000 are good")
        first = Open(frames(kept), 0.0)
        for rows in kept:
            first.add(rows)
        window = first.closed(0.0, "", "")
        broken = first.broken + (0 if rest is None else rest.broken)
        if broken:
            raise ValueError(f"{broken} reference images are not finite")
        window = window if rest is None else window + rest
        signals = {}
        for name, frame in first.frames.items():
            sizes = {rows[name].shape[2] for rows in kept}
            if len(sizes) > 1:
                raise ValueError(f"images of {name!r} have {sorted(sizes)} values, not one number")
            z = torch.cat([rows[name] for rows in kept])
            signals[name] = Signal.of(frame, window.histograms[name], z)
        return cls(signals, window.images, positions, draws=draws, seed=seed)

    @property
    def frames(self) -> dict[str, Frame]:
        """On which windows are counted."""
        return {name: signal.frame for name, signal in self.signals.items()}

    @property
    def channels(self) -> dict[str, int]:
        """Channels by signal."""
        return {name: signal.frame.channels for name, signal in self.signals.items()}

    @property
    def window(self) -> Window:
        """The reference as one window."""
        return Window({n: s.histogram for n, s in self.signals.items()}, self.images, self.images)

    def null(self, images: int) -> Null:
        """Distances of sound windows of so many images, drawn once and kept.

        Sizes of more than five binary digits are rounded down: the distances become at most 1.6%
        larger, which errs on the safe side.
        """
        size = rounded(checks.integer("images", images, 1))
        if size not in self._nulls:
            signals = list(self.signals.values())
            self._nulls[size] = Null.drawn(signals, size, self.images, self.draws, self.seed)
        return self._nulls[size]

    def distances(self, window: Window) -> dict[str, Tensor]:
        """By signal the largest gap of each channel that is read, (c,).

        Raises:
            ValueError: the window is of another model, or has no finite image.
        """
        if window.signals != self.channels:
            raise ValueError(
                f"the window has the signals {window.signals}, the reference has {self.channels}: "
                "they are of different models"
            )
        if not window.images:
            raise ValueError(f"the window has no finite image; {window.broken} were not finite")
        return {name: s.distances(window.histograms[name]) for name, s in self.signals.items()}

    def test(self, window: Window) -> Verdict:
        """Compare a window with the reference.

        Raises:
            ValueError: the window is of another model, or has no finite image.
        """
        found = [gaps.mean() for gaps in self.distances(window).values()]
        distances = torch.stack(found).float()
        each, p = self.null(window.images).p_values(distances)
        return Verdict(
            window.images,
            dict(zip(self.signals, distances.tolist(), strict=True)),
            dict(zip(self.signals, each, strict=True)),
            p,
            window.broken / (window.images + window.broken),
            window.seen / window.calls if window.calls else None,
            *self._company(window),
        )

    def _company(self, window: Window) -> tuple[float | None, float | None]:
        """How alike images of one call are, and how varied all of them."""
        grouping, first = window.grouping, appearance(list(self.signals))[-1]
        if grouping is None or not grouping.groups:
            return None, None
        own = self.signals[first].variance
        ratio = grouping.variance(first)[own > 0] / own[own > 0]
        return (
            grouping.alike(LOGITS if LOGITS in self.signals else first),
            float(ratio.mean()) if len(ratio) else None,
        )

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` of plain arrays, atomically."""
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "names": np.array(list(self.signals)),
            "numbers": np.array([self.images, self.positions or 0, self.draws, self.seed]),
            "confidence": self.confidence.numpy(),
            "hits": self.hits.numpy(),
        }
        for index, signal in enumerate(self.signals.values()):
            arrays |= {f"{index}.{name}": part.numpy() for name, part in signal.arrays().items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, digest=np.array(_digest(arrays)), **arrays)
        atomic.write(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: the file is no reference.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls._read(arrays)
        except Exception as error:  # a damaged zip file raises anything
            raise ValueError(f"{path} is no reference: {checks.reason(error)}") from error

    @classmethod
    def _read(cls, arrays: dict[str, Any]) -> Reference:
        if str(arrays.get("format")) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if str(arrays.pop("digest", "")) != _digest(arrays):
            raise ValueError("it is damaged: its content is not what was written")
        tensors = {
            name: torch.from_numpy(array)
            for name, array in arrays.items()
            if array.dtype.kind in "fiub"
        }
        signals = {}
        for index, name in enumerate(arrays["names"].tolist()):
            part = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{index}.")}
            signals[name] = Signal.read(part)
        images, positions, draws, seed = (int(n) for n in arrays["numbers"])
        return cls(
            signals, images, positions or None, tensors["confidence"], tensors["hits"], draws, seed
        )


def frames(kept: list[Rows]) -> dict[str, Frame]:
    """The frames in which sampled rows are counted."""
    return {name: Frame.around(torch.cat([part[name] for part in kept])) for name in kept[0]}


def _digest(arrays: Mapping[str, Any]) -> str:
    """Of names, types, shapes and values: a zip file's own sums leave some flipped bits unseen."""
    found = hashlib.blake2b(digest_size=8)
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()
