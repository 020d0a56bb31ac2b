"""Items outlive a kill; damaged ones are misses."""

import os
import sqlite3
import threading

import pytest
from other_user import as_user, common_folder

from tasks.store import itemcache
from tasks.store.itemcache import SqliteCache


def test_items_come_back_in_another_process_life(tmp_path):
    SqliteCache(tmp_path / "c.sqlite").put_many({"a": b"1", "b": b""})
    assert SqliteCache(tmp_path / "c.sqlite").get_many(["a", "b", "none"]) == {"a": b"1", "b": b""}


def test_thousands_of_keys_can_be_asked_at_once(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    items = {f"key{i}": str(i).encode() for i in range(2500)}
    cache.put_many(items)
    assert cache.get_many(list(items)) == items


def test_an_altered_value_is_a_miss(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"right", "b": b"right"})
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        (value,) = db.execute("SELECT value FROM items WHERE key = 'a'").fetchone()
        db.execute("UPDATE items SET value = ? WHERE key = 'a'", (value[:-1] + b"x",))
    assert cache.get_many(["a", "b"]) == {"b": b"right"}


def test_a_value_under_another_key_is_a_miss(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"right"})
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute("UPDATE items SET key = 'b'")
    assert cache.get_many(["b"]) == {}


def overwrite(path, place, body):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(body)


def middle_page(path):
    overwrite(path, 4096 * (path.stat().st_size // 8192), b"\xa5" * 4096)


def foreign_tables(path):
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE items(name TEXT, more INTEGER NOT NULL)")


def refuse_all(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON items BEGIN SELECT RAISE(ABORT, 'no'); END")


def folder_for_log(path):
    log = path.with_name("c.sqlite-wal")
    log.unlink(missing_ok=True)
    log.mkdir()


HARMS = {
    "a page in its middle is overwritten": middle_page,
    "its first page is overwritten": lambda path: overwrite(path, 0, b"\xa5" * 4096),
    "it is cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "it is no database": lambda path: path.write_bytes(b"not a database, by any means" * 100),
    "a folder lies in its place": lambda path: (path.unlink(), (path / "inside").mkdir(parents=True)),
    "a FIFO lies in its place": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder lies in the place of its log": folder_for_log,
    "its log is rubbish": lambda path: path.with_name("c.sqlite-wal").write_bytes(b"\xa5" * 40000),
    "it has other tables": foreign_tables,
    "it refuses what it is given": refuse_all,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("opened", ["before", "after"])
def test_whatever_is_wrong_with_the_file_the_next_items_are_kept_again(tmp_path, caplog, harm, opened):
    path = tmp_path / "c.sqlite"
    items = {f"key{i:04}": bytes([i % 256]) * 300 for i in range(400)}
    cache = SqliteCache(path)
    cache.put_many(items)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if opened == "after":
        cache.close()
    HARMS[harm](path)
    if opened == "after":
        cache = SqliteCache(path)
    got = cache.get_many([*items, "new"])
    assert all(items[key] == value for key, value in got.items()), "what comes back is right, however little it is"
    cache.put_many({"new": b"1", **items})
    again = SqliteCache(path)
    again.put_many({"newer": b"2"})
    if opened == "after":
        assert again.get_many(["new", "newer", "key0000"]) == {"new": b"1", "newer": b"2", "key0000": items["key0000"]}
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) <= 1, "it is told once"
    assert all(str(path) in text for text in warnings), "naming the file"


def test_a_damaged_file_is_set_aside(tmp_path, caplog):
    (tmp_path / "c.sqlite").write_bytes(b"not a database, by any means" * 100)
    cache = SqliteCache(tmp_path / "c.sqlite")
    assert cache.get_many(["a"]) == {}
    cache.put_many({"a": b"1"})
    assert cache.get_many(["a"]) == {"a": b"1"}
    assert (tmp_path / "c.sqlite.damaged").read_bytes().startswith(b"not a database")
    assert str(tmp_path / "c.sqlite") in caplog.text


def test_a_full_disk_costs_what_is_new_and_nothing_that_is_there(tmp_path, caplog):
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"1"})
    (pages,) = cache._db.execute("PRAGMA page_count").fetchone()
    cache._db.execute(f"PRAGMA max_page_count={pages}")
    for _ in range(2):
        cache.put_many({str(i): b"x" * 500 for i in range(100)})
    assert cache.get_many(["a", "1"]) == {"a": b"1"}, "all of a batch is stored, or nothing of it"
    assert [r.getMessage() for r in caplog.records] == [
        f"the cache {tmp_path}/c.sqlite cannot grow (its disk is full): new items are not kept"
    ]
    cache._db.execute("PRAGMA max_page_count=100000")
    cache.put_many({"b": b"2"})
    assert cache.get_many(["b"]) == {"b": b"2"}, "there is room again"


def test_a_file_that_somebody_holds_for_ever_is_done_without(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(itemcache, "_WAIT_SECONDS", 0.05)
    path = tmp_path / "c.sqlite"
    SqliteCache(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    cache = SqliteCache(path)
    cache.put_many({"a": b"1"})
    assert cache.get_many(["a"]) == {}
    assert [r.getMessage() for r in caplog.records] == [
        f"the cache {path} cannot be used (database is locked): going on without it"
    ]
    other = SqliteCache(tmp_path / "d.sqlite")
    other.put_many({"a": b"1"})
    assert other.get_many(["a"]) == {"a": b"1"}, "its neighbour has nothing to do with that"
    holder.close()


def test_what_another_process_began_anew_is_not_set_aside_again(tmp_path):
    path = tmp_path / "c.sqlite"
    one, two = SqliteCache(path), SqliteCache(path)
    one.put_many({f"key{i:04}": b"x" * 300 for i in range(400)})
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, 0, b"\xa5" * path.stat().st_size)
    three = SqliteCache(path)  # finds it damaged, and begins anew
    three.put_many({"a": b"1"})
    two.get_many(["key0001"])
    two.put_many({"b": b"2"})
    one.close()
    assert SqliteCache(path).get_many(["a"]) == {"a": b"1"}


def test_a_cache_that_another_user_owns_is_done_without():
    def use():
        cache = SqliteCache(path)
        cache.put_many({"b": b"2"})
        return cache.get_many(["a", "b"])

    with common_folder() as folder:
        path = folder / "c.sqlite"
        SqliteCache(path).put_many({"a": b"1"})
        assert as_user(use) == {}
        assert SqliteCache(path).get_many(["a", "b"]) == {"a": b"1"}


def test_the_second_opener_of_a_new_cache_waits_for_the_first(tmp_path):
    first = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, first.execute, ["COMMIT"]).start()
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"1"})
    assert cache.get_many(["a"]) == {"a": b"1"}
