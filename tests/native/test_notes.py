"""Notes of what was found on this host: one that is not what was written counts for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.runtime import notes
from headrace.runtime.notes import Notes, identity, name_of

NAME = name_of("that", "this")


def test_what_was_noted_is_known(tmp_path: Path) -> None:
    found = Notes(tmp_path / "new" / "folder")
    assert not found.has(NAME)
    found.add(NAME)
    assert found.has(NAME) and not found.has(name_of("that", "that"))
    assert name_of("that", "this") != name_of("that\nthis")


def test_a_note_that_is_not_ours_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Notes(tmp_path)
    found.add(NAME)
    note = tmp_path / NAME
    note.chmod(0o666)
    assert not found.has(NAME)
    note.chmod(0o644)
    assert found.has(NAME)
    text = note.read_text()
    for other in ("", text[:-1], text + "x", text.replace(NAME, name_of("else"))):
        note.write_text(other)
        assert not found.has(NAME)
    note.write_text(text)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert not found.has(NAME)
    monkeypatch.undo()
    note.rename(tmp_path / "elsewhere")
    note.symlink_to(tmp_path / "elsewhere")
    assert not found.has(NAME)


def test_a_note_with_a_word_is_right_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    found = Notes(tmp_path)
    assert found.said(NAME) is None
    found.add(NAME)
    assert found.said(NAME) == ""
    found.add(NAME, "abc")
    assert found.said(NAME) == "abc" and found.has(NAME)
    text = (tmp_path / NAME).read_text()
    for other in (text[:-1], text + "x", text.replace("abc", "abd"), text.replace("abc ", ""), text + "é"):
        (tmp_path / NAME).write_text(other)
        assert found.said(NAME) is None


def test_a_note_ages_and_one_from_the_future_is_not_young(tmp_path: Path) -> None:
    found = Notes(tmp_path)
    found.add(NAME)
    assert found.has(NAME, 60)
    now = (tmp_path / NAME).stat().st_mtime
    for age in (100, -100):
        os.utime(tmp_path / NAME, (now, now - age))
        assert found.has(NAME) and not found.has(NAME, 60)


def test_the_last_use_is_remembered(tmp_path: Path) -> None:
    found = Notes(tmp_path)
    assert found.used(NAME) == 0.0
    found.add(NAME)
    os.utime(tmp_path / NAME, (1000, 2000))
    assert found.used(NAME) == 2000
    assert found.has(NAME) and found.used(NAME) > 1e9
    assert (tmp_path / NAME).stat().st_mtime == 2000  # when it was found out


def test_a_folder_that_cannot_be_written_or_is_none_knows_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "notes", None):
        found = Notes(folder)
        found.add(NAME)
        assert not found.has(NAME) and found.used(NAME) == 0.0


def test_the_oldest_notes_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "KEPT", 2)
    monkeypatch.setattr(notes, "MOST", 3)
    found = Notes(tmp_path)
    for index in range(4):
        found.add(name_of(str(index)))
        os.utime(tmp_path / name_of(str(index)), (index, index))
    assert [found.has(name_of(str(index))) for index in range(4)] == [False, False, True, True]


def test_every_change_of_a_file_is_another_identity(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    seen = {identity(file.stat())}
    file.chmod(0o600)
    seen.add(identity(file.stat()))
    (tmp_path / "other").write_text("two")
    (tmp_path / "other").rename(file)
    seen.add(identity(file.stat()))
    file.write_text("longer")
    seen.add(identity(file.stat()))
    assert len(seen) == 4
