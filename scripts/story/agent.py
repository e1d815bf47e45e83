"""The agent of scripts/demo: a shop's service desk that looks up orders and refunds them.

A process makes one step of the conversation and ends. What it knows of earlier ones it has from the log:

    python scripts/story/agent.py --url URL --thread ID --ledger FILE say "Which of my orders can be refunded?"
    python scripts/story/agent.py --url URL --thread ID --ledger FILE --steps continue
    python scripts/story/agent.py --url URL --thread ID --ledger FILE answer yes
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from eventlog import audit
from saver import RedisStreamSaver

__all__ = ["APPROVAL_LIMIT", "URL_VARIABLE", "Ledger", "desk_graph", "euros", "find", "refund_due"]

URL_VARIABLE = "DEMO_REDIS_URL"
"""Environment variable the server's URL is in: a password in a command line is there for all to read."""

CUSTOMER = "C-17"
APPROVAL_LIMIT = 25_000
"""Cents above which a person has to approve a refund."""
FULL_REFUND_DAYS = 30


@dataclass(frozen=True)
class Order:
    """A delivered order, with what the carrier's sensor felt on the way."""

    id: str
    customer: str
    item: str
    cents: int
    days_ago: int
    shocks: tuple[float, ...]
    """Peaks of acceleration in g."""


ORDERS = (
    Order("A-1040", "C-16", "bicycle bell", 1_295, 8, (1.4, 3.0)),
    Order("A-1041", "C-17", "kettle", 6_490, 9, (1.2, 2.0)),
    Order("A-1042", "C-17", "desk lamp", 11_900, 12, (3.3, 14.8, 2.1)),
    Order("A-1043", "C-17", "camera", 42_900, 20, (1.9, 7.4)),
    Order("A-1044", "C-17", "headphones", 15_900, 36, (12.6,)),
    Order("A-1045", "C-17", "keyboard", 8_950, 5, (0.8, 13.1, 9.9)),
    Order("A-1046", "C-17", "poster", 1_999, 95, (2.2,)),
    Order("A-1047", "C-18", "teapot", 3_450, 3, (16.0, 4.4)),
)


def find(order_id: str) -> Order:
    """The order with that id. Raises `LookupError`."""
    for order in ORDERS:
        if order.id == order_id:
            return order
    raise LookupError(f"no order {order_id!r}")


def orders_of(customer: str) -> list[Order]:
    """The orders of a customer."""
    return [order for order in ORDERS if order.customer == customer]


def damage(order: Order) -> tuple[str, int]:
    """How an order arrived, by its hardest shock, and what percentage of the price that is worth."""
    hardest = max(order.shocks)
    if hardest >= 12:
        return "broken", 100
    return ("scratched", 40) if hardest >= 6 else ("intact", 0)


def refund_due(order: Order) -> int:
    """Cents to refund: by damage, less 2 % for every day past the 30th."""
    late = max(0, order.days_ago - FULL_REFUND_DAYS)
    return order.cents * damage(order)[1] * max(0, 100 - 2 * late) // 10_000


def euros(cents: int) -> str:
    """An amount, for people."""
    return f"EUR {cents / 100:.2f}"


class Ledger:
    """The shop's books, outside the graph: one JSON line per action, appended at once. What is done twice stands here twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, action: str, order_id: str, cents: int = 0) -> None:
        """Enter what this process does."""
        line = json.dumps({"pid": os.getpid(), "action": action, "order": order_id, "cents": cents})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """All that was entered, in order."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


class Check(TypedDict):
    """What the inspection of one order found."""

    order: str
    grade: str
    cents: int


class Branch(TypedDict):
    """What one branch of the fan-out is given."""

    order: str


class State(TypedDict, total=False):
    """The conversation, and the claim it is about."""

    messages: Annotated[list[AnyMessage], add_messages]
    checks: Annotated[list[Check], operator.add]
    risk: str
    approved: bool


@tool
def find_orders(customer: str) -> str:
    """The orders of a customer."""
    return json.dumps(
        [{"order": order.id, "item": order.item, "price": euros(order.cents)} for order in orders_of(customer)]
    )


@tool
def refund_policy() -> str:
    """What the shop refunds."""
    return f"Transport damage is refunded, less 2 % for every day past the {FULL_REFUND_DAYS}th."


