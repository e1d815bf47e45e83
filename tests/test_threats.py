"""Each row of the table "Who can do what" in SECURITY.md has its tests, which are named or written here."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog import ActivityFeed
from eventlog.errors import ServerUnavailable
from eventlog.keys import Keyspace
from eventlog.signing import SigningKey
from projections.integrity.findings import Verified
from saver import RedisStreamSaver
from tests.projections.tampering import Tampering, chained, later
from tests.saver.threads import config, follow, step
from tests.servers import Server

TESTS = Path(__file__).parent
WRITER = "writes to Redis"
USER = "has a listed user's password"
CALLER = "calls the application"
EXPORTER = "hands over an export"
ACCOUNT = "account on the machine"
VERIFY = "projections/test_verify.py::"
LIVES = "saver/test_lives.py::"
FOUND = VERIFY + "test_tampering_is_found"
REFUSED = "saver/test_signed.py::test_what_was_altered_is_refused"
RIGHTS = "saver/test_rights.py::test_the_table_is_true"
QUOTED = "saver/cli/test_forged_output.py::"
ROWS: dict[tuple[str, str], list[str]] = {
    ("listens on the network", "read and change everything"): ["test_threats.py::test_a_listener_sees_no_password"],
    ("reads Redis", "read values"): ["saver/test_semantics.py::test_encrypted"],
    (WRITER, "change an event, and leave the chain"): [FOUND, REFUSED],
    (WRITER, "change an event, and compute a new chain"): [FOUND, REFUSED],
    (WRITER, "append a false event"): [FOUND, LIVES + "test_a_writer_refuses_a_log_that_ends_unsigned", REFUSED],
    (WRITER, "move an event into another thread"): [
        FOUND,
        "saver/test_signed.py::test_an_event_of_another_thread_is_refused",
    ],
    (WRITER, "append a signed event a second time"): [FOUND],
    (WRITER, "put in an event or a prune of another life of the thread"): [
        LIVES + "test_an_event_of_an_earlier_life_is_found_and_refused",
        LIVES + "test_a_prune_of_an_earlier_life_is_found",
    ],
    (WRITER, "put into a copy what the source wrote later"): [
        LIVES + "test_what_a_source_wrote_after_the_copy_is_refused",
        VERIFY + "test_what_a_copy_may_hold",
    ],
    (WRITER, "do one of the last two in a thread begun by a version without marks"): [
        LIVES + "test_a_thread_of_an_older_version_goes_on",
        "saver/cli/test_signed_threads.py::test_verify_says_which_threads_an_older_version_began",
    ],
    (WRITER, "move a prune, or put one back that a restore undid"): [
        LIVES + "test_a_removal_cannot_be_moved_within_its_life"
    ],
    (WRITER, "remove events, and append a false prune"): [FOUND],
    (WRITER, "remove events from the middle"): [FOUND],
    (WRITER, "cut the end, in the log only"): [FOUND],
    (WRITER, "cut the end, in index, stream and feed too"): [
        "test_threats.py::test_only_a_kept_digest_shows_it",
        VERIFY + "test_a_log_that_was_cut_and_went_on",
    ],
    (WRITER, "put a whole earlier life of a thread back"): ["test_threats.py::test_only_a_kept_digest_shows_it"],
    (WRITER, "put a pruned event back"): [VERIFY + "test_removed_events_that_are_back_are_found"],
    (WRITER, "change the time of the last event"): ["test_threats.py::test_only_a_kept_digest_shows_it"],
    (WRITER, "change a view, such as the head"): [
        "saver/test_signed.py::test_heads_are_not_believed",
        "projections/test_check.py::test_damage_is_found_and_mended",
    ],
    (WRITER, "damage a thread's index or order"): [
        "saver/test_damaged_views.py::test_a_damaged_order_is_rebuilt",
        "saver/test_damaged_views.py::test_an_index_that_names_no_entry_is_rebuilt",
        "saver/test_signed.py::test_views_that_lead_elsewhere_are_refused",
    ],
    (WRITER, "put a foreign member into a view of threads"): [
        "saver/test_damaged_views.py::test_a_foreign_member_hides_no_thread"
    ],
    (WRITER, "announce a false event in the feed"): [
        "eventlog/feed/test_forged.py::test_a_forged_pointer_is_refused_when_it_is_loaded",
        "eventlog/feed/test_forged.py::test_the_event_itself_is_checked_with_a_key",
    ],
    (WRITER, "give an event another number or digest in the feed"): [
        VERIFY + "test_a_forged_pointer_is_no_cut_end",
        VERIFY + "test_a_forged_pointer_hides_no_cut_end",
    ],
    (WRITER, "put a foreign entry into a feed"): [
        "saver/cli/test_foreign_entries.py::test_all_threads_are_verified_and_checked",
        "saver/cli/test_foreign_entries.py::test_all_threads_are_rebuilt",
        "saver/cli/test_foreign_entries.py::test_tail_names_the_feed_of_a_foreign_entry",
        "eventlog/feed/test_activity.py::test_an_entry_of_somebody_else",
    ],
    (WRITER, "announce an event twice, or remove a pointer"): [
        "test_threats.py::test_an_event_that_is_announced_twice_or_not"
    ],
    (WRITER, "make a reader run code by a value"): [
        "saver/test_types.py::test_a_hostile_value_runs_nothing",
        "saver/test_types.py::test_who_trusts_types_runs_them",
        "saver/cli/test_foreign_types.py::test_nothing_is_run",
    ],
    (WRITER, "give an object of an allowed type other contents"): [FOUND, REFUSED],
    (WRITER, "put a value in the clear among encrypted ones"): [
        "saver/test_types.py::test_plaintext_under_encryption",
        "saver/test_types.py::test_threads_from_before_encryption",
    ],
    (WRITER, "move an encrypted value to another place"): ["saver/test_binding.py::test_a_value_can_be_moved", REFUSED],
    (f"{WRITER}, and calls the application", "have encrypted bytes, which the caller chose, read as an object"): [
        "saver/test_binding.py::test_a_saver_refuses_relabelled_bytes",
        "saver/test_binding.py::test_bytes_that_others_encrypted_can_be_relabelled",
    ],
    (WRITER, "fill a reader's memory by a short compressed value"): ["saver/test_bombs.py::test_a_bomb_in_a_log"],
    (WRITER, "plant a thread id above 64 KiB"): [
        "saver/test_damaged_views.py::test_a_thread_id_above_the_limit_hides_no_thread",
        "saver/test_long_ids.py::test_longer_ids_that_are_stored",
    ],
    (WRITER, "delete threads, or everything"): [
        "saver/cli/test_archive_commands.py::test_a_damaged_thread_is_restored"
    ],
    (USER, "empty the server, end connections, load functions, list the keys of others"): [
        RIGHTS,
        "saver/test_rights.py::test_users_have_no_other_command_without_a_key",
    ],
    (USER, "reach keys of another prefix"): [
        RIGHTS,
        "saver/test_rights.py::test_keys_of_similar_prefixes_are_out_of_reach",
    ],
    (USER, "take the rights of all who run scripts, on Redis 6.2"): [
        "saver/test_rights.py::test_scripts_of_others_stay_as_they_are",
        "saver/test_rights.py::test_an_old_server_with_users",
    ],
    (USER, "hold the server by a loop in `EVAL`"): ["saver/test_rights.py::test_a_loop_in_a_script"],
    ("has the agent's password", "delete threads of the own prefix, or fill memory"): [RIGHTS],
    (CALLER, "name an actor by `metadata`"): [QUOTED + "test_the_source_of_an_actor_is_shown"],
    (CALLER, "forge rows, fields or commands in output, by ids, stamps or errors"): [
        QUOTED + "test_an_id_is_one_word_of_a_row",
        QUOTED + "test_a_stamp_forges_no_other",
        QUOTED + "test_interrupts_and_errors_forge_no_stamps",
        QUOTED + "test_a_remedy_can_be_pasted",
    ],
    (CALLER, "hold the server with many namespaces or runs"): [
        "projections/test_bounds.py::test_no_request_looks_at_much"
    ],
    (CALLER, "hold the server with one huge state"): ["saver/test_bombs.py::test_a_state_that_is_too_large_for_a_head"],
    (EXPORTER, "fill memory or the server by a short file"): ["saver/test_bombs.py::test_hostile_exports"],
    (EXPORTER, "hold the server with long chains of deltas or versions"): [
        "saver/test_bombs.py::test_no_script_follows_versions_back_too_far",
        "saver/test_bombs.py::test_no_script_follows_a_value_back_too_far",
    ],
    ("hands over a directory", "put native code or functions into an embedded server's data"): [
        "saver/test_hostile_embedded.py::test_a_planted_module_is_not_loaded",
        "saver/test_append_only.py::test_code_in_a_snapshot_is_refused",
    ],
    (ACCOUNT, "plant a directory, link or file for the embedded server"): [
        "saver/test_hostile_embedded.py::test_a_directory_of_another_user",
        "saver/test_hostile_embedded.py::test_planted_links",
        "saver/test_hostile_embedded.py::test_a_file_that_is_planted_between_check_and_use",
    ],
    (ACCOUNT, "read an embedded server's data or socket"): [
        "saver/test_hostile_embedded.py::test_nobody_else_reads_what_the_server_writes"
    ],
    (ACCOUNT, "plant a part or a link where you export"): [
        "projections/test_hostile_directories.py::test_a_planted_part_is_refused",
        "projections/test_hostile_directories.py::test_a_link_is_replaced_not_followed",
    ],
    (ACCOUNT, "read an export or its part"): [
        "projections/test_hostile_directories.py::test_only_the_owner_reads_what_was_exported"
    ],
    (ACCOUNT, "delete or rename an export in a directory that they may write to"): [
        "projections/test_hostile_directories.py::test_a_part_that_is_replaced_meanwhile"
    ],
    (ACCOUNT, "read a password in `ps`"): ["saver/cli/test_feed_commands.py::test_a_file_has_the_url"],
    ("holds the auditor's key", "forge an event"): [
        "eventlog/test_signing.py::test_halves_of_a_key",
        "saver/test_signed.py::test_a_public_half_reads_and_verifies",
    ],
    ("holds the public key, where it was passed as a secret", "forge an event"): [
        "eventlog/test_key_forms.py::test_key_files_are_no_secrets",
        "eventlog/test_key_forms.py::test_a_public_half_is_no_secret",
    ],
    ("holds the writer's key", "forge an event"): ["eventlog/test_signing.py::test_what_is_signed_is_accepted"],
}
"""Who, what they can try, and the tests that hold the row."""


def test_each_row_has_its_test() -> None:
    """The rows here are those of the table, in its order, and each test that they name exists."""
    table = (TESTS.parent / "SECURITY.md").read_text().partition("| who | can try to |")[2].partition("\n\n")[0]
    table = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", table)  # links
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table.splitlines()[2:]]
    assert rows == list(ROWS)
    for named in {one for tests in ROWS.values() for one in tests}:
        file, _, name = named.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), named


@pytest.mark.server
def test_a_listener_sees_no_password() -> None:
    """With `rediss://` a connection begins with TLS, and a listener who cannot prove to be the server gets nothing else."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            with listening.accept()[0] as connection:
                heard.extend(connection.recv(65536))

        thread = threading.Thread(target=listen)
        thread.start()
        url = f"rediss://agent:opensesame@127.0.0.1:{listening.getsockname()[1]}"
        with (
            RedisStreamSaver.from_conn_string(url, retry=Retry(NoBackoff(), 0)) as saver,
            pytest.raises(ServerUnavailable),
        ):
            saver.setup()
        thread.join()
    assert heard[0] == 0x16  # a handshake of TLS
    assert b"opensesame" not in heard


