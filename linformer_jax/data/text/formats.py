"""Recognizes file formats by the name and the first bytes of a file.

Text may be compressed. Other formats are refused with advice, as an archive
could otherwise be trained on without anybody noticing.
"""

import bz2
import gzip
import importlib
import io
import lzma
import os
import re
import zlib
from typing import BinaryIO

JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
DELIMITERS = {".csv": ",", ".tsv": "\t"}

_SHARD = re.compile(r"-\d+-of-\d+$")
_COMPRESSED = {
  ".gz": b"\x1f\x8b\x08",
  ".bz2": b"BZh",
  ".xz": b"\xfd7zXZ\0",
  ".zst": b"\x28\xb5\x2f\xfd",
}
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
_PARQUET_MAGIC = b"PAR1"
_UTF_16 = ("UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8")
_UTF_32 = ("UTF-32 text", "convert it with: iconv -f UTF-32 -t UTF-8")
_UNPACK = "unpack it and name the text files in it"
_SAVE = "save its text as .txt or .jsonl"
# (offset, magic bytes, format, remedy). The first match counts, so a longer
# prefix comes first.
_NOT_TEXT = (
  (0, b"\xff\xfe\0\0", *_UTF_32),
  (0, b"\0\0\xfe\xff", *_UTF_32),
  (0, b"\xff\xfe", *_UTF_16),
  (0, b"\xfe\xff", *_UTF_16),
  (
    0,
    b"PK\x03\x04",
    "a zip archive, as .docx, .epub and .npz are too",
    _UNPACK,
  ),
  (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
  (257, b"ustar", "a tar archive", _UNPACK),
  (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
  (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
  (0, b"\x04\x22\x4d\x18", "lz4-compressed", "decompress it"),
  (0, b"\x1f\x9d", "compressed by compress", "decompress it"),
  (0, b"%PDF-", "a PDF", "extract its text, for example with pdftotext"),
  (0, b"{\\rtf", "an RTF document", _SAVE),
  (0, b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document", _SAVE),
  (0, b"\x93NUMPY", "a NumPy array", _SAVE),
  (0, b"\x89HDF\r\n", "an HDF5 file", _SAVE),
  (0, b"SQLite format 3\0", "an SQLite database", _SAVE),
  (0, b"ARROW1", "an Arrow file", "save it as Parquet or .jsonl"),
  (0, b"\xff\xff\xff\xff", "an Arrow stream", "save it as Parquet or .jsonl"),
  *((0, bytes([0x80, n]), "a pickle", _SAVE) for n in range(2, 6)),
)
ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


def extension(path: str) -> str:
  """Returns the lower-case suffix, without compression and shard suffixes.

  'a.JSONL', 'a.jsonl.gz' and 'a.jsonl-00000-of-00002' all give '.jsonl'.
  """
  name = _SHARD.sub("", os.path.basename(path).lower())
  stem, suffix = os.path.splitext(name)
  if suffix in (*_COMPRESSED, ".lzma"):
    suffix = os.path.splitext(_SHARD.sub("", stem))[1]
  return suffix


def is_parquet(start: bytes, path: str) -> bool:
  """Returns whether a file is Parquet, by its first bytes or its name."""
  if start.startswith(_PARQUET_MAGIC):
    return True
  return extension(path) in PARQUET and not _compression(start)


def decompressed(file: io.BufferedReader, path: str) -> BinaryIO:
  """Returns the stream, decompressed according to its first bytes or its name.

  Raises:
    ValueError: if the package for its compression is not installed.
  """
  named = os.path.splitext(_SHARD.sub("", path.lower()))[1]
  suffix = _compression(file.peek(16)) or named
  if suffix == ".gz":
    stream = gzip.GzipFile(fileobj=file)
  elif suffix == ".bz2":
    stream = bz2.BZ2File(file)
  elif suffix in (".xz", ".lzma"):
    stream = lzma.LZMAFile(file)
  elif suffix == ".zst":
    stream = _zstandard(file, path)
  else:
    return file
  return io.BufferedReader(stream, 2**16)


def _compression(start: bytes) -> str:
  """Returns the suffix of the compression that the first bytes show, or ''."""
  for suffix, magic in _COMPRESSED.items():
    if start.startswith(magic):
      # Text may begin with BZh too; in bzip2, a block or the end follows.
      if suffix == ".bz2" and start[4:10] not in _BZIP2_BLOCKS:
        continue
      return suffix
  return ""


def _zstandard(file: BinaryIO, path: str) -> io.RawIOBase:
  try:
    zstandard = importlib.import_module("zstandard")
  except ImportError as error:
    raise ValueError(
      f"{path} is compressed by zstd: pip install zstandard, or decompress it"
      " with: zstd -d"
    ) from error

  class Reader(io.RawIOBase):
    """Raises an OSError for a broken stream, as gzip does."""

    def __init__(self):
      decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
      self._reader = decompressor.stream_reader(file, read_across_frames=True)

    def readable(self) -> bool:
      return True

    def readinto(self, buffer) -> int:
      try:
        return self._reader.readinto(buffer)
      except zstandard.ZstdError as error:
        raise OSError(str(error)) from error

  return Reader()


def check_text(start: bytes, path: str) -> None:
  """Checks that a file does not begin like a binary format.

  Args:
    start: the first 262 bytes or more, decompressed; fewer in a shorter file.
    path: for the message.

  Raises:
    ValueError: naming the format and the remedy.
  """
  for offset, magic, kind, remedy in _NOT_TEXT:
    if start[offset:].startswith(magic):
      raise ValueError(f"{path} is {kind}, not UTF-8 text: {remedy}")
  if _compression(start):
    raise ValueError(f"{path} is compressed twice: decompress it once")
  if start.startswith(_PARQUET_MAGIC):
    raise ValueError(f"{path} is compressed Parquet: decompress it")
  check_no_nul(start, 0, path)


def check_no_nul(data: bytes, offset: int, path: str) -> None:
  """Refuses NUL, which occurs in most binary files and in no text.

  Raises:
    ValueError: naming the position, counted from `offset`.
  """
  if b"\0" in data:
    raise ValueError(
      f"{path} is not text: byte {offset + data.index(0)} is NUL. A binary file"
      " cannot be read; convert UTF-16 with: iconv -f UTF-16 -t UTF-8"
    )
