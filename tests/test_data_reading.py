"""Formats: what is read, alike in every wrapping, and what is named.

JSON lines have test_data_json_lines.py.
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from linformer_jax.data.text import reading

PACKERS = {
  "plain": ("", bytes),
  "gzip": (".gz", gzip.compress),
  "bzip2": (".bz2", bz2.compress),
  "xz": (".xz", lzma.compress),
  "lzma": (".lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE)),
}
LINES = b'{"body": "one"}\n\n{"body": "two"}\n'


def read(path, feature="body", **kwargs):
  return list(reading.documents(str(path), feature, **kwargs))


def save(path, data):
  path.write_bytes(data)
  return path


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["a.txt{}", "A{}", "a.txt{}-00000-of-00001"])
def test_a_text_file_is_a_document(tmp_path, name, packer):
  suffix, pack = PACKERS[packer]
  text = "first ☃\n\nsecond paragraph\n"
  assert read(save(tmp_path / name.format(suffix), pack(text.encode()))) == [
    text
  ]


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_compression_is_known_without_its_suffix(tmp_path, packer):
  _, pack = PACKERS[packer]
  assert read(save(tmp_path / "a.jsonl", pack(LINES))) == ["one", "two"]
  assert read(save(tmp_path / "a.txt", pack(b"text"))) == ["text"]
  # Under the suffix of another kind too.
  assert read(save(tmp_path / "b.txt.gz", pack(b"text"))) == ["text"]


def test_text_may_begin_like_bzip2(tmp_path):
  assert read(save(tmp_path / "a.txt", b"BZh is a magic")) == ["BZh is a magic"]


def test_parts_of_one_gzip_file(tmp_path):
  data = gzip.compress(b"one ") + gzip.compress(b"two")
  assert read(save(tmp_path / "a.txt.gz", data)) == ["one two"]


def test_zstandard(tmp_path):
  zstandard = pytest.importorskip("zstandard")
  pack = zstandard.ZstdCompressor().compress
  assert read(save(tmp_path / "a.jsonl.zst", pack(LINES))) == ["one", "two"]
  both = pack(b"one ") + pack(b"two")
  assert read(save(tmp_path / "a.txt", both)) == ["one two"]
  with pytest.raises(ValueError, match="cannot read .*a.txt.zst"):
    read(save(tmp_path / "a.txt.zst", b"plain"))


def test_zstandard_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "zstandard", None)
  for name in ("a.txt.zst", "a.txt"):
    path = save(tmp_path / name, b"\x28\xb5\x2f\xfd and more")
    with pytest.raises(ValueError, match="pip install zstandard.*zstd -d"):
      read(path)


@pytest.mark.parametrize("name", ["a.parquet", "A.PARQUET", "a.txt", "a"])
@pytest.mark.parametrize(
  "kind", [pyarrow.string(), pyarrow.large_string()], ids=str
)
def test_a_row_of_parquet_is_a_document(tmp_path, name, kind):
  texts = [f"text {i} ☃\r\n" for i in range(1000)]
  table = pyarrow.table({"n": range(1000), "body": pyarrow.array(texts, kind)})
  parquet.write_table(table, tmp_path / name, row_group_size=300)
  expected = [text.replace("\r\n", "\n") for text in texts]
  assert read(tmp_path / name) == expected


def test_bad_parquet_is_named(tmp_path):
  path = tmp_path / "a.parquet"
  table = pyarrow.table({"n": [1, 2], "body": ["x", None]})
  parquet.write_table(table, path)
  with pytest.raises(ValueError, match="a.parquet.*'text'.*'n', 'body'"):
    read(path, "text")
  with pytest.raises(ValueError, match="a.parquet.*'n' of row 1.*int64"):
    read(path, "n")
  with pytest.raises(ValueError, match="a.parquet.*'body' of row 2.*null"):
    read(path)
  whole = path.read_bytes()
  for broken in (whole[:-9], b"PAR1" + whole[20:], b"plain"):
    with pytest.raises(ValueError, match="cannot read .*a.parquet") as caught:
      read(save(path, broken))
    assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="compressed Parquet"):
    read(save(tmp_path / "b.parquet.gz", gzip.compress(whole)), "body")


def archive(kind):
  file = io.BytesIO()
  if kind == "zip":
    with zipfile.ZipFile(file, "w") as opened:
      opened.writestr("a.txt", "text")
  elif kind == "tar":
    with tarfile.open(fileobj=file, mode="w") as opened:
      opened.addfile(tarfile.TarInfo("a.txt"))
  elif kind == "npy":
    np.save(file, np.arange(3))
  elif kind == "npz":
    np.savez(file, a=np.arange(3))
  return file.getvalue()


NOT_TEXT = {
  "zip": (archive("zip"), "zip archive.*unpack"),
  "npz": (archive("npz"), "zip archive.*npz.*unpack"),
  "tar": (archive("tar"), "tar archive.*unpack"),
  "tgz": (gzip.compress(archive("tar")), "tar archive.*unpack"),
  "npy": (archive("npy"), "NumPy array.*save its text"),
  "pickle": (pickle.dumps(["text"]), "pickle.*save its text"),
  "pdf": (b"%PDF-1.4\ntext", "PDF.*pdftotext"),
  "rtf": (b"{\\rtf1 text}", "RTF"),
  "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "Office"),
  "arrow": (b"ARROW1\0\0" + bytes(90), "Arrow.*Parquet"),
  "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "7z archive"),
  "elf": (b"\x7fELF\x02\x01\x01" + bytes(90), "byte 7 is NUL.*binary"),
  "late": (b"text " * 300_000 + b"\0", "byte 1500000 is NUL"),
  "utf-16": ("text\n".encode("utf-16"), "UTF-16.*iconv"),
  "utf-16-be": (b"\xfe\xff" + "text".encode("utf-16-be"), "UTF-16.*iconv"),
  "utf-32": ("text".encode("utf-32"), "UTF-32.*iconv"),
  "no-mark": ("text".encode("utf-16-le"), "byte 1 is NUL.*UTF-16.*iconv"),
  "twice": (gzip.compress(gzip.compress(b"text")), "compressed twice"),
  "latin": (b"text caf\xe9 au", "byte 8 is not UTF-8.*iconv"),
  "cut": ("text ☃".encode()[:-1], "byte 5 is not UTF-8.*iconv"),
  "far": (
    b"\xef\xbb\xbf" + "☃\r\n".encode() * 300_000 + b"\xff",
    "byte 1500003 is not UTF-8",
  ),
}


@pytest.mark.parametrize("kind", NOT_TEXT)
@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_what_is_not_text_is_named(tmp_path, kind, name):
  data, message = NOT_TEXT[kind]
  path = save(tmp_path / name, data)
  with pytest.raises(ValueError, match=f"{path}.*{message}") as caught:
    read(path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "tar", "utf-16", "no-mark", "twice"])
def test_what_is_not_text_is_named_as_json_too(tmp_path, kind):
  data, message = NOT_TEXT[kind]
  with pytest.raises(ValueError, match=message):
    read(save(tmp_path / "a.jsonl", data))


BROKEN = {
  "not gzip": ("a.txt.gz", b"plain"),
  "cut gzip": ("a.txt.gz", gzip.compress(b"x" * 99, mtime=0)[:-9]),
  "gzip checksum": ("a.txt.gz", gzip.compress(b"x", mtime=0)[:-8] + bytes(8)),
  "not bzip2": ("a.txt.bz2", b"plain"),
  "cut bzip2": ("a.txt.bz2", bz2.compress(b"x" * 99)[:-9]),
  "not xz": ("a.txt.xz", b"plain"),
  "cut xz": ("a.txt.xz", lzma.compress(b"x" * 99)[:-9]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_compression_is_named(tmp_path, kind):
  name, data = BROKEN[kind]
  with pytest.raises(ValueError, match=f"cannot read .*{name}"):
    read(save(tmp_path / name, data))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.xz", "a"])
def test_an_empty_file_has_no_documents(tmp_path, name):
  assert read(save(tmp_path / name, b"")) == []


def test_ends_of_lines_and_byte_order_marks_make_no_difference(tmp_path):
  text = "\n\none ☃\ntwo\n\nthree\n"
  for number, end in enumerate(("\n", "\r\n", "\r")):
    other = "\ufeff" + text.replace("\n", end)
    assert read(save(tmp_path / f"{number}.txt", other.encode())) == [text]
    line = "\ufeff" + json.dumps({"body": other}) + "\r\n"
    assert read(save(tmp_path / "a.jsonl", line.encode())) == [text]
  # Between two parts that are read one after the other.
  path = save(tmp_path / "a.txt", b"x" * (reading.PART - 1) + b"\r\ny")
  assert "".join(read(path)) == "x" * (reading.PART - 1) + "\ny"


SEPARATORS = {"blank lines": "\n\n", "lines": "\n", "spaces": " ", "none": ""}


@pytest.mark.parametrize("kind", SEPARATORS)
def test_a_large_file_is_read_in_parts(tmp_path, kind):
  separator = SEPARATORS[kind]
  words = [f"{i:05d}☃{'x' * (i % 90)}" for i in range(60_000)]
  text = separator.join(words)
  path = save(tmp_path / "a.txt", text.encode())
  parts = read(path)
  assert "".join(parts) == text
  sizes = [len(part.encode()) for part in parts]
  assert max(sizes) <= 1.01 * 2**20 and min(sizes[:-1]) >= 0.49 * 2**20
  for one, other in zip(parts, parts[1:], strict=False):
    if separator == " ":
      assert other.startswith(" ")
    elif separator:
      assert one.endswith(separator)
  # However the lines end.
  crlf = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
  assert read(save(path, crlf)) == parts


def test_a_file_up_to_a_part_is_one_document(tmp_path):
  path = save(tmp_path / "a.txt", b"a\n" * (reading.PART // 2))
  assert len(read(path)) == 1
  assert len(read(path, longest=2**18)) >= 16
  path = save(tmp_path / "a.txt", b"a\n" * (reading.PART // 2) + b"b")
  assert len(read(path)) == 2


def test_pieces_end_at_blank_lines_before_they_end_at_lines():
  text = ("a line\n" * 5 + "\n") * 20
  pieces = list(reading.divide(text, 100))
  assert "".join(pieces) == text and len(pieces) > 5
  assert all(piece.endswith("\n\n") for piece in pieces)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_pieces_lose_nothing(count):
  text = "a bb\n\nccc dddd\n eeeee\tffffff\n\n\n" * 5 + "g" * 50
  pieces = list(reading.divide(text, count))
  assert "".join(pieces) == text
  assert all(0 < len(piece) <= count for piece in pieces)
  assert all(2 * len(piece) >= count - 1 for piece in pieces[:-1])


@pytest.mark.parametrize("longest", [0, 1, 5])
def test_the_smallest_pieces(tmp_path, longest):
  path = save(tmp_path / "a.txt", b"null\n")
  assert "".join(read(path, longest=longest)) == "null\n"
