"""requirements.txt brings all that the project and TFDS import.

A developer's environment has more: what the extras bring, and what was once
installed. Here the modules are imported, and real datasets opened, where only
the distributions are that requirements.txt asks for.
"""

import collections
import csv
import pathlib
import re
import subprocess
import sys
import textwrap
import venv
from importlib import metadata

import pytest
from packaging import requirements, utils

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "requirements.txt"
# What needs an extra of pyproject.toml, here parity.
OPTIONAL = ("experiments.speed.torch_layers",)

USE = """
  import importlib, pathlib, pkgutil, socket, sys
  site, root, folder, *optional = sys.argv[1:]
  sys.path[:0] = [root, site]
  def refuse(*_):
    sys.exit("the network is looked at")
  socket.socket.connect = socket.getaddrinfo = refuse

  for package in ("linformer_jax", "configs", "experiments"):
    for path in sorted(pathlib.Path(root, package).rglob("*.py")):
      name = ".".join(path.relative_to(root).with_suffix("").parts)
      hook = path.name == "sitecustomize.py"  # Python imports it at its start.
      if not hook and name not in optional:
        importlib.import_module(name.removesuffix(".__init__"))

  import numpy as np
  import tensorflow_datasets as tfds
  from linformer_jax.data.text import tfds_source
  features = {"lm1b": "text", "pg19": "book_text", "wiki40b/en": "text",
              "glue/sst2": "sentence", "imdb_reviews": "text"}
  for name, feature in features.items():
    tfds_source.tfds(name, "train", "", folder, feature)
  for name in (*features, "cifar10"):
    builder = tfds.builder(name, data_dir=folder)
    assert builder.info.features, name
    assert builder.url_infos or name in ("pg19", "wiki40b/en"), name

  class Downloaded(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None
    def _info(self):
      text = tfds.features.FeaturesDict({"text": tfds.features.Text()})
      return tfds.core.DatasetInfo(builder=self, features=text)
    def _split_generators(self, manager):
      path = pathlib.Path(folder, "texts.zip")
      return {"train": self._generate_examples(manager.extract(path))}
    def _generate_examples(self, path):
      for file in path.iterdir():
        yield file.name, {"text": file.read_text()}

  import zipfile
  with zipfile.ZipFile(pathlib.Path(folder, "texts.zip"), "w") as archive:
    archive.writestr("a.txt", "one"), archive.writestr("b.txt", "two")
  for kind in ("array_record", "tfrecord"):
    place = pathlib.Path(folder, kind)
    place.mkdir()
    builder = tfds.builder("downloaded", data_dir=place, file_format=kind)
    builder.download_and_prepare()
    found = tfds_source.tfds("downloaded", "train", "", str(place), "text")
    assert sorted(found.train()) == ["one", "two"], kind
  print("all is there")
"""


def asked(lines):
  """Requirements of lines with comments."""
  for line in lines:
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    if line:
      yield requirements.Requirement(line)


def closure(first):
  """The installed distributions that requirements ask for, and theirs."""
  found, extras, queue = {}, collections.defaultdict(set), list(first)
  while queue:
    wanted = queue.pop()
    name = utils.canonicalize_name(wanted.name)
    new = {"", *wanted.extras} - extras[name]
    extras[name] |= new
    if name not in found:
      try:
        found[name] = metadata.distribution(wanted.name)
      except metadata.PackageNotFoundError:
        pytest.fail(f"{wanted} is not installed: ./launch.sh setup")
    version = found[name].version
    assert wanted.specifier.contains(version, prereleases=True), wanted
    for other in asked(found[name].requires or ()):
      if any(
        other.marker is None or other.marker.evaluate({"extra": extra})
        for extra in new
      ):
        queue.append(other)
  return found.values()


def files(distribution):
  """Paths of a distribution's files; `distribution.files` takes a minute."""
  record = distribution.read_text("RECORD") or ""
  return [row[0] for row in csv.reader(record.splitlines())]


def link(distributions, site):
  """Fills a folder with links to the files of distributions."""
  site.mkdir()
  owners = collections.Counter()
  for distribution in metadata.distributions():
    owners.update({file.split("/")[0] for file in files(distribution)})
  for distribution in distributions:
    parts = set()
    for file in files(distribution):
      top = file.split("/")[0]
      # A folder of several distributions, as google, is linked by the file.
      parts.add(top if owners[top] == 1 else file)
    for part in parts:
      if not part.startswith(".."):
        (site / part).parent.mkdir(parents=True, exist_ok=True)
        (site / part).symlink_to(distribution.locate_file(part))


def use(python, site, folder):
  """Runs `USE` in a process that sees the standard library and one folder."""
  folder.mkdir()
  done = subprocess.run(
    [python, "-I", "-S", "-c", textwrap.dedent(USE)]
    + [str(site), str(ROOT), str(folder), *OPTIONAL],
    env={
      "PATH": "/usr/bin:/bin",
      "HOME": str(folder),
      "JAX_PLATFORMS": "cpu",
      "TF_CPP_MIN_LOG_LEVEL": "3",
    },
    cwd=folder,
    capture_output=True,
    text=True,
  )
  return done.stdout + done.stderr


@pytest.mark.slow
def test_the_requirements_are_enough(tmp_path):
  link(closure(asked(PAGE.read_text().splitlines())), tmp_path / "site")
  printed = use(sys.executable, tmp_path / "site", tmp_path / "data")
  assert "all is there" in printed, printed


@pytest.mark.slow
def test_a_fresh_environment(tmp_path):
  venv.create(tmp_path / "venv", with_pip=True)
  python = str(tmp_path / "venv" / "bin" / "python")
  # Isolated from PYTHONPATH, whose packages pip would take for installed.
  pip = [python, "-I", "-m", "pip", "install", "--quiet"]
  subprocess.run([*pip, "--requirement", str(PAGE)], check=True)
  (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
  printed = use(python, site, tmp_path / "data")
  assert "all is there" in printed, printed
