"""The agent of scripts/demo: a service desk that looks up orders and refunds them.

A process takes some steps of a conversation and ends. It knows the earlier steps only from the log:

    python -m scripts.story.agent --thread ID --ledger FILE --steps say="Which of my orders can be refunded?"
    python -m scripts.story.agent --thread ID --ledger FILE --steps continue
    python -m scripts.story.agent --thread ID --ledger FILE --steps answer=yes
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from eventlog import audit
from saver import RedisStreamSaver

__all__ = ["APPROVAL_LIMIT", "URL_VARIABLE", "Ledger", "desk_graph", "euros", "find"]

URL_VARIABLE = "DEMO_REDIS_URL"
"""The environment variable with the server's URL. On a command line, everyone could read its password."""

CUSTOMER = "C-17"
APPROVAL_LIMIT = 25_000
"""Above this amount in cents, a person has to approve a refund."""
FULL_REFUND_DAYS = 30
PERCENT = {"broken": 100, "scratched": 40, "intact": 0}
"""The part of the price that is refunded for each grade of damage."""


@dataclass(frozen=True)
class Order:
    """A delivered order, with the damage that the carrier reports."""

    id: str
    item: str
    cents: int
    days_ago: int
    grade: str

    @property
    def refund(self) -> int:
        """The refund in cents: by damage, less 2 % for every day past the 30th."""
        late = max(0, self.days_ago - FULL_REFUND_DAYS)
        return self.cents * PERCENT[self.grade] * max(0, 100 - 2 * late) // 10_000


ORDERS = {
    CUSTOMER: [
        Order("A-1041", "kettle", 6_490, 9, "intact"),
        Order("A-1042", "desk lamp", 11_900, 12, "broken"),
        Order("A-1043", "camera", 42_900, 20, "scratched"),
        Order("A-1044", "headphones", 15_900, 36, "broken"),
        Order("A-1045", "keyboard", 8_950, 5, "broken"),
        Order("A-1046", "poster", 1_999, 95, "intact"),
    ]
}
"""Orders by customer."""


def find(order_id: str) -> Order:
    """Return the order with that id."""
    return next(order for orders in ORDERS.values() for order in orders if order.id == order_id)


def euros(cents: int) -> str:
    """Return an amount as text."""
    return f"EUR {cents / 100:.2f}"


class Ledger:
    """The shop's books, outside of the graph: one JSON line per action.

    Each line is appended at once, so an action that happens twice has two lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, action: str, order_id: str, cents: int = 0) -> None:
        """Append an action of this process."""
        line = json.dumps({"pid": os.getpid(), "action": action, "order": order_id, "cents": cents})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def lines(self, action: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of one action, or of all, in order."""
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return [line for line in lines if action in {None, line["action"]}]

    def orders(self, action: str) -> list[str]:
        """Return the order of each line of one action."""
        return [line["order"] for line in self.lines(action)]


class Check(TypedDict):
    """The result of inspecting one order."""

    order: str
    grade: str
    cents: int


class Branch(TypedDict):
    """The input of one branch of the fan-out."""

    order: str


class State(TypedDict, total=False):
    """The conversation, and the claim that it is about."""

    messages: Annotated[list[AnyMessage], add_messages]
    checks: Annotated[list[Check], operator.add]
    risk: str
    approved: bool


def tools(ledger: Ledger) -> list[Callable[..., str]]:
    """Return the tools that read orders, rules and books."""

    def find_orders(customer: str) -> str:
        """Find the orders of a customer."""
        found = [{"order": one.id, "item": one.item, "price": euros(one.cents)} for one in ORDERS[customer]]
        return json.dumps(found)

    def refund_policy() -> str:
        """Explain which orders the shop refunds."""
        return f"Transport damage is refunded, less 2 % for every day past the {FULL_REFUND_DAYS}th."

    def amount_paid(customer: str) -> str:
        """Add up the refunds that a customer has received."""
        ids = {order.id for order in ORDERS[customer]}
        return euros(sum(line["cents"] for line in ledger.lines("paid") if line["order"] in ids))

    return [find_orders, refund_policy, amount_paid]


def speak(state: State) -> dict[str, Any]:
    """Call tools by rule and put their results into words, in place of a model."""
    messages = state["messages"]
    if isinstance(messages[-1], ToolMessage):
        return {"messages": [AIMessage(" ".join(_in_words(messages)))]}
    question = str(messages[-1].content)
    wanted: list[tuple[str, dict[str, Any]]] = [("find_orders", {"customer": CUSTOMER}), ("refund_policy", {})]
    if "paid" in question:
        wanted = [("amount_paid", {"customer": CUSTOMER})]
    elif "refund A-" in question:
        wanted = [("refund", {"orders": re.findall(r"A-\d+", question)})]
    calls = [ToolCall(name=name, args=args, id=f"call-{len(messages)}-{n}") for n, (name, args) in enumerate(wanted)]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def _in_words(messages: Sequence[AnyMessage]) -> Iterator[str]:
    """Yield a sentence for each result since the agent last spoke."""
    results = list(takewhile(lambda message: isinstance(message, ToolMessage), reversed(messages)))
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


def after_speaking(state: State) -> str | list[Send]:
    """Decide the next nodes.

    A refund fans out, one branch per order. Other calls go to the tools, and an answer ends the turn.
    """
    calls = _open_calls(state)
    if calls and calls[0]["name"] == "refund":
        return [Send("inspect", Branch(order=order_id)) for order_id in calls[0]["args"]["orders"]]
    return "tools" if calls else END


def _open_calls(state: State) -> list[ToolCall]:
    last = state["messages"][-1]
    return last.tool_calls if isinstance(last, AIMessage) else []


