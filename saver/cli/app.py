"""The typer app, the options that all commands share, and their exit codes.

    0    fine
    1    the answer is no, a bound is exceeded, or a signature is missing or wrong
    2    bad input: usage, a URL, a name that does not exist (`CallerError`)
    3    the server, the network, or damaged data (`ServerError`); or the output cannot be written
    130  Ctrl-C
    141  the reader of the output has gone

A command is a function that takes `Options` first. It returns its exit code, or None for 0:

    @command("agentlog groups")
    def groups(options: Options) -> None: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from eventlog.connect.connections import Connections
from eventlog.errors import CorruptEntry, EventLogError, GroupNotFound, SignatureInvalid, ThreadNotFound
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.reading import open_keyspace
from eventlog.keys import PREFIX, Keyspace
from eventlog.limits import Limits
from eventlog.transport.drivers import Runner
from projections.time_travel.moment import Zone
from saver.cli import output
from saver.cli.output import BadInput

__all__ = ["Command", "Options", "app", "command"]

F = TypeVar("F", bound=Callable[..., Any])

DISTRIBUTION = "langgraph-checkpoint-redis-streams"
LONGEST_URL = 16_384
"""Bytes of a file with a URL, at most."""
URL, PREFIX_VARIABLE, LIMITS = "REDIS_URL", "AGENTLOG_PREFIX", "AGENTLOG_LIMITS"


@dataclass(frozen=True)
class Options:
    """The values of the options that all commands share."""

    url: str | None = None
    prefix: str = PREFIX
    json: bool = False
    local: bool = False
    """Whether people read and type times in the local zone."""
    limits: Limits = Limits()  # noqa: RUF009 - it is frozen
    """The limits on what is read, and on ids."""

    @property
    def zone(self) -> Zone:
        """The zone of a typed time that names none."""
        return "local" if self.local else "utc"

    def report(self, text: str, data: dict[str, Any]) -> None:
        """Write a result: a line of text, or the data with --json."""
        if self.json:
            output.json_line(data)
        else:
            output.line(text)

    def server(self) -> str:
        """The URL; raises `BadInput` if there is none."""
        if not self.url:
            raise BadInput(f"which server? Pass --url redis://host:port/db or --url-file FILE, or set {URL}.")
        return self.url

    def open_feed(self) -> ActivityFeed:
        """The activity feed, to be closed.

        No round trips. Raises `BadInput` without a URL, `InvalidArgument` for a bad one.
        """
        return ActivityFeed.from_conn_string(self.server(), prefix=self.prefix, limits=self.limits)

    @contextmanager
    def open_prefix(self, *, may_be_empty: bool = False) -> Iterator[tuple[Runner, Keyspace]]:
        """The runner of flows, and the keys of a prefix that was written to.

        One round trip. Raises `ThreadNotFound` where nothing was written yet; with `may_be_empty` a note says so, and
        the command ends with exit code 0. Raises as `open_feed`, too.
        """
        with closing(Connections.from_url(self.server())) as connections:
            runner = Runner(connections, "command")
            opening = open_keyspace(connections, self.prefix, None, limits=self.limits)
            keyspace = runner.run(opening, f"prefix {self.prefix!r}")
            if keyspace is None:
                message = f"Nothing was written under prefix {self.prefix!r} yet. Check --url and --prefix."
                if not may_be_empty:
                    raise ThreadNotFound(message)
                output.note(message)
                raise typer.Exit
            yield runner, keyspace


_Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", show_default=False, help=f"The server, as redis://host:port/db. [env: {URL}]"),
]


def url_in(option: str) -> Callable[[str | None], str | None]:
    """The callback of an option that names a file: the URL in the file, which no list of processes shows.

    Raises `BadInput`, which never quotes the contents.
    """

    def read(file: str | None) -> str | None:
        if file is None:
            return None
        try:
            with Path(file).open("rb") as opened:
                found = opened.read(LONGEST_URL + 1).strip().decode()
        except OSError as error:
            raise BadInput(f"{option} {file!r}: {error.strerror or error}.") from error
        except ValueError:
            found = ""
        if len(found.split()) != 1 or len(found) > LONGEST_URL:
            raise BadInput(f"{option} {file!r} must have one line, which is a URL.")
        return found

    return read


_UrlFile = Annotated[
    str | None,
    typer.Option(
        "--url-file",
        metavar="FILE",
        show_default=False,
        callback=url_in("--url-file"),
        help="A file whose one line is the server's URL. It keeps a password out of the list of processes.",
    ),
]
_Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="TEXT",
        show_default=False,
        help=f"The prefix of the keys. [env: {PREFIX_VARIABLE}; default: {PREFIX}]",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
_Local = Annotated[bool, typer.Option("--local", help="Times in the local zone rather than UTC (not with --json).")]
_Limits = Annotated[
    str | None,
    typer.Option(
        "--limits",
        metavar="NAME=N,...",
        show_default=False,
        help=f"Limits on sizes, as errors name them; K, M, G after N. [env: {LIMITS}]",
    ),
]
_SHARED = [
    Parameter("url", Parameter.KEYWORD_ONLY, default=None, annotation=_Url),
    Parameter("url_file", Parameter.KEYWORD_ONLY, default=None, annotation=_UrlFile),
    Parameter("prefix", Parameter.KEYWORD_ONLY, default=None, annotation=_Prefix),
    Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=_Json),
    Parameter("local", Parameter.KEYWORD_ONLY, default=False, annotation=_Local),
    Parameter("limits", Parameter.KEYWORD_ONLY, default=None, annotation=_Limits),
]
_NEXT = "agentlog verify has the details; agentlog export THREAD FILE --damaged keeps the evidence."


class Command(typer.core.TyperCommand):
    """A command whose usage and help name its arguments without their types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """[OPTIONS], then the arguments as they are declared."""
        arguments = [one for one in self.get_params(ctx) if isinstance(one, typer.core.TyperArgument)]
        return ["[OPTIONS]", *(one.metavar or one.name or "" for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, the former without types."""
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
    """A group that lists its commands by name, not in the order of loading."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted(super().list_commands(ctx))


app = typer.Typer(
    name="agentlog",
    cls=Alphabetical,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context,
    *,
    url: _Url = None,
    url_file: _UrlFile = None,
    prefix: _Prefix = None,
    json: _Json = False,
    local: _Local = False,
    limits: _Limits = None,
    show_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """What agents did and do, from the Redis Streams that their checkpointer writes."""
    if show_version:
        output.line(f"agentlog {version(DISTRIBUTION)}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise BadInput("no command. Try: agentlog --help")
    url = url_file or url
    given = {
        "url": os.environ.get(URL) if url is None else url,
        "prefix": os.environ.get(PREFIX_VARIABLE) or PREFIX if prefix is None else prefix,
        "json": json,
        "local": local,
        "limits": os.environ.get(LIMITS) if limits is None else limits,
    }
    ctx.default_map = {ctx.invoked_subcommand: given}


def command(*examples: str, **settings: Any) -> Callable[[F], F]:
    """Declare a function to be a command, with examples below its help.

    The command's name and help are the function's. The shared options may stand before the command's name, or after
    it, where they win. `settings` are typer's.
    """

    def declare(function: F) -> F:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {one}" for one in examples)
        app.command(epilog=epilog, **{"cls": Command, **settings})(_with_options(function))
        return function

    return declare


_NO_IDS = ("start", "source")
"""Arguments that may be longer than an id, a position in the feed, or hold a password."""


def _texts(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The ids that a command was given, each after the name of its argument; also texts that are shorter than any id."""
    for name, value in given.items():
        texts = value if isinstance(value, list) else [value] if name not in _NO_IDS else []
        yield from ((name, one) for one in texts if isinstance(one, str))


def _with_options(function: Callable[..., Any]) -> Callable[..., None]:
    """The function with the shared options as its own; its errors become exit codes."""

    def called(**given: Any) -> None:
        shared = {one.name: given.pop(one.name) for one in _SHARED}
        url = shared.pop("url_file") or shared.pop("url")  # a file was named for this command, after any --url
        options = Options(**{**shared, "url": url, "limits": Limits()})
        try:
            options = replace(options, limits=Limits.parse(shared["limits"] or ""))
            options.limits.check_ids(_texts(given))
            code = function(options, **given) or 0
        except KeyboardInterrupt:  # typer's versions report it in different ways
            code = 130
        except GroupNotFound as error:  # the library's message names its calls, not commands
            message = f"There is no group {given['group']!r} under prefix {options.prefix!r}; see agentlog groups."
            code = output.fail(type(error)(message), options.url)
        except (CorruptEntry, SignatureInvalid) as error:
            # rather than the feed, or the file of an import
            concerns_a_log = (given.get("thread") or given.get("names")) and "ttl" not in given
            code = output.fail(type(error)(f"{error} {_NEXT}") if concerns_a_log else error, options.url)
            if isinstance(error, SignatureInvalid):
                code = 1  # as findings of agentlog verify
        except (EventLogError, BadInput) as error:
            code = output.fail(error, options.url)
        if code:
            raise typer.Exit(code)

    own = list(signature(function, eval_str=True).parameters.values())[1:]
    called.__name__ = function.__name__
    called.__doc__ = function.__doc__
    called.__signature__ = Signature([*own, *_SHARED])  # type: ignore[attr-defined] # typer reads it by `inspect`
    called.__annotations__ = {one.name: one.annotation for one in [*own, *_SHARED]}
    return called
