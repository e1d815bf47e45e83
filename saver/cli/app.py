"""The typer app, and what all commands of `agentlog` share: their options, how they are declared, and their exit codes.

    0    fine
    1    the answer is no, or a bound is exceeded
    2    bad input: usage, a URL, a name that there is none of (`CallerError`)
    3    the server, the network, or what is stored (`ServerError`); or the output cannot be written
    130  Ctrl-C
    141  whoever read the output has gone

A command is a function that takes `Options` first and returns its exit code, or None for 0:

    @command("agentlog groups")
    def groups(options: Options) -> None: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from eventlog.connect.connections import Connections
from eventlog.errors import CorruptEntry, EventLogError, GroupNotFound, SignatureInvalid, ThreadNotFound
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.reading import open_keyspace
from eventlog.keys import PREFIX, Keyspace
from eventlog.transport.drivers import Runner
from saver.cli import output
from saver.cli.output import BadInput

__all__ = ["Command", "Options", "app", "command"]

F = TypeVar("F", bound=Callable[..., Any])

DISTRIBUTION = "langgraph-checkpoint-redis-streams"
URL, PREFIX_VARIABLE = "REDIS_URL", "AGENTLOG_PREFIX"


@dataclass(frozen=True)
class Options:
    """What every command is told."""

    url: str | None = None
    prefix: str = PREFIX
    json: bool = False
    local: bool = False
    """Whether people are shown times in the local zone."""

    def open_feed(self) -> ActivityFeed:
        """The activity feed, to be closed. Raises `BadInput` without a URL, `InvalidArgument` for a bad one. No round trips."""
        return ActivityFeed.from_conn_string(self.server(), prefix=self.prefix)

    @contextmanager
    def open_prefix(self) -> Iterator[tuple[Runner, Keyspace]]:
        """What runs flows, and the keys, of a prefix that was written under, to read it alone. A round trip. Raises as `open_feed`,
        and `ThreadNotFound` where nothing was.
        """
        with closing(Connections.from_url(self.server())) as connections:
            runner = Runner(connections, "command")
            keyspace = runner.run(open_keyspace(self.prefix, None), f"prefix {self.prefix!r}")
            if keyspace is None:
                raise ThreadNotFound(f"Nothing was written under prefix {self.prefix!r} yet. Check --url and --prefix.")
            yield runner, keyspace

    def server(self) -> str:
        """The URL. Raises `BadInput` if there is none."""
        if not self.url:
            raise BadInput(f"which server? Pass --url redis://host:port/db, or set {URL}.")
        return self.url


_Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help=f"The server, as redis://host:port/db. [env: {URL}]")
]
_Prefix = Annotated[
    str | None,
    typer.Option("--prefix", metavar="TEXT", help=f"What keys begin with. [env: {PREFIX_VARIABLE}; default: {PREFIX}]"),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
_Local = Annotated[bool, typer.Option("--local", help="Times in the local zone rather than UTC (not with --json).")]
_SHARED = [
    Parameter("url", Parameter.KEYWORD_ONLY, default=None, annotation=_Url),
    Parameter("prefix", Parameter.KEYWORD_ONLY, default=None, annotation=_Prefix),
    Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=_Json),
    Parameter("local", Parameter.KEYWORD_ONLY, default=False, annotation=_Local),
]
_GIVEN = [one.name for one in _SHARED]
_NEXT = "agentlog verify tells more; agentlog export THREAD FILE --damaged keeps the evidence."


class Command(typer.core.TyperCommand):
    """A command whose usage and help name its arguments as bare as its options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """[OPTIONS], then the arguments as they are declared."""
        arguments = [one for one in self.get_params(ctx) if isinstance(one, typer.core.TyperArgument)]
        return ["[OPTIONS]", *(one.metavar or one.name or "" for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, without the types of arguments."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for one in self.get_params(ctx):
            if isinstance(one, typer.core.TyperArgument):
                found["Arguments"].append((one.metavar or one.name or "", one.help or ""))
            elif record := one.get_help_record(ctx):
                found["Options"].append(record)
        for title, records in found.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Alphabetical(typer.core.TyperGroup):
    """Lists commands by name, in whatever order their modules are loaded."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted(super().list_commands(ctx))


app = typer.Typer(
    name="agentlog",
    cls=Alphabetical,
    help="What agents did and do, from the Redis Streams that their checkpointer writes.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    *,
    url: _Url = None,
    prefix: _Prefix = None,
    json: _Json = False,
    local: _Local = False,
    show_version: Annotated[bool, typer.Option("--version", is_eager=True, help="The version, and no more.")] = False,
) -> None:
    """What agents did and do, from the Redis Streams that their checkpointer writes."""
    if show_version:
        output.line(f"agentlog {version(DISTRIBUTION)}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise BadInput("no command. Try: agentlog --help")
    ctx.obj = {"url": url, "prefix": prefix, "json": json, "local": local}


def command(*examples: str, **settings: Any) -> Callable[[F], F]:
    """Declares a command: its name and help are the function's, below its help stand the examples.

    The options that all share may stand before the command's name or behind it, where they win. `settings` are typer's.
    """

    def declare(function: F) -> F:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {one}" for one in examples)
        app.command(epilog=epilog, **{"cls": Command, **settings})(_with_options(function))
        return function

    return declare


def _with_options(function: Callable[..., Any]) -> Callable[..., None]:
    """The function with the shared options in place of its first parameter; its errors are told, and end in an exit code."""
    own = list(signature(function, eval_str=True).parameters.values())[1:]

    def called(ctx: typer.Context, **given: Any) -> None:
        options = _options(ctx.obj or {}, {name: given.pop(name) for name in _GIVEN})
        try:
            code = function(options, **given) or 0
        except KeyboardInterrupt:  # which typer, old or new, would tell of in different ways
            code = 130
        except GroupNotFound as error:  # of which the library tells in terms of its calls
            told = f"There is no group {given['group']!r} under prefix {options.prefix!r}; see agentlog groups."
            code = output.fail(type(error)(told), options.url)
        except (CorruptEntry, SignatureInvalid) as error:
            concerns_a_log = given.get("thread") or given.get("names")  # rather than the feed
            code = output.fail(type(error)(f"{error} {_NEXT}") if concerns_a_log else error, options.url)
        except (EventLogError, BadInput) as error:
            code = output.fail(error, options.url)
        if code:
            raise typer.Exit(code)

    parameters = [Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context), *own, *_SHARED]
    called.__name__ = function.__name__
    called.__doc__ = function.__doc__
    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # what `inspect` looks at first
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _options(before: dict[str, Any], behind: dict[str, Any]) -> Options:
    """From what stood before the command's name, what stood behind it, and the environment."""
    url, prefix = os.environ.get(URL), os.environ.get(PREFIX_VARIABLE) or PREFIX
    for given in (before, behind):
        url = url if given.get("url") is None else given["url"]
        prefix = prefix if given.get("prefix") is None else given["prefix"]
    json, local = (bool(before.get(name) or behind.get(name)) for name in ("json", "local"))
    return Options(url, prefix, json, local)
