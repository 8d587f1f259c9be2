"""launch.sh tpu: the gcloud lines that it prints and runs, and its errors."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from linformer_jax.run import command_line
from tests import fleet as fleets

ROOT = pathlib.Path(__file__).parent.parent
PLACE = "us-west4-a"
ZONE = f"--zone={PLACE}"
CONFIG = "--config=configs/linformer.py:n=512,k=128"
WORKDIR = "--workdir=gs://bucket/runs/x"

SSH = f"gcloud compute tpus tpu-vm ssh a --zone={PLACE} "
ALL = SSH + "--worker=all "
WORKER = "bash linformer_jax/launch/worker.sh "
SETUP = [
  "mkdir -p build && git ls-files -z --cached --others --exclude-standard | "
  "tar -czf build/linformer_jax.tgz --null --ignore-failed-read --files-from=-",
  "gcloud compute tpus tpu-vm scp build/linformer_jax.tgz a: "
  f"--zone={PLACE} --worker=all",
  ALL + "'--command=mkdir -p linformer_jax && cd linformer_jax && "
  r"{ flock --nonblock run.lock true || { echo '\''a run is alive here: stop "
  r"it first'\'' >&2; exit 2; }; } && rm -rf linformer_jax configs experiments "
  "launch tests && tar -xzf ../linformer_jax.tgz && "
  "bash launch/worker.sh setup'",
]
VM = f"gcloud compute tpus tpu-vm create a --zone={PLACE} --accelerator-type="
QUEUED = f"gcloud compute tpus queued-resources create a --zone={PLACE} "
LIST = "gcloud compute tpus {} list --zone=" + PLACE + " '--filter=name~/a$'"
DELETE = "gcloud compute tpus {} delete a --zone=" + PLACE
LINES = {
  "create --type=v4-8": [VM + "v4-8 --version=tpu-ubuntu2204-base"],
  "create --type=v3-32": [VM + "v3-32 --version=tpu-ubuntu2204-base"],
  "create --type=v5litepod-1": [
    VM + "v5litepod-1 --version=v2-alpha-tpuv5-lite"
  ],
  "create --type=v5p-16": [VM + "v5p-16 --version=v2-alpha-tpuv5"],
  "create --type=v6e-256 --spot": [
    VM + "v6e-256 --version=v2-alpha-tpuv6e --spot"
  ],
  "create --type=v4-8 --preemptible --version=mine": [
    VM + "v4-8 --version=mine --preemptible"
  ],
  "create --type=v4-8 -- --network=lab '--labels=a=b c'": [
    VM + "v4-8 --version=tpu-ubuntu2204-base --network=lab '--labels=a=b c'"
  ],
  "create --type=v5litepod-16 --queued": [
    QUEUED + "--node-id=a --accelerator-type=v5litepod-16 "
    "--runtime-version=v2-alpha-tpuv5-lite"
  ],
  "create --type=v5litepod-16 --queued --spot -- --reserved": [
    QUEUED + "--node-id=a --accelerator-type=v5litepod-16 "
    "--runtime-version=v2-alpha-tpuv5-lite --spot --reserved"
  ],
  "setup": SETUP,
  f"train {CONFIG} {WORKDIR}": [
    ALL + "'--command=env JAX_COMPILATION_CACHE_DIR=gs://bucket/runs/jax-cache "
    f"{WORKER}train {CONFIG} {WORKDIR}'"
  ],
  f"train {CONFIG} --workdir=gs://b/x/ --compile-cache=gs://b/c": [
    ALL + "'--command=env JAX_COMPILATION_CACHE_DIR=gs://b/c "
    f"{WORKER}train {CONFIG} --workdir=gs://b/x/'"
  ],
  "logs": [
    SSH + "--worker=0 '--command=tail -n 100 -F linformer_jax/train.log'"
  ],
  "logs --worker=13": [
    SSH + "--worker=13 '--command=tail -n 100 -F linformer_jax/train.log'"
  ],
  "status": [
    LIST.format("queued-resources"),
    LIST.format("tpu-vm"),
    ALL + f"'--command={WORKER}status'",
  ],
  "stop": [ALL + f"'--command={WORKER}stop'"],
  "delete": [
    LIST.format("queued-resources") + " '--format=value(name)'",
    DELETE.format("queued-resources") + " --force --quiet",
    LIST.format("tpu-vm") + " '--format=value(name)'",
    DELETE.format("tpu-vm") + " --quiet",
  ],
}


@pytest.fixture
def fleet(tmp_path):
  with fleets.make(tmp_path) as fleet:
    yield fleet


@pytest.mark.parametrize("words", LINES)
def test_dry_run_prints_every_command_and_runs_none(words, fleet):
  verb, *flags = shlex.split(words)
  status, out, err = fleet.tpu(verb, "a", ZONE, "--dry-run", *flags)
  assert (status, err) == (0, "")
  assert out.splitlines() == LINES[words]
  assert fleet.gcloud() == []


@pytest.mark.parametrize("words", LINES)
def test_the_lines_are_what_is_run(words, fleet):
  """Evaluated by a shell, they reach gcloud as the commands do."""
  verb, *flags = shlex.split(words)
  fleet.only_record()
  fleet.tpu(verb, "a", ZONE, *flags, stdin="y\n")
  ran = fleet.gcloud()
  for line in LINES[words]:
    if line.startswith("gcloud"):
      subprocess.run(["bash", "-c", line], env=fleet.environment, check=True)
  assert fleet.gcloud() == ran + ran


def test_a_project_is_passed_on(fleet):
  for verb in ("create --type=v4-8", "setup", "logs", "status", "delete"):
    verb, *flags = verb.split()
    words = (verb, "a", ZONE, "--project=lab", "--dry-run", *flags)
    for line in fleet.tpu(*words)[1].splitlines():
      assert not line.startswith("gcloud") or f"{ZONE} --project=lab " in line


def test_the_zone_may_come_from_the_environment_or_gcloud(fleet):
  status, out, _ = fleet.tpu(
    "stop", "a", "--dry-run", CLOUDSDK_COMPUTE_ZONE="us-west4-a"
  )
  assert (status, out.splitlines()) == (0, LINES["stop"])
  fleet.only_record()
  (fleet.root / "zone").write_text("us-west4-a\n")
  assert fleet.tpu("stop", "a")[0] == 0
  assert fleet.gcloud()[1][4:6] == ["a", ZONE]


WRONG = {
  "fly a": "'fly'",
  "create": "NAME",
  "create --type=v4-8": "NAME",
  "create Big_One --type=v4-8": "'Big_One'",
  "create a": "--type",
  "create a --type=v4-8 --sopt": "'--sopt'",
  "create a --type=v9-8": "--version=VERSION",
  "create a --type=v5e-16": "--type=v5litepod-16",
  "create a --type=v4-8 --queued --preemptible": "--spot",
  "create a --type=v4-8 --zone us-west4-a": "--zone=VALUE",
  "setup a --spot": "'--spot'",
  "logs a --worker=all": "'--worker=all'",
  f"train a {WORKDIR}": "--config",
  f"train a {CONFIG}": "--workdir",
  f"train a {CONFIG} --workdir=gs://bucket/": "folder in the bucket",
  f"train a {CONFIG} {WORKDIR} --new": "--new",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(words, fleet):
  status, out, err = fleet.tpu(*words.split(), ZONE)
  assert (status, out) == (2, "")
  assert err.count("\n") == 1 and err.startswith("launch.sh tpu: ")
  assert WRONG[words] in err
  assert fleet.gcloud() == []


def test_no_zone_is_one_line(fleet):
  for words in (("stop", "a"), ("stop", "a", "--dry-run")):
    status, out, err = fleet.tpu(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--zone=ZONE is missing" in err


def test_no_gcloud_is_one_line(tmp_path):
  for tool in ("bash", "dirname", "cat"):
    (tmp_path / tool).symlink_to(shutil.which(tool))
  words, path = ("stop", "a", ZONE), {"PATH": str(tmp_path)}
  status, out, err = fleets.launch(*words, environment=path)
  assert (status, out, err.count("\n")) == (2, "", 1)
  assert "gcloud is not installed" in err
  dry = fleets.launch(*words, "--dry-run", environment=path)
  assert dry == (0, LINES["stop"][0] + "\n", "")


def test_a_workdir_on_the_vm_is_remarked(fleet):
  words = ("train", "a", ZONE, CONFIG, "--workdir=runs/x", "--dry-run")
  status, out, err = fleet.tpu(*words)
  assert status == 0 and "JAX_COMPILATION_CACHE_DIR=/tmp/jax-cache " in out
  assert err.count("\n") == 1 and err.startswith("note: --workdir=runs/x")


def test_delete_asks_and_deletes_what_is_there(fleet):
  fleet.only_record()
  assert fleet.tpu("delete", "a", ZONE)[0] == 2
  assert fleet.tpu("delete", "a", ZONE, stdin="no\n")[0] == 2
  assert fleet.gcloud() == []
  (fleet.root / "absent").write_text("queued-resources tpu-vm")
  status, _, err = fleet.tpu("delete", "a", ZONE, "--yes")
  assert (status, err) == (0, "there is no a in us-west4-a\n")
  (fleet.root / "absent").write_text("queued-resources")
  assert fleet.tpu("delete", "a", ZONE, stdin="y\n")[0] == 0
  deleted = [words for words in fleet.gcloud() if "delete" in words]
  assert [words[2] for words in deleted] == ["tpu-vm"]
  (fleet.root / "broken").touch()
  status, _, err = fleet.tpu("delete", "a", ZONE, "--yes")
  assert status == 2 and "could not list" in err


def examples(text):
  """Its lines that start with `./launch.sh tpu VERB`, joined, as words."""
  verbs = "|".join({words.split()[0] for words in LINES})
  lines = re.sub(r"\\\n\s*", "", text)
  lines = re.findall(rf"(?m)^\s*\./launch\.sh tpu ((?:{verbs}) .*)", lines)
  return [shlex.split(line, comments=True) for line in lines]


def test_the_examples_of_the_help_and_of_the_page_run(fleet, monkeypatch):
  monkeypatch.chdir(ROOT)
  status, out, _ = fleet.tpu("--help")
  assert status == 0 and fleet.tpu() == (0, out, "")
  assert fleet.tpu("create", "--help") == (0, out, "")
  every = {words.split()[0] for words in LINES}
  for page in (out, (ROOT / "launch" / "README.md").read_text()):
    found = examples(page)
    assert {words[0] for words in found} == every
    for verb, name, *flags in found:
      words = (verb, name, "--dry-run", *flags)
      status, out, err = fleet.tpu(*words, CLOUDSDK_COMPUTE_ZONE=PLACE)
      assert (status, err) == (0, "")
      if verb == "train":  # main knows the flags that reach a worker
        command = shlex.split(shlex.split(out)[-1].partition("=")[2])
        words = command[command.index("train") :]
        monkeypatch.setattr(sys, "argv", words)  # config_flags looks there
        assert command_line.parse(command_line.make_flags(), words) == []
