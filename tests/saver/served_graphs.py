"""Graphs that `langgraph dev` serves in tests: without a checkpointer, which the server adds."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from tests.saver.resume_worker import Request, approval_graph


def nested_approval(checkpointer: Any = None) -> Any:
    """The approval graph within another, so that a thread has two namespaces."""
    builder = StateGraph(Request)
    builder.add_node("approve", approval_graph(None))
    builder.add_edge(START, "approve")
    builder.add_edge("approve", END)
    return builder.compile(checkpointer=checkpointer)


class Work(TypedDict):
    """How long to work, and which steps are done."""

    seconds: float
    done: Annotated[list[str], operator.add]


def slow_graph() -> Any:
    """A graph whose second node takes as long as its input says."""

    async def begin(state: Work) -> dict[str, Any]:
        return {"done": ["begin"]}

    async def work(state: Work) -> dict[str, Any]:
        await asyncio.sleep(state["seconds"])
        return {"done": ["work"]}

    builder = StateGraph(Work)
    builder.add_node("begin", begin)
    builder.add_node("work", work)
    builder.add_edge(START, "begin")
    builder.add_edge("begin", "work")
    builder.add_edge("work", END)
    return builder.compile()


class Parcel(BaseModel):
    """A model within a state."""

    name: str


class Shipment(BaseModel):
    """A state that is a model."""

    parcels: Annotated[list[Parcel], operator.add] = []


def typed_graph() -> Any:
    """A graph whose state holds models, one more after each run."""

    def pack(state: Shipment) -> dict[str, Any]:
        kinds = [type(parcel).__name__ for parcel in state.parcels]
        return {"parcels": [Parcel(name=f"after {kinds}")]}

    builder = StateGraph(Shipment)
    builder.add_node("pack", pack)
    builder.add_edge(START, "pack")
    return builder.compile()
