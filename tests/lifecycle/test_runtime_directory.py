"""Claims S9 and S10: what was planted is refused, what we make is ours alone under any umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.exceptions import InsecureDirectoryError, ProtocolError
from atoll.protocol import runtime_directory
from atoll.protocol.cluster_file import (
    default_path,
    read_cluster_file,
    remove_cluster_file,
    write_cluster_file,
)
from atoll.protocol.runtime_directory import (
    LONGEST_SOCKET_NAME_BYTES,
    MAXIMUM_SOCKET_PATH_BYTES,
    check_directory,
    make_runtime_root,
    make_session_directory,
    open_private,
    remove_session_directory,
    runtime_root,
)
from tests.lifecycle.conftest import cluster_file


@pytest.fixture(params=[0o000, 0o022, 0o077], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("umask")
def test_s10_directories_are_0700_under_any_umask(runtime: Path) -> None:
    root = runtime / "above" / "root"
    directory = make_session_directory(root, "here", "0123")
    made = [runtime / "above", root, directory, *directory.iterdir()]
    assert {path.name for path in made} == {"above", "root", directory.name, "logs", "workers"}
    assert {oct(mode_of(path)) for path in made} == {"0o700"}


@pytest.mark.usefixtures("umask")
def test_s10_files_are_0600_under_any_umask(runtime: Path) -> None:
    path = runtime / "atoll-here.json"
    content = cluster_file(runtime / "atoll-here-0123abcd")
    write_cluster_file(path, content)
    assert mode_of(path) == 0o600
    assert read_cluster_file(path) == content
    assert [entry.name for entry in runtime.iterdir()] == [path.name]
    os.close(open_private(runtime / "log", os.O_WRONLY | os.O_CREAT))
    assert mode_of(runtime / "log") == 0o600


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o770])
def test_s9_a_runtime_directory_that_others_can_write_to_is_refused(runtime: Path, mode: int) -> None:
    runtime.chmod(mode)
    with pytest.raises(InsecureDirectoryError, match="other users can reach it"):
        make_session_directory(runtime, "here", "0123")
    with pytest.raises(InsecureDirectoryError):
        write_cluster_file(runtime / "file", cluster_file(runtime))
    assert list(runtime.iterdir()) == []


def test_s9_a_runtime_directory_that_others_can_read_is_taken(runtime: Path) -> None:
    runtime.chmod(0o755)
    assert mode_of(make_session_directory(runtime, "here", "0123")) == 0o700


def test_s9_a_link_is_refused(runtime: Path) -> None:
    (runtime / "real").mkdir(mode=0o700)
    (runtime / "link").symlink_to("real")
    (runtime / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(InsecureDirectoryError, match="planted"):
            make_runtime_root(runtime / name)
    assert list((runtime / "real").iterdir()) == []


def test_s9_a_file_in_the_place_of_the_directory_is_refused(runtime: Path) -> None:
    (runtime / "file").touch()
    with pytest.raises(InsecureDirectoryError, match="not a directory of ours"):
        make_runtime_root(runtime / "file")


def test_s9_a_foreign_owner_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_directory.os, "geteuid", lambda: runtime.stat().st_uid + 1)
    with pytest.raises(InsecureDirectoryError, match="belongs to user"):
        check_directory(runtime)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_s9_a_directory_given_away_is_refused(runtime: Path) -> None:
    root = runtime / "root"
    root.mkdir(mode=0o700)
    os.chown(root, 65534, 65534)
    with pytest.raises(InsecureDirectoryError, match="belongs to user 65534"):
        make_session_directory(root, "here", "0123")
    os.chown(root, 0, 0)


def test_s9_a_session_directory_that_is_there_is_refused(runtime: Path) -> None:
    (runtime / "atoll-here-0123").mkdir(mode=0o700)
    with pytest.raises(InsecureDirectoryError, match="there already"):
        make_session_directory(runtime, "here", "0123")


def test_s10_a_session_directory_that_others_can_read_is_refused(runtime: Path) -> None:
    directory = make_session_directory(runtime, "here", "0123")
    directory.chmod(0o750)
    with pytest.raises(InsecureDirectoryError, match="chmod 0700"):
        check_directory(directory)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_s9_a_connection_file_open_to_others_is_not_believed(runtime: Path, mode: int) -> None:
    path = runtime / "file.json"
    write_cluster_file(path, cluster_file(runtime))
    path.chmod(mode)
    with pytest.raises(InsecureDirectoryError, match="other users can reach it"):
        read_cluster_file(path)


def test_s9_a_connection_file_that_is_a_link_or_a_pipe_is_not_believed(runtime: Path) -> None:
    write_cluster_file(runtime / "real.json", cluster_file(runtime))
    (runtime / "link.json").symlink_to("real.json")
    os.mkfifo(runtime / "pipe.json", 0o600)
    with pytest.raises(InsecureDirectoryError, match="symbolic link"):
        read_cluster_file(runtime / "link.json")
    with pytest.raises(InsecureDirectoryError, match="no regular file"):
        read_cluster_file(runtime / "pipe.json")


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"cluster_id": 1}', "x" * 100_000, "\x00"], ids=lambda text: repr(text[:20])
)
def test_what_is_no_connection_file_is_said_to_be_none(runtime: Path, content: str) -> None:
    path = runtime / "file.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ProtocolError, match="no connection file"):
        read_cluster_file(path)


def test_a_key_of_the_wrong_size_is_refused(runtime: Path) -> None:
    write_cluster_file(runtime / "file.json", cluster_file(runtime, key="abcd"))
    with pytest.raises(ProtocolError, match="key has the wrong size"):
        read_cluster_file(runtime / "file.json")


def test_s11_a_connection_file_is_shown_without_its_key(runtime: Path) -> None:
    content = cluster_file(runtime)
    assert content.key not in repr(content) + str(content) + f"{[content]}"


def test_only_the_file_of_the_named_cluster_is_removed(runtime: Path) -> None:
    path = runtime / "file.json"
    write_cluster_file(path, cluster_file(runtime, cluster_id="aa"))
    remove_cluster_file(path, "bb")
    assert path.exists()
    remove_cluster_file(path, "aa")
    remove_cluster_file(path, "aa")
    assert not path.exists()


@pytest.mark.parametrize("length", [1, 20, 40, 60, 90, 200])
def test_sockets_fit_however_deep_the_runtime_directory_is(runtime: Path, length: int) -> None:
    root = runtime / ("d" * length)
    directory = make_session_directory(root, "here", "0123abcd")
    longest = directory / ("s" * LONGEST_SOCKET_NAME_BYTES)
    assert len(os.fsencode(longest)) <= MAXIMUM_SOCKET_PATH_BYTES
    assert mode_of(directory) == 0o700
    remove_session_directory(directory)
    assert not directory.exists()


def test_sockets_fit_when_the_temporary_directory_is_deep_too(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = runtime / ("t" * 100)
    deep.mkdir()
    monkeypatch.setattr(runtime_directory.tempfile, "tempdir", str(deep))
    directory = make_session_directory(runtime / ("d" * 100), "here", "0123abcd")
    assert runtime_directory.fits_sockets(directory)
    assert list(deep.iterdir()) == []
    remove_session_directory(directory)


def test_nothing_but_a_session_directory_is_removed(runtime: Path) -> None:
    other = runtime / "precious"
    other.mkdir()
    with pytest.raises(InsecureDirectoryError, match="not removed"):
        remove_session_directory(other)
    assert other.exists()


def test_a_link_to_a_directory_is_not_followed_when_removing(runtime: Path) -> None:
    precious = runtime / "precious"
    precious.mkdir(mode=0o700)
    (runtime / "atoll-here-1").symlink_to("precious")
    with pytest.raises(InsecureDirectoryError):
        remove_session_directory(runtime / "atoll-here-1")
    assert precious.exists()


def test_where_the_connection_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATOLL_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    assert runtime_root() == tmp_path / "jupyter"
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(tmp_path / "atoll"))
    assert default_path().parent == tmp_path / "atoll"
    assert default_path().name.startswith("atoll-")
    monkeypatch.delenv("ATOLL_RUNTIME_DIR")
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    assert runtime_root() == tmp_path / "data" / "runtime"


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 300, "weiß"])
def test_a_strange_host_name_makes_one_file_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_directory.socket, "gethostname", lambda: name)
    made = runtime_directory.host_name()
    assert made
    assert "/" not in made
    assert not made.startswith(".")
    assert len(os.fsencode(made)) <= 64
