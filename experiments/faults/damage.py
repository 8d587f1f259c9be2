"""Damages checkpoints, tokens and runs: flips, truncates or deletes files."""

import filecmp
import functools
import pathlib
import re
import shutil

from experiments.faults import lab as lab_lib
from linformer_jax.data import cache

# A name that Orbax generates for every checkpoint.
_HASH = re.compile(r"[0-9a-f]{16,}")


def _flip(place):
  def way(data, rng):
    at = place(len(data), rng)
    bit = 1 << rng.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

  return way


# (bytes, random generator) -> the damaged bytes, or None to delete the file.
WAYS = {
  "first byte flipped": _flip(lambda size, rng: 0),
  "middle byte flipped": _flip(lambda size, rng: size // 2),
  "last byte flipped": _flip(lambda size, rng: size - 1),
  "random byte flipped": _flip(lambda size, rng: rng.randrange(size)),
  "cut to half": lambda data, rng: data[: len(data) // 2],
  "emptied": lambda data, rng: b"",
  "deleted": lambda data, rng: None,
}


def harm(path: pathlib.Path, way: str, rng):
  """Damages a file in one of `WAYS`."""
  data = WAYS[way](path.read_bytes(), rng)
  path.unlink()
  if data is not None:
    path.write_bytes(data)


def roles(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns files by names that are the same in every checkpoint.

  A hash in a name is replaced by the file's rank by size in its folder.
  """
  found = {}
  paths = [path for path in folder.rglob("*") if path.is_file()]
  for path in sorted(paths, key=lambda path: (path.stat().st_size, path)):
    name = _HASH.sub("*", str(path.relative_to(folder)))
    place = 0
    while "*" in name and f"{name}[{place}]" in found:
      place += 1
    found[f"{name}[{place}]" if "*" in name else name] = path
  return dict(sorted(found.items()))


def role(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the file of a role; if there is none, the largest of its kind."""
  found = roles(folder)
  kind = name.split("[")[0]
  same = [path for other, path in found.items() if other.split("[")[0] == kind]
  return found.get(name) or max(same, key=lambda path: path.stat().st_size)


def ways(path: pathlib.Path) -> list[str]:
  """Returns the ways that change a file: an empty one can only be deleted."""
  return list(WAYS) if path.stat().st_size else ["deleted"]


def jobs(lab):
  """Yields jobs: every file of a checkpoint, token cache and run, every way."""
  newest = lab.whole / "checkpoints" / str(lab_lib.UPDATES)
  for name, path in roles(newest).items():
    if "/" in name:
      run = functools.partial(checkpoints, lab, name)
      count = len(ways(path))
      yield lab_lib.Job("checkpoint damaged", name, run, count=count)
      continue
    for way in ways(path):  # Checksums do not cover what Orbax adds.
      run = functools.partial(one_checkpoint, lab, name, way)
      yield lab_lib.Job("checkpoint damaged", f"{name}, {way}", run)
  yield lab_lib.Job(
    "every checkpoint damaged",
    "all files emptied",
    functools.partial(every_checkpoint, lab),
    starts=2,
  )
  [entry] = [path for path in lab.text.iterdir() if path.is_dir()]
  for name, path in roles(entry).items():
    for way in ways(path):
      run = functools.partial(tokens, lab, name, way)
      yield lab_lib.Job("token cache damaged", f"{name}, {way}", run)
  for name in UNCHECKED:
    for way in UNCHECKED_WAYS:
      run = functools.partial(unchecked, lab, name, way)
      yield lab_lib.Job(
        "file of the run damaged", f"{name}, {way}", run, starts=2
      )


def _complaints(ended, pattern):
  """Returns the lines of a successful command, all of which match a pattern."""
  lines = ended.err.splitlines()
  wrong = [line for line in lines if not re.match(pattern, line)]
  if ended.status or wrong:
    raise lab_lib.Unexpected(f"exit {ended.status}: {ended.err}")
  return lines


def checkpoints(lab, name, rng):
  """Damages one file of each of the newest checkpoints, each in another way.

  All of them must be skipped, newest first, in favor of the one before them.
  """
  workdir = lab.copy()
  records = []
  steps = range(lab_lib.UPDATES, 0, -lab_lib.EVERY)
  newest = workdir / "checkpoints" / str(lab_lib.UPDATES)
  chosen = list(zip(steps, ways(roles(newest)[name]), strict=False))
  for step, way in chosen:
    harm(role(workdir / "checkpoints" / str(step), name), way, rng)
  ended = lab.run(workdir)
  lines = _complaints(ended, r"checkpoint \d+ is damaged and skipped: ")
  named = [int(line.split()[1]) for line in lines]
  if named != [step for step, _ in chosen]:
    raise lab_lib.Unexpected(f"damaged {chosen}, said of {named}")
  for (step, way), line in zip(chosen, lines, strict=True):
    if not (workdir / f"damaged-{step}").is_dir():
      raise lab_lib.Unexpected(f"checkpoint {step} was not set aside")
    records.append(lab_lib.record(lab_lib.REPORTED, way, line))
  lab.same(workdir)
  return records


def one_checkpoint(lab, name, way, rng):
  """Damages a file of the newest checkpoint that checksums do not cover."""
  workdir = lab.copy()
  harm(workdir / "checkpoints" / str(lab_lib.UPDATES) / name, way, rng)
  ended = lab.run(workdir)
  pattern = f"checkpoint {lab_lib.UPDATES} is damaged and skipped: "
  lines = _complaints(ended, pattern)
  aside = (workdir / f"damaged-{lab_lib.UPDATES}").exists()
  if len(lines) != aside:
    raise lab_lib.Unexpected(f"set aside: {aside}; {ended.err}")
  lab.same(workdir)
  outcome = lab_lib.REPORTED if aside else lab_lib.HARMLESS
  return [lab_lib.record(outcome, way, *lines)]


def every_checkpoint(lab, rng):
  """Damages all: nothing may change, and restoring a copy must suffice."""
  del rng
  workdir = lab.copy()
  folder = workdir / "checkpoints"
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  ended = lab.run(workdir)
  *lines, last = ended.err.splitlines()
  told = [x for x in lines if re.match(r"checkpoint \d+ is damaged", x)]
  if len(told) != lab_lib.KEPT or len(lines) != len(told):
    raise lab_lib.Unexpected(ended.err)
  lab_lib.Ended(ended.status, "", last).line(1)
  if sorted(path.name for path in folder.iterdir()) != sorted(
    path.name for path in (lab.whole / "checkpoints").iterdir()
  ):
    raise lab_lib.Unexpected("the folder of checkpoints was changed")
  shutil.rmtree(folder)
  shutil.copytree(lab.whole / "checkpoints", folder)
  lab.resume(workdir)
  outcome = lab_lib.REFUSED.format(1)
  last = last.replace(str(workdir), "RUN")
  return [lab_lib.record(outcome, "then restored from a copy", last)]


def tokens(lab, name, way, rng):
  """Damages a file of the token cache, and trains on the rebuilt cache."""
  workdir = lab.copy(lab_lib.UPDATES - lab_lib.EVERY)
  text = shutil.copytree(lab.text, lab.fresh())
  [entry] = [path for path in text.iterdir() if path.is_dir()]
  # The run knows where its tokens are; let that be the copy.
  record = workdir / "corpus.json"
  record.write_text(record.read_text().replace(str(lab.text), str(text)))
  harm(entry / name, way, rng)
  ended = lab.run(workdir, text=text)
  lines = _complaints(ended, r".* is damaged \(.*\): rebuilding it")
  if len(lines) > 1:
    raise lab_lib.Unexpected(ended.err)
  lab.same(workdir)
  if not lines:
    return [lab_lib.record(lab_lib.HARMLESS, way)]
  # cache.META also holds the times at which the files were written.
  original = lab.text / entry.name
  files = cache.files_of(original)
  if cache.files_of(entry) != files:
    raise lab_lib.Unexpected(f"{cache.META} is not what it was")
  for file in files:
    if not filecmp.cmp(entry / file, original / file, shallow=False):
      raise lab_lib.Unexpected(f"{file} is not what it was")
  line = lines[0].replace(str(text), "CACHE")
  return [lab_lib.record(lab_lib.REPORTED, way, line)]


# Files of a run without checksums: a flipped digit in them goes undetected.
UNCHECKED = ("config.json", "corpus.json", "result.json")
UNCHECKED_WAYS = ("cut to half", "emptied", "deleted", "unreadable byte")


def unchecked(lab, name, way, rng):
  """Makes a file of a run unreadable, or deletes it."""
  workdir = lab.copy()
  path, original = workdir / name, (lab.whole / name).read_bytes()
  path.write_bytes(original)
  if way in WAYS:
    harm(path, way, rng)
  else:
    at = rng.randrange(len(original))
    path.write_bytes(original[:at] + b"\xff" + original[at + 1 :])
  ended = lab.run(workdir)
  if name == "corpus.json" and way == "deleted":
    ended.quiet()
    lab.same(workdir)
    return [lab_lib.record(lab_lib.HARMLESS, way)]
  if name != "result.json":
    line = ended.line(2).replace(str(workdir), "RUN")
    path.write_bytes(original)
    lab.resume(workdir)
    return [lab_lib.record(lab_lib.REFUSED.format(2), way, line)]
  ended.quiet()
  lab.same(workdir)
  return [lab_lib.record("made anew, same bits", way)]
