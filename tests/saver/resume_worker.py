"""Another process that resumes an interrupted thread: `python -m tests.saver.resume_worker URL PREFIX THREAD DRIVER`.

It prints the values that the graph ends with, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import operator
import sys
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from saver import RedisStreamSaver


class Request(TypedDict):
    """A request and what became of it."""

    amount: int
    log: Annotated[list[str], operator.add]


def approval_graph(checkpointer: Any) -> Any:
    """A graph that stops to ask whether to pay."""

    def check(state: Request) -> dict[str, Any]:
        return {"log": [f"checked {state['amount']}"]}

    def ask(state: Request) -> dict[str, Any]:
        return {"log": [f"answer: {interrupt({'pay?': state['amount']})}"]}

    def pay(state: Request) -> dict[str, Any]:
        return {"log": ["paid"]}

    builder = StateGraph(Request)
    builder.add_node("check", check)
    builder.add_node("ask", ask)
    builder.add_node("pay", pay)
    builder.add_edge(START, "check")
    builder.add_edge("check", "ask")
    builder.add_edge("ask", "pay")
    builder.add_edge("pay", END)
    return builder.compile(checkpointer=checkpointer)


def resume(url: str, prefix: str, config: Any) -> Any:
    with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        return approval_graph(saver).invoke(Command(resume="yes"), config)


async def aresume(url: str, prefix: str, config: Any) -> Any:
    async with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        return await approval_graph(saver).ainvoke(Command(resume="yes"), config)


def main(url: str, prefix: str, thread: str, driver: str) -> None:
    config = {"configurable": {"thread_id": thread}}
    values = asyncio.run(aresume(url, prefix, config)) if driver == "async" else resume(url, prefix, config)
    print(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