def book_keeping(ledger: Ledger) -> BaseTool:
    """The tool that reads the books."""

    @tool
    def amount_paid(customer: str) -> str:
        """What has been paid back to a customer."""
        theirs = {order.id for order in orders_of(customer)}
        paid = (line["cents"] for line in ledger.lines() if line["action"] == "paid" and line["order"] in theirs)
        return euros(sum(paid))

    return amount_paid


class ScriptedModel(BaseChatModel):
    """A chat model that needs no API key: it calls tools by rule, and puts their results into words."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_args: Any, **_kwargs: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            reply = AIMessage(" ".join(_in_words(messages)))
        else:
            reply = AIMessage("", tool_calls=_calls(str(last.content), len(messages)))
        return ChatResult(generations=[ChatGeneration(message=reply)])


def _calls(question: str, turn: int) -> list[ToolCall]:
    """The tools a question needs."""
    wanted: list[tuple[str, dict[str, Any]]]
    if "paid" in question:
        wanted = [("amount_paid", {"customer": CUSTOMER})]
    elif "refund A-" in question:
        wanted = [("refund", {"orders": re.findall(r"A-\d+", question)})]
    else:
        wanted = [("find_orders", {"customer": CUSTOMER}), ("refund_policy", {})]
    return [ToolCall(name=name, args=args, id=f"call-{turn}-{n}") for n, (name, args) in enumerate(wanted)]


def _in_words(messages: Sequence[BaseMessage]) -> Iterable[str]:
    """A sentence for each tool's result since the model last spoke."""
    results: list[ToolMessage] = []
    while isinstance(last := messages[-1 - len(results)], ToolMessage):
        results.append(last)
    for result in reversed(results):
        content = str(result.content)
        if result.name == "find_orders":
            found = json.loads(content)
            items = ", ".join(f"{one['order']} {one['item']} {one['price']}" for one in found)
            yield f"You have {len(found)} orders: {items}."
        elif result.name == "amount_paid":
            yield f"So far {content} have been paid back to you."
        else:
            yield content


class Desk:
    """The nodes that act on the world: its carrier and its ledger."""

    def __init__(self, ledger: Ledger, carrier_down: Sequence[str]) -> None:
        self.ledger = ledger
        self.carrier_down = carrier_down

    def inspect(self, state: Branch) -> dict[str, Any]:
        """One branch of the fan-out: ask the carrier about an order, and set the money for it aside."""
        order = find(state["order"])
        self.ledger.add("asked carrier", order.id)
        while order.id in self.carrier_down:
            time.sleep(0.1)
        cents = refund_due(order)
        self.ledger.add("set aside", order.id, cents)
        return {"checks": [Check(order=order.id, grade=damage(order)[0], cents=cents)]}

    def approve(self, state: State) -> dict[str, Any]:
        """Above the limit, stop until a person has answered."""
        total = _total(state)
        if total <= APPROVAL_LIMIT:
            return {"approved": True}
        answer = interrupt({"question": f"Pay {euros(total)}?", "risk": state["risk"]})
        return {"approved": answer == "yes"}

    def settle(self, state: State) -> dict[str, Any]:
        """Pay, or put the money back; and answer the model's call."""
        for check in state["checks"]:
            self.ledger.add("paid" if state["approved"] else "put back", check["order"], check["cents"])
        outcome = (
            f"{euros(_total(state))} are on their way to you." if state["approved"] else "The refund was declined."
        )
        call = _open_calls(state)[0]
        return {"messages": [ToolMessage(outcome, tool_call_id=call["id"], name="refund")]}


def _total(state: State) -> int:
    return sum(check["cents"] for check in state["checks"])


def _open_calls(state: State) -> list[ToolCall]:
    last = state["messages"][-1]
    return last.tool_calls if isinstance(last, AIMessage) else []


def speak(state: State) -> dict[str, Any]:
    """The model's turn."""
    return {"messages": [ScriptedModel().invoke(state["messages"])]}


def after_speaking(state: State) -> str | list[Send]:
    """A refund fans out, one branch per order; other calls go to the tools; an answer ends the turn."""
    calls = _open_calls(state)
    if calls and calls[0]["name"] == "refund":
        return [Send("inspect", Branch(order=order_id)) for order_id in calls[0]["args"]["orders"]]
    return "tools" if calls else END


class RiskState(TypedDict, total=False):
    """What the risk review works on."""

    checks: list[Check]
    signals: Annotated[dict[str, int], operator.or_]
    risk: str


