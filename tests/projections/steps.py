"""Flows of a saver, run with something done before each of their requests, as another client might do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eventlog.flow import Begin, Call, Flow, Request
from saver import RedisStreamSaver

T = TypeVar("T")


class Steps:
    """Runs flows on a saver's connections."""

    def __init__(self, saver: RedisStreamSaver) -> None:
        self.saver = saver
        self.requests: list[Request] = []
        """Those of the last flow."""

    def run(self, flow: Flow[T], before: Callable[[Request], object] | None = None) -> T:
        """Result of `flow`, whose items are dropped; `before` is called with each request before it is sent."""
        self.requests = []
        return self.saver._runner.run(self._watched(flow, before), "test", id)

    def items(self, flow: Flow[None], before: Callable[[Request], object] | None = None) -> list[Any]:
        """What `flow` emits."""
        self.requests = []
        return list(self.saver._runner.iterate(self._watched(flow, before), "test"))

    def pruning(self, *threads: str, keep: int | None = None) -> Flow[None]:
        """What `prune` does."""
        return self.saver._operations.prune(self.saver.serde, threads, "keep_latest", keep)

    def putting(self, *put: Any) -> Flow[Any]:
        """What `put` does."""
        return self.saver._operations.put(self.saver.serde, *put)

    def listing(self, config: Any = None, filter: Any = None) -> Flow[None]:
        """What `list` does."""
        return self.saver._operations.list(self.saver.serde, config, filter, None, None)

    def calls(self, script: str) -> list[Call]:
        """The requests of the last flow that ran a script of `projections`."""
        calls = [request.call if isinstance(request, Begin) else request for request in self.requests]
        return [call for call in calls if isinstance(call, Call) and is_call(call, script)]

    def _watched(self, flow: Flow[T], before: Callable[[Request], object] | None) -> Flow[T]:
        try:
            request = next(flow)
            while True:
                if before is not None:
                    before(request)
                self.requests.append(request)
                try:
                    reply = yield request
                except Exception as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def is_call(request: Request, script: str) -> bool:
    """Whether a request runs, or begins to run, a script of `projections`."""
    call = request.call if isinstance(request, Begin) else request
    return isinstance(call, Call) and call.script.name.rpartition("/")[2] == script
