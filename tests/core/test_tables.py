"""Tables, and the files that they name."""
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from etils import epath

from core_jax.tables import named_from, of_table, read_table, texts


@pytest.mark.parametrize(
    "file, table, other, named",
    [
        ("a/x.mp4", "/data/t.parquet", "/data/kept.parquet", "a/x.mp4"),
        ("../x.mp4", "/data/t.parquet", "/kept/t.parquet", "/data/../x.mp4"),
        ("/clips/x.mp4", "/data/t.parquet", "/kept/t.parquet", "/clips/x.mp4"),
        ("a/x.mp4", "gs://bucket/t.parquet", "gs://bucket/kept.parquet", "a/x.mp4"),
        ("a/x.mp4", "gs://bucket/t.parquet", "/kept/t.parquet", "gs://bucket/a/x.mp4"),
        ("gs://clips/x.mp4", "/data/t.parquet", "gs://bucket/t.parquet", "gs://clips/x.mp4"),
    ],
)
def test_a_file_keeps_its_meaning_in_another_table(file, table, other, named):
    assert named_from([file], table, other) == [named]
    assert os.path.normpath(of_table(named, other)) == os.path.normpath(of_table(file, table))
    assert not file.startswith("gs://") or str(of_table(file, table)) == file
    assert named_from([None, ""], table, other) == [None, ""], "a clip that was not cut"


def test_a_table_that_cannot_be_read_is_one_sentence_without_pythons_words(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"

    def fails() -> str:
        with pytest.raises(ValueError) as error:
            read_table(path)
        return str(error.value)

    for text, encoding in (("N,größe\n1,2\n", "latin1"), ("N,who\n1,é\n", "latin1"), ("N\tloss\n1\t2\n", "utf-16"), ("N,loss\n1,2\n", "utf-16-le")):
        path.write_bytes(text.encode(encoding))
        assert fails() == f"{path} is not UTF-8 text: save it as CSV UTF-8, with commas (a spreadsheet's Unicode text is UTF-16)"
    for text in ('N,loss\n1,"2\n3,4\n', 'N,loss\n1,"2\n3,"4"\n5,6\n'):  # what follows would be one cell of the row
        path.write_text(text)
        assert fails() == f'{path}, line 2: a cell begins with " and does not end with one; a " within such a cell is written twice'
    path.write_text('N,loss\r\n"1,5","a ""long"" cell\nof ' + 2**17 * "x" + '"\r\n2,5" wide\r\n', encoding="utf-8-sig")
    assert [(row["N"], len(row["loss"])) for row in read_table(path).to_pylist()] == [("1,5", 2**17 + 17), ("2", 7)]
    path.write_text("N,loss\n1,2\n2," + 3 * 2**20 * "x" + "\n")
    assert read_table(path).num_rows == 2, "a row may be as long as the table"
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):  # as a spreadsheet writes them where numbers have commas
        path.write_text(f"N{mark}loss\n1{mark}0,5\n")
        assert fails() == f"{path} has {name} between its columns, and commas are wanted, with points in numbers"
    path.write_text("N,a;b\n1,2\n")
    assert read_table(path).column_names == ["N", "a;b"]
    monkeypatch.setattr(type(epath.Path(path)), "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error", str(path))))
    assert fails() == f"{path} cannot be read as a table (CSV or Parquet): Input/output error"


def test_what_should_be_text_and_is_not_is_named(tmp_path):
    """A CSV's cells are read as text; Parquet keeps what was written."""
    assert texts(pa.table({"file": pa.array(["a", None, ""]).dictionary_encode()}), "file", "t.parquet") == ["a", None, ""]
    assert texts(pa.table({"file": pa.nulls(2)}), "file", "t.parquet") == [None, None]
    for cells, said in (([1, 2], "row 1 the `file` 1"), ([None, 0.0], "row 2 the `file` 0.0"), ([["a"]], "row 1 the `file` ['a']")):
        with pytest.raises(ValueError) as error:
            texts(pa.table({"file": cells}), "file", "t.parquet")
        assert str(error.value) == f"t.parquet gives {said}, which is not text"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted by Linux's /proc")
@pytest.mark.parametrize("name, most", [("a.csv", 1), ("a.parquet", 0)])
def test_reading_a_table_leaves_no_pool_of_threads(name, most, tmp_path):
    """They would abort a process that ends soon after, now and then. One thread Arrow always takes to fetch the bytes of a CSV."""
    table = pa.table({"N": [1.0, 2.0], "loss": ["x", "y"]})
    (pa.csv.write_csv if name.endswith("csv") else pa.parquet.write_table)(table, tmp_path / name)
    code = "import os, sys, core_jax.tables as f; count = lambda: len(os.listdir('/proc/self/task')); a = count(); f.read_table(sys.argv[1]); print(count() - a)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= most
