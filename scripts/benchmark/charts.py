"""Charts of the figures, as PNG files."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

from scripts.benchmark.plan import Run
from scripts.benchmark.savers import FLOOR, KINDS, MEMORY, THIS

mpl.use("Agg")

from matplotlib import pyplot as plt

__all__ = ["draw"]

COLORS = dict(
    zip(
        (kind.name for kind in KINDS),
        ("#c8102e", "#f28e8e", "#222222", "#999999", "#0b7285", "#336791", "#7048e8", "#e8890c", "#2f9e44"),
        strict=True,
    )
)
SMOOTH = 9
"""A curve of times is the running median of so many steps."""
WINDOW = 25
"""A curve of bytes is the running mean of so many steps. A median would leave out rare keyframes."""


class _Curve(NamedTuple):
    name: str
    figure: str
    title: str
    unit: str


CURVES = (
    _Curve("put", "chat.put", "put, by steps of the chat", "milliseconds"),
    _Curve("get_tuple", "chat.latest", "get_tuple, latest, by steps of the chat", "milliseconds"),
    _Curve("put_long", "long.put", "put, by steps of a long chat", "milliseconds"),
    _Curve("get_tuple_long", "long.latest", "get_tuple, latest, by steps of a long chat", "milliseconds"),
    _Curve("stored", "storage.stored", "stored, by steps of the chat (on Redis: the server's memory)", "MiB"),
    _Curve("append_only_file", "storage.aof", f"append-only file, bytes per step (mean of {WINDOW} steps)", "KiB"),
)
SCALE = {"milliseconds": 1.0, "KiB": 1024.0, "MiB": 2.0**20}


def draw(run: Run, folder: Path) -> list[Path]:
    """Draw every chart that has figures, and return the files."""
    made = []
    for curve in CURVES:
        made += _curves(run, folder, curve)
    made += _throughput(run, folder / "conversations.png")
    made += _turns(run, folder / "turn.png")
    return made


def _curves(run: Run, folder: Path, curve: _Curve) -> list[Path]:
    curves = {name: run.book.by_step(curve.figure, name) for name in run.kinds if run.book.values(curve.figure, name)}
    if not curves:
        return []
    axes = _axes(curve.title)
    for name, by_step in curves.items():
        axes.plot(
            list(by_step),
            _smooth([value / SCALE[curve.unit] for value in by_step.values()], curve.unit),
            color=COLORS[name],
            linewidth=2.4 if name == THIS else 1.4,
            linestyle="--" if name == FLOOR else "-",
            marker="o" if len(by_step) < 12 else "",
            label=run.kinds[name].label,
        )
    if curve.unit == "milliseconds":
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("steps")
    axes.set_ylabel(curve.unit)
    axes.legend(frameon=False)
    return [_saved(folder / f"{curve.name}.png")]


def _smooth(values: list[float], unit: str) -> list[float]:
    """Return values without the spikes of single steps, if there are enough steps."""
    if unit == "MiB" or len(values) < 150:
        return values
    reach, of = (WINDOW // 2, statistics.mean) if unit == "KiB" else (SMOOTH // 2, statistics.median)
    return [of(values[max(0, n - reach) : n + reach + 1]) for n in range(len(values))]


def _throughput(run: Run, path: Path) -> list[Path]:
    figures = zip(("few.throughput", "many.throughput"), run.plan.conversations, strict=True)
    sets = {f"{count}": _medians(run, figure, set(run.kinds) - {MEMORY}) for figure, count in figures}
    return _bars(run, path, "concurrent conversations, without InMemorySaver", "operations per second", sets)


def _turns(run: Run, path: Path) -> list[Path]:
    sets = {"": _medians(run, "loop.turn", set(run.kinds))}
    return _bars(run, path, "one turn of a compiled graph", "milliseconds", sets)


def _medians(run: Run, figure: str, savers: set[str]) -> dict[str, float]:
    return {name: value for name in savers if (value := run.book.median(figure, name)) is not None}


def _bars(run: Run, path: Path, title: str, unit: str, sets: dict[str, dict[str, float]]) -> list[Path]:
    savers = [name for name in run.kinds if any(name in values for values in sets.values())]
    if not savers:
        return []
    axes = _axes(title)
    width = 0.8 / len(sets)
    for index, (label, values) in enumerate(sets.items()):
        present = [(n, name) for n, name in enumerate(savers) if name in values]
        bars = axes.bar(
            [n + index * width for n, _ in present],
            [values[name] for _, name in present],
            width * 0.92,
            color=[COLORS[name] for _, name in present],
            alpha=1 if index == 0 else 0.55,
            label=label,
        )
        axes.bar_label(bars, fmt="{:,.0f}" if unit != "milliseconds" else "{:.1f}", fontsize=8)
    axes.set_xticks([n + width * (len(sets) - 1) / 2 for n in range(len(savers))])
    axes.set_xticklabels([run.kinds[name].label for name in savers], rotation=15)
    axes.set_ylabel(unit)
    if len(sets) > 1:
        axes.set_title(f"{title}: left {', right '.join(sets)}", loc="left", fontsize=12)
    return [_saved(path)]


def _axes(title: str) -> Any:
    _, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    axes.set_title(title, loc="left", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return axes


def _saved(path: Path) -> Path:
    plt.savefig(path, dpi=130)
    plt.close()
    return path