def stored(client: Any, keyspace: Keyspace) -> dict[bytes, bytes]:
    """All that stands in a partition."""
    tag = keyspace.partition(0).feed.removesuffix(b":feed")
    return {key: client.dump(key) for key in client.scan_iter(match=tag + b":*")}


def put_back(client: Any, keyspace: Keyspace, kept: dict[bytes, bytes]) -> None:
    """Replaces all that stands in a partition."""
    client.delete(*stored(client, keyspace))
    for key, data in kept.items():
        client.restore(key, 0, data)


def write(saver: RedisStreamSaver, count: int = 3) -> Verified:
    """Puts checkpoints, and returns what `verify` says of them."""
    made = step({"x": 0})
    named = saver.put(config("t"), *made)
    for number in range(1, count):
        made = follow(made, {"x": number})
        named = saver.put(named, *made)
    return saver.verify("t")


def cut_the_end(client: Any, keyspace: Keyspace, saver: RedisStreamSaver) -> Verified:
    write(saver)
    kept = stored(client, keyspace)
    newest = write(saver)
    put_back(client, keyspace, kept)
    return newest


def put_a_life_back(client: Any, keyspace: Keyspace, saver: RedisStreamSaver) -> Verified:
    write(saver)
    kept = stored(client, keyspace)
    saver.delete_thread("t")
    newest = write(saver)
    put_back(client, keyspace, kept)
    return newest


