"""The tables of `scripts/bench --steps`, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scripts.benchmark.book import Book
from scripts.benchmark.earlier import BEFORE
from scripts.benchmark.savers import FLOOR, MEMORY, PLAINREDIS, THIS, VALKEY, Kind
from scripts.benchmark.steps_states import STATES, TURNS

__all__ = ["OPERATIONS", "STORAGE", "TAIL", "figures", "markdown"]

PEERS = (VALKEY, PLAINREDIS)
"""The other savers on plain Redis."""
TIMES = ("wall", "client", "server")
WIRE = ("received", "sent")
STORAGE = ("stored", "appended")
OPERATIONS, TAIL = "conversations.operations", "conversations.p99"
STEPS = [f"step.{state}" for state in STATES]
LATEST = [f"latest.{state}" for state in STATES]
GRAPHS = [f"turn.{name}" for name in TURNS]


class _Table(NamedTuple):
    """A table: each cell has the figures of one row and one saver."""

    title: str
    rows: dict[str, list[str]]
    form: str
    unit: float = 1
    without: str = MEMORY


def _rows(names: Sequence[str], costs: Sequence[str]) -> dict[str, list[str]]:
    titles = {"step": "step, ", "latest": "latest, ", "turn": ""}
    states = {name: title for name, (title, _) in TURNS.items()}
    found = {}
    for name in names:
        call, _, state = name.partition(".")
        title = states[state] if call == "turn" else state
        found[titles[call] + title] = [f"{name}.{cost}" for cost in costs]
    return found


TABLES = (
    _Table("Wall time / client CPU / server CPU, in microseconds", _rows([*STEPS, *LATEST], TIMES), "{:,.0f}"),
    _Table("The server received / sent, in KiB", _rows([*STEPS, *LATEST], WIRE), "{:.1f}", 1024),
    _Table("Stored / appended to the append-only file, in KiB", _rows(STEPS, STORAGE), "{:.2f}", 1024),
    _Table(
        "Asyncio conversations: operations a second / p99 in ms",
        {"conversations": [OPERATIONS, TAIL]},
        "{:,.0f}",
    ),
    _Table(
        "A turn of a compiled graph: wall time / client CPU / server CPU, in ms",
        _rows(GRAPHS, TIMES),
        "{:.1f}",
        1000,
        FLOOR,
    ),
)


def figures() -> list[str]:
    """Return the name of every figure."""
    return [name for table in TABLES for names in table.rows.values() for name in names]


def markdown(book: Book, kinds: Sequence[Kind], introduction: str) -> str:
    """Return the failures, the tables, the ratios, and the steps that one Redis thread carries."""
    failures = [f"- Failed: {saver}, {name}: {reason}" for (name, saver), reason in book.failures.items()]
    parts = [introduction, "\n".join(failures), *(_costs(book, kinds, table) for table in TABLES)]
    parts += [_ratios(book, kinds), _carried(book, kinds)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _costs(book: Book, kinds: Sequence[Kind], table: _Table) -> str:
    kinds = [kind for kind in kinds if kind.name != table.without]
    rows = []
    for title, names in table.rows.items():
        cells = [[book.median(name, kind.name) for name in names] for kind in kinds]
        rows.append([title, *(_cell([one and one / table.unit for one in cell], table.form) for cell in cells)])
    return _drawn(table.title, ["", *(kind.label for kind in kinds)], rows)


def _ratios(book: Book, kinds: Sequence[Kind]) -> str:
    """Return the ratios of this saver to the floor, to the best peer on Redis, and to others."""
    present = {kind.name for kind in kinds}
    others = {FLOOR: "floor", "": "best Redis peer", MEMORY: "InMemorySaver", BEFORE: "before"}
    others = {name: title for name, title in others.items() if not name or name in present}
    rows = []
    for table in TABLES:
        for title, names in table.rows.items():
            cells = [
                [book.compared((name, THIS), (name, other or _best(book, name))) for name in names] for other in others
            ]
            costs = " / ".join(name.rpartition(".")[2] for name in names)
            rows.append([f"{title}: {costs}", *(_cell(cell, "{:.2f}") for cell in cells)])
    return _drawn("This saver, as a ratio to", ["", *others.values()], rows)


def _best(book: Book, name: str) -> str:
    better = max if name == OPERATIONS else min
    measured = {peer: value for peer in PEERS if (value := book.median(name, peer)) is not None}
    return better(measured, key=measured.__getitem__, default=PEERS[0])


def _carried(book: Book, kinds: Sequence[Kind]) -> str:
    """Return a second by the server's CPU time of a step."""
    kinds = [kind for kind in kinds if kind.on_redis]
    rows = []
    for state, (title, _) in STATES.items():
        medians = [book.median(f"step.{state}.server", kind.name) for kind in kinds]
        rows.append([title, *(_cell([value and 1e6 / value], "{:,.0f}") for value in medians)])
    return _drawn("Steps a second that one Redis thread carries", ["", *(kind.label for kind in kinds)], rows)


def _cell(values: Sequence[float | None], form: str) -> str:
    """Return the values, and a dash where all are missing."""
    written = ["-" if value is None else form.format(value) for value in values]
    return " / ".join(written) if set(written) != {"-"} else "-"


def _drawn(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return f"{title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