def _total(state: State) -> int:
    return sum(check["cents"] for check in state["checks"])


class Desk:
    """The nodes that act on the world: on the carrier and on the ledger."""

    def __init__(self, ledger: Ledger, carrier_down: Sequence[str]) -> None:
        self.ledger = ledger
        self.carrier_down = carrier_down

    def inspect(self, state: Branch) -> dict[str, Any]:
        """Ask the carrier about one order, and set its refund aside."""
        order = find(state["order"])
        self.ledger.add("asked carrier", order.id)
        while order.id in self.carrier_down:
            time.sleep(0.1)
        self.ledger.add("set aside", order.id, order.refund)
        return {"checks": [Check(order=order.id, grade=order.grade, cents=order.refund)]}

    def approve(self, state: State) -> dict[str, Any]:
        """Stop until a person has answered, if the total is above the limit."""
        total = _total(state)
        if total <= APPROVAL_LIMIT:
            return {"approved": True}
        return {"approved": interrupt({"question": f"Pay {euros(total)}?", "risk": state["risk"]}) == "yes"}

    def settle(self, state: State) -> dict[str, Any]:
        """Pay, or put the money back; then answer the call of the agent."""
        paid, total = state["approved"], euros(_total(state))
        for check in state["checks"]:
            self.ledger.add("paid" if paid else "put back", check["order"], check["cents"])
        outcome = f"{total} are on their way to you." if paid else "The refund was declined."
        return {"messages": [ToolMessage(outcome, tool_call_id=_open_calls(state)[0]["id"], name="refund")]}


class RiskState(TypedDict, total=False):
    """The state of the risk review."""

    checks: list[Check]
    signals: Annotated[dict[str, int], operator.or_]
    risk: str


class RiskOutput(TypedDict):
    """The result of the risk review."""

    risk: str


def risk_graph() -> Any:
    """Return the subgraph that reviews a claim: two parallel signals, then their sum."""

    def frequency(state: RiskState) -> dict[str, Any]:
        return {"signals": {"frequency": 100 * len(state["checks"]) // len(ORDERS[CUSTOMER])}}

    def amount(state: RiskState) -> dict[str, Any]:
        return {"signals": {"amount": sum(check["cents"] for check in state["checks"]) // 1_000}}

    def score(state: RiskState) -> dict[str, Any]:
        total = sum(state["signals"].values())
        return {"risk": f"{'high' if total > 100 else 'low'} ({total})"}

    builder = StateGraph(RiskState, output_schema=RiskOutput)
    for node in (frequency, amount, score):
        builder.add_node(node)
    builder.add_edge(START, "frequency").add_edge(START, "amount").add_edge(["frequency", "amount"], "score")
    return builder.compile()


def desk_graph(checkpointer: RedisStreamSaver, ledger: Ledger, carrier_down: Sequence[str] = ()) -> Any:
    """Return the agent, whose carrier does not answer for orders in `carrier_down`."""
    desk = Desk(ledger, carrier_down)
    builder = StateGraph(State)
    builder.add_node(speak).add_node("tools", ToolNode(tools(ledger)))
    refund: list[Any] = [desk.inspect, ("risk", risk_graph()), desk.approve, desk.settle]
    builder.add_sequence(refund)
    builder.add_edge(START, "speak").add_edge("tools", "speak").add_edge("settle", "speak")
    builder.add_conditional_edges("speak", after_speaking, ["tools", "inspect", END])
    return builder.compile(checkpointer=checkpointer)


Step = tuple[Any, audit]
"""The input of the graph, and the stamp for the log that says who gave it."""


def _step(text: str) -> Step:
    kind, _, content = text.partition("=")
    if kind == "say":
        return {"messages": [HumanMessage(content)]}, audit(actor="customer")
    if kind == "answer":
        return Command(resume=content), audit(actor="dana", reason="decision on a refund")
    if text == "continue":
        return None, audit(actor="worker", reason="resumed from the log")
    raise argparse.ArgumentTypeError("a step is say=TEXT, answer=TEXT or continue")


def main() -> None:
    """Take the steps that the command line names, one after the other."""
    parser = argparse.ArgumentParser(description="Take steps of a conversation with the demo's agent.")
    parser.add_argument("--thread", required=True, help="thread id")
    parser.add_argument("--ledger", required=True, type=Path, help="file with the shop's books")
    parser.add_argument("--carrier-down", nargs="*", default=[], metavar="ORDER", help="the carrier hangs on these")
    parser.add_argument("--async", dest="use_async", action="store_true", help="ainvoke instead of invoke")
    parser.add_argument(
        "--steps",
        nargs="+",
        required=True,
        type=_step,
        metavar="STEP",
        help="say=TEXT, answer=TEXT to the question that stopped the graph, or continue from the end of the log",
    )
    options = parser.parse_args()
    if options.use_async:
        asyncio.run(_atake(options))
    else:
        _take(options)


def _take(options: argparse.Namespace) -> None:
    with RedisStreamSaver.from_conn_string(os.environ[URL_VARIABLE]) as saver:
        graph = desk_graph(saver, Ledger(options.ledger), options.carrier_down)
        for step, stamp in options.steps:
            with stamp:
                graph.invoke(step, {"configurable": {"thread_id": options.thread}}, durability="sync")


async def _atake(options: argparse.Namespace) -> None:
    async with RedisStreamSaver.from_conn_string(os.environ[URL_VARIABLE]) as saver:
        graph = desk_graph(saver, Ledger(options.ledger), options.carrier_down)
        for step, stamp in options.steps:
            with stamp:
                await graph.ainvoke(step, {"configurable": {"thread_id": options.thread}}, durability="sync")


if __name__ == "__main__":
    main()
