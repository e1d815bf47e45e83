"""Another process that writes to a thread: `python -m tests.saver.crash_worker count|write URL PREFIX THREAD ...`.

`count ... STEPS` runs a graph that counts, and says so at every step once a line on standard input allows it. `write ... NAME TIMES`
puts checkpoints of its own and writes to checkpoint 1, as fast as it can.
"""

from __future__ import annotations

import operator
import sys
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from saver import RedisStreamSaver
from tests.saver.audit import config, put_of


class Count(TypedDict):
    """What was counted."""

    log: Annotated[list[str], operator.add]


def text_of(number: int) -> str:
    """What the graph adds at a step: as long as a short message."""
    return f"{number} was counted, and so was what came before it"


def counting_graph(checkpointer: Any, steps: int, *, prompted: bool = False) -> Any:
    """A graph that counts to `steps`; if `prompted`, it waits for a line before every step and tells what it did."""

    def count(state: Count) -> dict[str, list[str]]:
        number = len(state["log"])
        if prompted:
            print(number, flush=True)
            if not sys.stdin.readline():
                sys.exit("nobody is there")
        return {"log": [text_of(number)]}

    builder = StateGraph(Count)
    builder.add_node("count", count)
    builder.add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if len(state["log"]) < steps else "__end__")
    return builder.compile(checkpointer=checkpointer)


def main(task: str, url: str, prefix: str, thread: str, *rest: str) -> None:
    with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        if task == "count":
            started = saver.get_tuple(config(thread)) is not None
            named = {"configurable": {"thread_id": thread}, "recursion_limit": 1000}
            graph = counting_graph(saver, int(rest[0]), prompted=True)
            graph.invoke(None if started else {"log": []}, named, durability="sync")
        else:
            first, times = int(rest[0]), int(rest[1])
            for number in range(first, first + times):
                saver.put(*put_of(thread, number, 1, shared=True))
                saver.put_writes(config(thread, 1), [("n", number)], f"task {number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
