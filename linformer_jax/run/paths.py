"""Expands paths that the user gives."""

import os
import re

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
BUCKET = "gs"


def in_bucket(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is in a Google Cloud bucket (gs://)."""
  return os.fspath(path).startswith(f"{BUCKET}://")


def expand(
  path: str | os.PathLike[str], field: str, *, bucket: bool = False
) -> str:
  """Returns the path with `~` expanded, unless it exists literally.

  Args:
    path: as given by the user.
    field: the flag or config field it comes from, for the message.
    bucket: whether a gs:// path is allowed.

  Raises:
    ValueError: for a URL of another scheme, or an unknown user in `~name`.
  """
  path = os.fspath(path)
  scheme = _SCHEME.match(path)
  if scheme:
    if bucket and scheme[1] == BUCKET:
      return path
    allowed = "a local path or gs://BUCKET/..." if bucket else "a local path"
    raise ValueError(
      f"{field}={path}: {scheme[1]}:// is not supported here; use {allowed}"
    )
  if path.startswith("~") and not os.path.exists(path):
    user = path.split("/")[0]
    expanded = os.path.expanduser(path)
    # An empty HOME would expand to the root folder.
    empty = user == "~" and os.environ.get("HOME") == ""
    if empty or not os.path.isabs(expanded):
      raise ValueError(f"{field}={path}: there is no home folder for {user}")
    return expanded
  return path
