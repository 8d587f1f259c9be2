"""TensorBoard's event files, by TensorBoard's own records and summaries.

Without TensorFlow, whose import takes longer than the first updates of a small
model.
"""

import io
import os
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import summary_v2 as scalar
from tensorboard.plugins.text import summary_v2 as text
from tensorboard.summary.writer import record_writer
from tensorboard.util import tensor_util

from linformer_jax.run import files

PREFIX = "events.out.tfevents."  # of file names, which readers look for
# Makers of summaries, tag and value to a protocol buffer; that of
# hyperparameters takes a dict alone.
scalar_summary = scalar.scalar_pb
text_summary = text.text_pb
hparams_summary = hparams.hparams_pb


def image_summary(tag: str, image: np.ndarray) -> summary_pb2.Summary:
  """Returns the summary of an image, uint8 [height, width, 3]."""
  from matplotlib import image as matplotlib_image

  file = io.BytesIO()
  matplotlib_image.imsave(file, image, format="png")
  height, width = image.shape[:2]
  content = [str(width).encode(), str(height).encode(), file.getvalue()]
  value = summary_pb2.Summary.Value(
    tag=tag,
    metadata=image_metadata.create_summary_metadata(None, None),
    tensor=tensor_util.make_tensor_proto(np.array(content, object)),
  )
  return summary_pb2.Summary(value=[value])


class EventFile:
  """A new event file in a folder.

  Readers sort event files by name, so the name begins with the time.
  """

  def __init__(self, folder):
    folder.mkdir(parents=True, exist_ok=True)
    host, process = socket.gethostname(), os.getpid()
    name = f"{PREFIX}{time.time():017.6f}.{host}.{process}"
    self._file = files.Appended(folder / name)
    self._records = record_writer.RecordWriter(self._file)
    self.add(0, file_version="brain.Event:2")

  def add(self, step: int, **what):
    """Appends an event: summary=, session_log= or file_version=."""
    event = event_pb2.Event(wall_time=time.time(), step=step, **what)
    self._records.write(event.SerializeToString())

  def flush(self):
    """Writes what was appended."""
    self._file.flush()


def read(path) -> Iterator[tuple[event_pb2.Event, bytes]]:
  """Yields the events of a file, and their records.

  Ends silently at a record that a kill truncated.
  """
  data, start = path.read_bytes(), 0
  while start + 12 <= len(data):
    head = data[start : start + 8]
    (length,) = struct.unpack("<Q", head)
    (check,) = struct.unpack("<I", data[start + 8 : start + 12])
    end = start + 12 + length + 4
    if end > len(data) or pywrap_tensorflow.masked_crc32c(head) != check:
      return
    yield (
      event_pb2.Event.FromString(data[start + 12 : end - 4]),
      data[start:end],
    )
    start = end