class RiskOutput(TypedDict):
    """What the risk review hands back."""

    risk: str


def risk_graph() -> Any:
    """The subgraph that reviews a claim: two signals side by side, then their sum."""

    def frequency(state: RiskState) -> dict[str, Any]:
        return {"signals": {"frequency": 100 * len(state["checks"]) // len(orders_of(CUSTOMER))}}

    def amount(state: RiskState) -> dict[str, Any]:
        return {"signals": {"amount": sum(check["cents"] for check in state["checks"]) // 1_000}}

    def score(state: RiskState) -> dict[str, Any]:
        total = sum(state["signals"].values())
        return {"risk": f"{'high' if total > 100 else 'low'} ({total})"}

    builder = StateGraph(RiskState, output_schema=RiskOutput)
    builder.add_node("frequency", frequency)
    builder.add_node("amount", amount)
    builder.add_node("score", score)
    builder.add_edge(START, "frequency")
    builder.add_edge(START, "amount")
    builder.add_edge(["frequency", "amount"], "score")
    return builder.compile()


def desk_graph(checkpointer: RedisStreamSaver, ledger: Ledger, carrier_down: Sequence[str] = ()) -> Any:
    """The agent. `carrier_down` names orders the carrier does not answer for."""
    desk = Desk(ledger, carrier_down)
    builder = StateGraph(State)
    builder.add_node("speak", speak)
    builder.add_node("tools", ToolNode([find_orders, refund_policy, book_keeping(ledger)]))
    builder.add_node("inspect", desk.inspect, input_schema=Branch)
    builder.add_node("risk", risk_graph())
    builder.add_node("approve", desk.approve)
    builder.add_node("settle", desk.settle)
    builder.add_edge(START, "speak")
    builder.add_conditional_edges("speak", after_speaking, ["tools", "inspect", END])
    builder.add_edge("tools", "speak")
    builder.add_edge("inspect", "risk")
    builder.add_edge("risk", "approve")
    builder.add_edge("approve", "settle")
    builder.add_edge("settle", "speak")
    return builder.compile(checkpointer=checkpointer)


def main() -> None:
    """Take the steps that the command line names, one after the other."""
    options = _options()
    config: Any = {"configurable": {"thread_id": options.thread}}
    if options.use_async:
        asyncio.run(_atake(options, config))
    else:
        _take(options, config)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Take steps of a conversation with the demo's agent.")
    parser.add_argument("--thread", required=True, help="thread id")
    parser.add_argument("--ledger", required=True, type=Path, help="file the shop's books are in")
    parser.add_argument("--carrier-down", nargs="*", default=[], metavar="ORDER", help="the carrier hangs on these")
    parser.add_argument("--async", dest="use_async", action="store_true", help="ainvoke instead of invoke")
    parser.add_argument("--steps", nargs="+", required=True, type=_step, metavar="STEP", help=_step.__doc__)
    return parser.parse_args()


def _step(text: str) -> Any:
    """say=TEXT, answer=TEXT to what the graph stopped to ask, or continue: go on from where the log ends"""
    kind, _, content = text.partition("=")
    if kind == "say":
        return {"messages": [HumanMessage(content)]}
    if kind == "answer":
        return Command(resume=content)
    if text == "continue":
        return None
    raise argparse.ArgumentTypeError("a step is say=TEXT, answer=TEXT or continue")


def _stamp(step: Any) -> audit:
    """Who is behind a step, for the log."""
    if isinstance(step, Command):
        return audit(actor="dana", reason="decision on a refund")
    return audit(actor="customer") if step is not None else audit(actor="worker", reason="resumed from the log")


def _take(options: argparse.Namespace, config: Any) -> None:
    with RedisStreamSaver.from_conn_string(os.environ[URL_VARIABLE]) as saver:
        graph = desk_graph(saver, Ledger(options.ledger), options.carrier_down)
        for step in options.steps:
            with _stamp(step):
                graph.invoke(step, config, durability="sync")


async def _atake(options: argparse.Namespace, config: Any) -> None:
    async with RedisStreamSaver.from_conn_string(os.environ[URL_VARIABLE]) as saver:
        graph = desk_graph(saver, Ledger(options.ledger), options.carrier_down)
        for step in options.steps:
            with _stamp(step):
                await graph.ainvoke(step, config, durability="sync")


if __name__ == "__main__":
    main()
