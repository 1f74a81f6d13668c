"""The run's log: a CSV file that survives a crash, TensorBoard if it is installed, and a picture of the curves."""

from __future__ import annotations

import csv
import io
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_runtime.utils.atomic import atomic_write_bytes
from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "seconds", "rate", "size", "loss", "bce", "dice", "presence", "box", "iou", "text", "contrast")


class TrainingLog:
    """Writes ``log.csv``, TensorBoard events and ``curve.png``.

    Args:
        from_step: rows after this step of an earlier run are dropped; the resumed run writes them again.
        note: how this run differs from an ordinary one; part of the title of the curves.
    """

    def __init__(self, folder: Path, from_step: int = 0, note: str = "") -> None:
        self.folder, self.path, self.note = folder, folder / "log.csv", note
        kept = []
        if from_step and self.path.is_file():
            with self.path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if None not in row.values() and int(row["step"]) <= from_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        atomic_write_bytes(self.path, text.getvalue().encode())
        self._file = self.path.open("a", newline="")
        self._csv = csv.DictWriter(self._file, COLUMNS)
        self._recent: deque[dict[str, float]] = deque(maxlen=50)
        self._board = _tensorboard(folder)
        if self._board and note:
            self._board.add_text("run", note, from_step)

    def add(self, step: int, seconds: float, rate: float, size: int, loss: float, parts: dict[str, float]) -> None:
        """Write the losses of one step."""
        row = {"step": step, "seconds": seconds, "rate": rate, "size": size, "loss": loss, **parts}
        self._recent.append(row)
        self._csv.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        if step % 20 == 0:
            self._file.flush()
            if self._board:
                for name, value in row.items():
                    self._board.add_scalar(name, value, step)

    def line(self) -> str:
        """The mean of the last steps in one line."""
        if not self._recent:
            return ""
        mean = {k: sum(r[k] for r in self._recent) / len(self._recent) for k in ("loss", "dice", "text", "presence")}
        last = self._recent[-1]
        return f"step {last['step']} at {last['size']} px  " + "  ".join(f"{k} {v:.3f}" for k, v in mean.items())

    def flush(self) -> None:
        """Write all added rows to the file."""
        self._file.flush()

    def plot(self) -> None:
        """Write ``curve.png``, if matplotlib is installed."""
        try:
            keep_matplotlib_out_of_home()
            import matplotlib
        except ModuleNotFoundError:
            return
        matplotlib.use("Agg")
        from matplotlib import pyplot

        self._file.flush()
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if len(rows) < 2:
            return
        figure, axes = pyplot.subplots(2, 4, figsize=(14, 6), layout="constrained")
        steps = [int(r["step"]) for r in rows]
        for axis, name in zip(axes.flat, COLUMNS[4:]):
            values = [float(r[name]) for r in rows]
            axis.plot(steps, values, color="#56B4E9", alpha=0.25, linewidth=0.7)
            axis.plot(steps, _smooth(values, max(1, len(values) // 50)), color="#0072B2", linewidth=1.6)
            axis.set_title(name)
            axis.set_ylim(0, sorted(values)[int(0.98 * (len(values) - 1))] * 1.15 + 1e-6)
            axis.grid(alpha=0.3)
            for i in range(1, len(rows)):
                if rows[i]["size"] != rows[i - 1]["size"]:
                    axis.axvline(steps[i], color="#D55E00", linestyle=":", linewidth=1)
        figure.suptitle("Training losses (dotted: change of image size)" + (f", {self.note}" if self.note else ""))
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=80)
        pyplot.close(figure)
        atomic_write_bytes(self.folder / "curve.png", picture.getvalue())

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def _smooth(values: list[float], window: int) -> list[float]:
    """Trailing mean."""
    out, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        out.append(total / min(i + 1, window))
    return out


def _tensorboard(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
