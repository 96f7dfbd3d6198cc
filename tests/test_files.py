import os

import pytest

from tinygrad_llm.files import replacing, write_atomically


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "config.json"
    for content in (b"old", b"new and longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_when_writing_fails_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_the_file_is_as_readable_as_any_other_new_file(tmp_path):
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", b"x")


@pytest.mark.parametrize("name", ["nowhere/file.bin", "folder", "short/file.bin"])
def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, name):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "short").write_bytes(b"a file, not a folder")
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / name, b"x")
    assert str(caught.value).endswith(f": '{tmp_path / name}'") and caught.value.filename == str(tmp_path / name)


def test_an_error_of_what_is_done_in_between_is_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="'elsewhere'"), replacing(tmp_path / "file"):
        open("elsewhere").close()
    assert not list(tmp_path.iterdir())
