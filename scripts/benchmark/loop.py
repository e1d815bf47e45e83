"""A compiled LangGraph loop: the cost of the checkpointer in its place of use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from scripts.benchmark.book import figure
from scripts.benchmark.clock import quiet, tidy
from scripts.benchmark.plan import Run, Runner, rotated
from scripts.benchmark.savers import FLOOR, WHOLE
from scripts.benchmark.traffic import chat, conversation

__all__ = ["TURN", "compiled_loop"]

TURN = figure("loop.turn", "one turn: a message in, two nodes, two messages out")
PER_TURN = 3
"""The number of messages that a turn adds."""


class _Agent:
    """A graph of two nodes that speaks prepared messages."""

    def __init__(self, saver: Any, script: list[BaseMessage], thread: str) -> None:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MessagesState)
        builder.add_node("think", self._speak)
        builder.add_node("answer", self._speak)
        builder.add_edge(START, "think")
        builder.add_edge("think", "answer")
        builder.add_edge("answer", END)
        self._graph = builder.compile(checkpointer=saver)
        self._config: Any = {"configurable": {"thread_id": thread}}
        self._script = script

    def _speak(self, state: MessagesState) -> dict[str, Any]:
        return {"messages": [self._script[len(state["messages"])]]}

    def turn(self, number: int) -> Any:
        """Take one turn, and return the state after it."""
        return self._graph.invoke({"messages": [self._script[PER_TURN * number]]}, self._config)

    def expected(self, number: int) -> list[BaseMessage]:
        """Return the messages after a turn."""
        return self._script[: PER_TURN * (number + 1)]


def compiled_loop(run: Run) -> None:
    """Measure turns, each of which every saver takes before any takes the next turn."""
    plan = run.plan
    script = conversation(plan.seed, PER_TURN * plan.turns, 1024)
    run.stage(f"compiled graph, {plan.turns} turns", plan.turns * plan.turn_rounds, 0.12)
    for round in run.rounds(plan.turn_rounds):
        kinds = run.peers(round, without=[WHOLE, FLOOR])
        with run.runners("loop", kinds, chat(plan.seed, 3), f"loop-{round}") as runners, quiet():
            agents = [(runner, _Agent(runner.saver, script, runner.replay.thread)) for runner in runners]
            for turn in range(plan.turns):
                for runner, agent in rotated(agents, round + turn):
                    _take(run, runner, agent, turn, round)
                tidy()
                run.tick()
    run.done()


def _take(run: Run, runner: Runner, agent: _Agent, turn: int, round: int) -> None:
    state = run.measure(TURN, runner.name, round, turn + 1, lambda: agent.turn(turn), vital=True)
    if state is not None:
        run.expect(TURN, runner.name, list(_ids(state["messages"])), list(_ids(agent.expected(turn))))


def _ids(messages: list[BaseMessage]) -> Iterator[str | None]:
    return (message.id for message in messages)
