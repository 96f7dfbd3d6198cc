import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import read_records

FIELD = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NAMES = ["text", "label", "né"]
ROWS = st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=5)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(ROWS, st.booleans())
def test_csv_comes_back_as_it_was_written(tmp_path_factory, rows, header):
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    if header:
        writer.writerow(NAMES)
    writer.writerows(rows)
    path = write(tmp_path_factory.mktemp("csv"), "table.csv", file.getvalue())
    found = read_records(path, columns=None if header else NAMES)
    assert found == [dict(zip(NAMES, row, strict=True)) for row in rows]


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_quote_in_tsv_is_a_character(tmp_path_factory, rows, end, mark):
    rows = [tuple("".join(c for c in field if c not in "\t\r\n") for field in row) for row in rows]
    content = "".join("\t".join(row) + end for row in [NAMES, *rows])
    path = write(tmp_path_factory.mktemp("tsv"), "table.tsv", ("\ufeff" if mark else "") + content)
    assert read_records(path) == [dict(zip(NAMES, row, strict=True)) for row in rows]


@given(st.lists(st.dictionaries(FIELD, st.none() | st.integers() | FIELD, max_size=3), min_size=1, max_size=4))
def test_json_and_json_lines_come_back(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("json")
    assert read_records(write(folder, "a.json", json.dumps(records, indent=1))) == records
    lines = "\n\n".join(json.dumps(record) for record in records)
    assert read_records(write(folder, "a.jsonl", lines)) == records
    assert read_records(write(folder, "a.json", lines), format="jsonl") == records


def test_a_long_field_is_read_and_the_limit_of_the_csv_module_is_what_it_was(tmp_path):
    before = csv.field_size_limit(1000)
    try:
        assert len(read_records(write(tmp_path, "a.csv", "t\n" + "x" * 300_000))[0]["t"]) == 300_000
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"a\tb\nx\ty\nx\t\xe9\n", "line 3 is not UTF-8: byte 0xe9 at its position 2"),
        ("a.csv", b"a,b\n\"x\n\xff\",y\n", "line 3 is not UTF-8"),
        ("a.json", b"[\n{\"a\":\n\"\xc3\"}]", "line 3 is not UTF-8"),
        ("a.csv", "a,b\n1,2\n3\n", "line 3 has 1 fields, but there are 2 columns: a, b"),
        ("a.tsv", "a\tb\n1\t2\t3\n", "line 2 has 3 fields"),
        ("a.csv", 'a,b\n"x"y,2\n', "line 2 is not CSV"),
        ("a.csv", 'a,b\n"x,2\n', "is not CSV: unexpected end"),
        ("a.csv", "a,a\n1,2\n", "two columns are called 'a'"),
        ("a.csv", "", "holds no records"),
        ("a.csv", "a,b\n", "holds no records"),
        ("a.jsonl", "\n\n", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.json", "{}", "must be a list of objects, not dict; write JSON lines as .jsonl"),
        ("a.json", "[{}, 3]", "record 1 must be an object, not int"),
        ("a.json", "[\n{,}]", "line 2 is not JSON: .* at column 2"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2 must be an object, not list"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is nested too deep"),
        ("a.xls", "a", "unknown format 'xls'; let its name end in, or say format=, one of csv, tsv, json, jsonl"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_records(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("name", ["nope", "nope.csv"])
def test_a_file_that_is_not_there_is_told_as_such(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nope"):
        read_records(tmp_path / name)


def test_columns_are_not_for_json(tmp_path):
    with pytest.raises(ValueError, match="columns are for csv and tsv"):
        read_records(write(tmp_path, "a.json", "[{}]"), columns=["a"])