def change_the_last_time(client: Any, keyspace: Keyspace, saver: RedisStreamSaver) -> Verified:
    newest = write(saver)
    tampering = Tampering(client, keyspace.thread(b"t"))
    entries = tampering.entries()
    moved = chained([*entries[:-1], (later(entries), entries[-1][1])])
    tampering.write(moved)
    feed = keyspace.partition(0).feed
    ((pointer, told),) = client.xrevrange(feed, count=1)
    client.xdel(feed, pointer)
    other = {**told, b"id": moved[-1][0]}
    client.xadd(feed, {**other, b"digest": moved[-1][1][3]} if b"digest" in told else other)
    return newest


@pytest.mark.parametrize("attack", [cut_the_end, put_a_life_back, change_the_last_time])
@pytest.mark.parametrize("key", [None, SigningKey.hmac(b"s" * 32)], ids=["unsigned", "signed"])
def test_only_a_kept_digest_shows_it(any_server: Server, prefix: str, attack: Any, key: SigningKey | None) -> None:
    """Where log, views and feed all agree on an earlier state, or on another last time, only a kept digest tells."""
    keyspace = Keyspace(prefix, 1)
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, signing_key=key) as saver,
        any_server.client() as client,
    ):
        newest = attack(client, keyspace, saver)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, signing_key=key) as saver:
        assert saver.verify("t").sound
        assert not saver.verify("t", expected={newest.sequence: newest.digest}).sound


def test_an_event_that_is_announced_twice_or_not(any_server: Server, prefix: str) -> None:
    """Consumers get it twice, with one thread and event id, or not at all."""
    feed_key = Keyspace(prefix, 1).partition(0).feed
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver:
        write(saver, 2)
    with any_server.client() as client, ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed:
        (first, told), _ = client.xrange(feed_key)
        client.xadd(feed_key, told)
        names = [(one.thread_id, one.event_id) for one in feed.tail("beginning", follow=False)]
        assert names[0] == names[2] != names[1]
        client.xdel(feed_key, first)
        assert [(one.thread_id, one.event_id) for one in feed.tail("beginning", follow=False)] == names[1:]
