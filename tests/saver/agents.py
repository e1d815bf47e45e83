"""A prebuilt agent that needs no key: its model follows a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool


class ScriptedModel(BaseChatModel):
    """Answers the n-th turn of a conversation with the n-th message of its script."""

    script: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        return ChatResult(generations=[ChatGeneration(message=self.script[turn % len(self.script)])])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return {"sf": "It's always sunny in sf", "nyc": "It might be cloudy in nyc"}.get(city, f"No idea about {city}")


def ask(turn: int, *cities: str) -> AIMessage:
    """A model's turn that calls `get_weather` for each city."""
    return AIMessage(
        "",
        id=f"ask-{turn}",
        tool_calls=[
            {"name": "get_weather", "args": {"city": city}, "id": f"call-{turn}-{city}", "type": "tool_call"}
            for city in cities
        ],
    )


def human(text: str) -> HumanMessage:
    """A question with an id of its own, so that two runs of one conversation are equal."""
    return HumanMessage(text, id=f"human {text}")


def weather_agent(checkpointer: Any, script: Sequence[AIMessage] | None = None) -> Any:
    """A react agent with the weather tool."""
    answers = script or [
        ask(1, "sf"),
        AIMessage("It's sunny in sf.", id="answer-1"),
        AIMessage("You're welcome.", id="answer-2"),
    ]
    return create_agent(ScriptedModel(script=list(answers)), [get_weather], checkpointer=checkpointer)
