"""Items outlive a kill; damaged ones are misses."""

import errno
import sqlite3
import threading

import pytest

from tasks.itemcache import SqliteCache


def test_items_come_back_in_another_process_life(tmp_path):
    SqliteCache(tmp_path / "c.sqlite").put_many({"a": b"1", "b": b""})
    assert SqliteCache(tmp_path / "c.sqlite").get_many(["a", "b", "none"]) == {"a": b"1", "b": b""}


def test_thousands_of_keys_can_be_asked_at_once(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    items = {f"key{i}": str(i).encode() for i in range(2500)}
    cache.put_many(items)
    assert cache.get_many(list(items)) == items


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"old"})
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON items WHEN new.key = 'c' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(sqlite3.Error):
        cache.put_many({"a": b"new", "b": b"new", "c": b"new"})
    assert cache.get_many(["a", "b", "c"]) == {"a": b"old"}


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


def test_a_file_that_is_no_database_is_set_aside(tmp_path):
    (tmp_path / "c.sqlite").write_bytes(b"not a database, by any means" * 100)
    cache = SqliteCache(tmp_path / "c.sqlite")
    assert cache.get_many(["a"]) == {}
    cache.put_many({"a": b"1"})
    assert cache.get_many(["a"]) == {"a": b"1"}
    assert (tmp_path / "c.sqlite.damaged").exists()


def test_a_full_disk_is_told_as_one_and_costs_no_item(tmp_path):
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"1"})
    (pages,) = cache._db.execute("PRAGMA page_count").fetchone()
    cache._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OSError, match="full") as caught:
        cache.put_many({str(i): b"x" * 500 for i in range(100)})
    assert caught.value.errno == errno.ENOSPC
    assert cache.get_many(["a", "1"]) == {"a": b"1"}


def test_what_cannot_be_opened_is_not_taken_for_damage(tmp_path):
    (tmp_path / "c.sqlite").mkdir()
    with pytest.raises(OSError, match="unable to open"):
        SqliteCache(tmp_path / "c.sqlite")
    assert (tmp_path / "c.sqlite").is_dir()


def test_the_second_opener_of_a_new_cache_waits_for_the_first(tmp_path):
    first = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, first.execute, ["COMMIT"]).start()
    cache = SqliteCache(tmp_path / "c.sqlite")
    cache.put_many({"a": b"1"})
    assert cache.get_many(["a"]) == {"a": b"1"}
