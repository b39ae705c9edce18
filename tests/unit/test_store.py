from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ticketry.errors import RunError, RunLockedError, RunMismatchError, StorageError
from ticketry.files import replace_folder, storage_errors, write_bytes
from ticketry.runs import check_run, finish_run, is_finished, open_run
from ticketry.store import MANIFEST, Store

KEY = "ab" + "0" * 62
FILES = {"record.json": b'{"a": 1}', "model/weights.bin": b"\x00" * 100}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.write(KEY, FILES, {"seconds": 1.5})
    return store


def test_what_is_written_is_found_and_read_back(store: Store) -> None:
    assert store.has(KEY)
    assert store.check(KEY) is None
    assert store.record(KEY) == {"a": 1}
    assert store.read(KEY, "model/weights.bin") == b"\x00" * 100
    assert store.times(KEY) == {"seconds": 1.5}
    assert not store.has("cd" + KEY[2:])


def test_a_second_writer_changes_nothing(store: Store) -> None:
    store.write(KEY, {"record.json": b'{"a": 2}'}, {})
    assert store.record(KEY) == {"a": 1}


@pytest.mark.parametrize("name", ["record.json", "model/weights.bin", MANIFEST])
@pytest.mark.parametrize("harm", ["edit", "tear", "remove"])
def test_damage_is_named_and_set_aside(store: Store, name: str, harm: str) -> None:
    path = store.folder(KEY) / name
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "tear":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-3] + b"x" + content[-2:])
    damage = store.check(KEY)
    assert damage is not None
    assert damage.file == path
    kept = store.set_aside(damage)
    assert kept.is_dir()
    assert not store.has(KEY)
    store.write(KEY, FILES, {})
    assert store.check(KEY) is None


def test_times_are_not_hashed(store: Store) -> None:
    (store.folder(KEY) / "times.json").write_text("torn {")
    assert store.check(KEY) is None
    assert store.times(KEY) == {}


def test_damage_twice_keeps_both(store: Store) -> None:
    for _ in range(2):
        (store.folder(KEY) / "record.json").write_text("x")
        damage = store.check(KEY)
        assert damage is not None
        store.set_aside(damage)
        store.write(KEY, FILES, {})
    assert len(list((store.root / "damaged").iterdir())) == 2


def test_nothing_half_written_stays_when_a_write_fails(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        replace_folder(tmp_path / "out", {"a": b"1", "b": "not bytes"})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "file", "not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    replace_folder(tmp_path / "out", {"a": b"1", "old": b"1"})
    replace_folder(tmp_path / "out", {"a": b"2"})
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"a": b"2"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_clear_message_and_leaves_nothing(tmp_path: Path) -> None:
    # A real failure by the operating system: this process may write at most 10 bytes a file.
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from ticketry.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n"
        "    Store(Path(sys.argv[1])).write(sys.argv[2], {'record.json': b'x' * 100}, {})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), KEY], capture_output=True, text=True
    )
    assert result.stdout.startswith("StorageError cannot write "), result.stderr
    assert "File too large, then run the same command again" in result.stdout
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space, then run the same command again"),
        (errno.EROFS, "the file system is read-only; choose another folder"),
        (errno.EACCES, "permission was denied; choose a folder that you may write to"),
    ],
)
def test_reasons_of_the_operating_system_are_said_in_words(code: int, message: str) -> None:
    with pytest.raises(StorageError, match=message), storage_errors(Path("x")):
        raise OSError(code, os.strerror(code))


def test_a_part_of_the_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file of that name exists; choose another folder"):
        write_bytes(tmp_path / "file" / "x", b"")


def test_a_run_folder_of_another_configuration(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {"sparsity": 0.4, "recipe": {"epochs": 2}}):
        pass
    with pytest.raises(RunMismatchError) as caught:
        check_run(tmp_path / "run", {"sparsity": 0.5, "recipe": {"epochs": 3}})
    assert "sparsity: there 0.4, here 0.5" in str(caught.value)
    assert "recipe.epochs: there 2, here 3" in str(caught.value)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"is no ticketry run \(it holds 'thesis.tex'\)"):
        check_run(tmp_path, {})
    with pytest.raises(RunError, match="is a file; expected a folder"):
        check_run(tmp_path / "thesis.tex", {})


def test_a_run_folder_that_cannot_be_made_is_a_fault_of_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"--out cannot be used: cannot write .*file/run"),
        open_run(tmp_path / "file" / "run", {}),
    ):
        pytest.fail("a folder inside a file")


def test_a_torn_run_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="so whose run this is cannot be told"):
        check_run(tmp_path, {})


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ticketry.runs import open_run\n"
        "with open_run(Path(sys.argv[1]), {}):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "in\n"
        with (
            pytest.raises(RunLockedError, match="another ticketry process is at work"),
            open_run(tmp_path, {}),
        ):
            pytest.fail("two processes in one run")
    finally:
        holder.kill()  # the lock goes with its process, however that ends
        holder.communicate()
    with open_run(tmp_path, {}):
        pass


def test_a_finished_run_is_recognised_until_something_changes(tmp_path: Path, store: Store) -> None:
    out, data = tmp_path / "run", tmp_path / "data.csv"
    data.write_text("a,b\n")
    write_bytes(out / "ticket" / "config.json", b"{}")
    assert not is_finished(out, store)
    finish_run(out, store, [KEY], [out / "ticket" / "config.json"], [data])
    assert is_finished(out, store)
    (out / "ticket" / "config.json").write_bytes(b"{ }")
    assert not is_finished(out, store)
    (out / "ticket" / "config.json").write_bytes(b"{}")
    assert is_finished(out, store)
    os.utime(data, ns=(1, 1))
    assert not is_finished(out, store)
    finish_run(out, store, [KEY], [], [data])
    assert is_finished(out, store)
    (store.folder(KEY) / "record.json").write_text("x")
    assert not is_finished(out, store)


def test_two_writers_of_one_key_leave_one_whole_output(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path / "s",)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0]
    store = Store(tmp_path / "s")
    assert store.check(KEY) is None
    assert [p.name for p in store.folder(KEY).parent.iterdir()] == [KEY]


def _write(root: Path) -> None:
    Store(root).write(KEY, FILES, {})
