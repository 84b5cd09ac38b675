"""Every mistake still gets the answer that its golden file shows, word for word."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import book

MISTAKES = [(name, title) for name in book.CHAPTERS for title in book.chapter(name).mistakes]


@pytest.mark.parametrize(("name", "title"), MISTAKES)
def test_the_answer(name, title):
    with book.scratch():
        assert book.chapter(name).entry(title) == book.read(name)[title]


@pytest.mark.parametrize("name", book.CHAPTERS)
def test_a_golden_file_holds_its_chapter_and_nothing_else(name):
    assert list(book.read(name)) == list(book.chapter(name).mistakes)


def test_the_page_is_the_golden_files():
    assert book.PAGE.read_text(encoding="utf-8") == book.page()


def test_there_are_more_than_thirty():
    assert len(MISTAKES) >= 30
