"""Which files are synced: what cannot be synced (a device) tells that it was tried."""

from __future__ import annotations

import os
import select
import threading

import pytest

from ext.disk.filesync import FileSync


def sync(filesync: FileSync) -> int:
    """0, or the errno."""
    filesync.begin(-1)
    try:
        filesync.end()
    except OSError as error:
        return error.errno or 0
    return 0


def log(directory, number):
    (directory / f"{number:06}.log").write_bytes(b"x")


def unsyncable(directory, name):
    (directory / name).symlink_to("/dev/null")


@pytest.fixture
def filesync(tmp_path):
    log(tmp_path, 12)
    made = FileSync(str(tmp_path))
    yield made
    made.close()


def test_every_log_from_the_newest_one_on_is_synced(tmp_path, filesync):
    log(tmp_path, 7)
    assert sync(filesync) == 0
    unsyncable(tmp_path, "000015.log")
    assert sync(filesync) != 0
    (tmp_path / "000015.log").unlink()
    assert sync(filesync) == 0


def test_log_present_at_the_first_sync_is_synced_at_any_age(tmp_path, filesync):
    unsyncable(tmp_path, "000007.log")
    assert sync(filesync) != 0


def test_log_older_than_the_last_synced_newest_is_skipped(tmp_path, filesync):
    assert sync(filesync) == 0
    unsyncable(tmp_path, "000011.log")
    assert sync(filesync) == 0


def test_log_is_old_only_after_a_successful_newer_sync(tmp_path, filesync):
    assert sync(filesync) == 0
    log(tmp_path, 20)
    unsyncable(tmp_path, "000019.log")
    assert sync(filesync) != 0
    assert sync(filesync) != 0  # it failed: nothing of it counts
    (tmp_path / "000019.log").unlink()
    assert sync(filesync) == 0
    unsyncable(tmp_path, "000019.log")
    assert sync(filesync) == 0


def test_log_that_appears_between_two_syncs_is_synced(tmp_path, filesync):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    unsyncable(elsewhere, "000015.log")
    for _ in range(3):  # by now the directory is listed no more
        assert sync(filesync) == 0
    (elsewhere / "000015.log").rename(tmp_path / "000015.log")
    assert sync(filesync) != 0
    (tmp_path / "000015.log").rename(elsewhere / "000015.log")
    assert sync(filesync) == 0
    unsyncable(tmp_path, "000016.log")
    assert sync(filesync) != 0


@pytest.mark.parametrize("name", ["LOG", "000030.sst", "000030.log.old", ".log", "x30.log", "30log"])
def test_other_files_are_left_alone(tmp_path, filesync, name):
    unsyncable(tmp_path, name)
    assert sync(filesync) == 0


def test_removed_log_is_no_error_but_an_empty_directory_is(tmp_path, filesync):
    log(tmp_path, 13)
    assert sync(filesync) == 0
    (tmp_path / "000012.log").unlink()
    assert sync(filesync) == 0
    (tmp_path / "000013.log").unlink()
    assert sync(filesync) != 0


def test_the_eventfd_tells_when_it_has_ended(filesync):
    wake_fd = os.eventfd(0)
    try:
        filesync.begin(wake_fd)
        assert select.select([wake_fd], [], [], 30)[0]
        assert filesync.ended
        filesync.wait()
        filesync.end()
        assert not filesync.ended
    finally:
        os.close(wake_fd)


def test_misuse_is_refused(tmp_path, filesync):
    with pytest.raises(OSError, match="No such file"):
        FileSync(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no sync"):
        filesync.end()
    filesync.begin(-1)
    with pytest.raises(ValueError, match="under way"):
        filesync.begin(-1)
    filesync.close()
    with pytest.raises(ValueError, match="closed"):
        filesync.begin(-1)
    filesync.close()


def test_closing_waits_for_what_is_under_way(tmp_path):
    for _ in range(50):
        log(tmp_path, 1)
        made = FileSync(str(tmp_path))
        made.begin(-1)
        made.close()
        del made


def test_what_was_begun_is_done_before_it_is_closed(tmp_path):
    """Told by the eventfd: a thread that sees only that it is to end would leave it untouched."""
    log(tmp_path, 1)
    for _ in range(50):
        wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        made = FileSync(str(tmp_path))
        made.begin(wake_fd)
        made.close()
        assert os.eventfd_read(wake_fd) == 1
        os.close(wake_fd)


def test_one_thread_can_wait_for_what_another_takes(filesync):
    for _ in range(200):
        filesync.begin(-1)
        waiter = threading.Thread(target=filesync.wait, daemon=True)
        waiter.start()
        while not filesync.ended:
            pass
        filesync.end()
        waiter.join(20)
        assert not waiter.is_alive()
