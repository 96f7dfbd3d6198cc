import math

import pytest

from tinygrad_llm.data import corpora, load, read, stories


def test_a_file_is_read_with_its_line_ends_made_uniform(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffOne\r\ntwo\rthree é\n".encode())
    assert read(path) == "One\ntwo\nthree é\n"


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    texts = {"c.txt": "third\n", "a.md": "first", "b/x.txt": "second\n\n", "d.py": "no", ".git/e.txt": "no"}
    for name, content in texts.items():
        (tmp_path / name).write_text(content)
    assert read(tmp_path) == "first\n\nsecond\n\nthird\n"


def test_a_file_is_cut_once(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("0123456789" * 10)
    corpus = load(path, 0.25)
    assert corpus.train + corpus.validation == read(path)
    assert len(corpus.validation) == 25 and corpus.name == "text.txt" and corpus.floor is None


def test_the_byte_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("un café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8: byte 0xe9 at position 6"):
        read(path)


@pytest.mark.parametrize("content", ["", " \n\n\t"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"empty\.txt: the file is empty"):
        read(path)


def test_a_folder_without_texts_is_refused(tmp_path):
    (tmp_path / "code.py").write_text("pass")
    with pytest.raises(ValueError, match=r"holds no \.txt or \.md file"):
        read(tmp_path)


def test_a_missing_file_is_named_with_the_way_on(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt: there is no such file .* stories"):
        read(tmp_path / "nowhere.txt")


def test_what_is_neither_file_nor_folder_is_refused():
    with pytest.raises(ValueError, match="neither a regular file nor a folder"):
        read("/dev/null")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, math.nan])
def test_a_validation_fraction_outside_0_and_1_is_refused(tmp_path, fraction):
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        load(tmp_path / "text.txt", fraction)


def test_the_stories_are_whole_the_same_each_time_and_have_a_floor():
    corpus = corpora.embedded_stories(30_000, 0.2)
    assert corpus == corpora.embedded_stories(30_000, 0.2)
    assert 24_000 <= len(corpus.train) < 26_000 and 6_000 <= len(corpus.validation) < 8_000
    assert corpus.train[:500] != corpus.validation[:500]
    assert corpus.floor is not None
    assert corpus.floor.validation_nats == -stories.log_probability(corpus.validation)  # so both parts parse
    assert math.isfinite(stories.log_probability(corpus.train))
    # the text is an ordinary one: it holds about as much information as its source gives out
    per_character = corpus.floor.validation_nats / len(corpus.validation)
    assert per_character == pytest.approx(corpus.floor.nats_per_character, rel=0.1)
