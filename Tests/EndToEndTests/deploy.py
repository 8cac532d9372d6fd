"""What scripts/deploy has for clusters: manifests that hold together, and scripts that run where Slurm is pretended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

from harness import Case, Failure, Skip, check

_ROOT = Path(__file__).resolve().parents[2]
_DEPLOY = _ROOT / "scripts" / "deploy"

# What Kubernetes knows in each place, as far as the manifests use it; a name that is misspelt is ignored there.
_POD = {
    "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext", "topologySpreadConstraints",
    "containers", "volumes"}
_CONTAINER = {
    "name", "image", "args", "command", "env", "ports", "livenessProbe", "readinessProbe", "resources",
    "securityContext", "volumeMounts"}
_PROBE = {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
_SPECS = {
    ("apps/v1", "Deployment"): {"replicas", "strategy", "selector", "template"},
    ("apps/v1", "StatefulSet"): {"serviceName", "replicas", "podManagementPolicy", "selector", "template"},
    ("v1", "Service"): {"clusterIP", "publishNotReadyAddresses", "selector", "ports"},
    ("v1", "PersistentVolumeClaim"): {"accessModes", "resources"},
    ("policy/v1", "PodDisruptionBudget"): {"maxUnavailable", "selector"},
}


def _only(known: set, found: dict, where: str) -> None:
    check(set(found) <= known, f"{where}: Kubernetes does not know {sorted(set(found) - known)}")


def _objects() -> Dict[Tuple[str, str], dict]:
    """By kind and name."""
    try:
        import yaml
    except ImportError:
        if os.environ.get("CI") == "true":
            raise Failure("there is no yaml for Python: scripts/bootstrap") from None
        raise Skip("there is no yaml for Python: apt-get install python3-yaml") from None
    folder = _DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    others = sorted(path.name for path in folder.iterdir() if path.name != "kustomization.yaml")
    check(sorted(listed) == others, f"kustomization.yaml lists {listed}, and there are {others}")
    objects: Dict[Tuple[str, str], dict] = {}
    for name in listed:
        for found in yaml.safe_load_all((folder / name).read_text()):
            key = (found["kind"], found["metadata"]["name"])
            check(key not in objects, f"{key} is there twice")
            _only({"apiVersion", "kind", "metadata", "spec"}, found, f"{key}")
            spec = _SPECS.get((found["apiVersion"], found["kind"]))
            check(spec is not None, f"{key} is of an unknown version: {found['apiVersion']}")
            _only(spec, found["spec"], f"{key}")
            objects[key] = found
    return objects


def _check_pod(objects: Dict[Tuple[str, str], dict], workload: dict) -> dict:
    """Its only container."""
    template, name = workload["spec"]["template"], workload["metadata"]["name"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    check(workload["spec"]["selector"]["matchLabels"] == labels, f"{name} does not select its own pods")
    _only(_POD, pod, name)
    check(pod["securityContext"]["runAsNonRoot"] is True, f"{name} runs as root")
    (container,) = pod["containers"]
    _only(_CONTAINER, container, name)
    ports = {port["name"] for port in container["ports"]}
    for probe in ("livenessProbe", "readinessProbe"):
        if probe in container:
            _only(_PROBE, container[probe], f"{name}: {probe}")
            check(container[probe]["httpGet"]["port"] in ports, f"{name}: {probe} asks a port that is not there")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    check({mount["name"] for mount in container["volumeMounts"]} == set(volumes), f"{name}: volumes and mounts differ")
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            check(("PersistentVolumeClaim", claim) in objects, f"{name} claims {claim}, which is not there")
        else:
            secret = volume["secret"]["secretName"]
            check(volume["secret"]["defaultMode"] == 0o440, f"{secret} can be read by others")
            page = (_ROOT / "docs" / "deploy.md").read_text()
            check(f"create secret generic {secret} " in page, f"docs/deploy.md does not say how to make {secret}")
    return container


def kubernetes_manifests_hold_together(case: Case) -> None:
    objects = _objects()
    master = _check_pod(objects, objects["Deployment", "pccl-master"])
    peers = objects["StatefulSet", "pccl-peer"]
    peer = _check_pod(objects, peers)

    pods = {
        kind: objects[key]["spec"]["template"]
        for kind, key in (("master", ("Deployment", "pccl-master")), ("peer", ("StatefulSet", "pccl-peer")))}
    for (kind, name), found in objects.items():
        if kind not in ("Service", "PodDisruptionBudget"):
            continue
        selector = found["spec"]["selector"]
        labels = selector if kind == "Service" else selector["matchLabels"]
        chosen = [pod for pod in pods.values() if pod["metadata"]["labels"] == labels]
        check(len(chosen) == 1, f"{kind} {name} selects {len(chosen)} of the two")
        named = {port["name"]: port["containerPort"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        for port in found["spec"].get("ports", []):
            check(named.get(port["targetPort"]) == port["port"], f"{kind} {name}: port {port}")
    check(objects["Service", peers["spec"]["serviceName"]]["spec"]["clusterIP"] == "None", "the peers' is not headless")

    # What the programs know of it: options, the ports they take by themselves, the variables.
    helped = subprocess.run([case.tools.master, "--help"], capture_output=True, text=True).stdout
    check(all(word in helped for word in master["args"] if word.startswith("--")), f"options: {master['args']}")
    where = {mount["name"]: mount["mountPath"] for mount in master["volumeMounts"]}
    check(master["args"][master["args"].index("--keys") + 1] == where["keys"], "the master's keys are elsewhere")
    check(f"STATE_DIRECTORY={where['journal']}" in (_ROOT / "Dockerfile").read_text(), "the journal is elsewhere")
    known = (_ROOT / "Sources" / "pccl" / "Doctor" / "KnownVariables.swift").read_text()
    env = {variable["name"]: variable["value"] for variable in peer["env"]}
    check(all(f'"{name}"' in known for name in env), f"variables: {env}")
    check(env["PCCL_KEYS"] == peer["volumeMounts"][0]["mountPath"], "the peers' keys are elsewhere")
    host, port = env["PCCL_MASTER"].split(":")
    service = objects["Service", host]["spec"]["ports"]
    check(int(port) in [entry["port"] for entry in service if entry["name"] == "master"], "the master is elsewhere")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _example(case: Case) -> str:
    """docs/examples/peer.c, compiled."""
    prefix = Path(case.tools.master).parents[1]
    program = str(case.logs / "peer")
    subprocess.run(
        [os.environ.get("CC", "cc"), str(_ROOT / "docs/examples/peer.c"), f"-I{prefix}/include", "-o", program,
         f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib", "-lpccl"], check=True)
    return program


def _ended(case: Case, process: subprocess.Popen) -> Tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=case.seconds_left())
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f"{process.args} did not end") from None
    return process.returncode, out, err


def _averages(text: str) -> List[str]:
    return re.findall(r"^round \d+: 2 peers, average (\S+)$", text, re.MULTILINE)


def a_slurm_task_starts_its_program_again_and_ends_with_it(case: Case) -> None:
    def task(*command: str, **more: str) -> subprocess.Popen:
        env = {
            **os.environ, "PCCL_MASTER": f"127.0.0.1:{case.master.port}", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
            "SLURM_NTASKS": "2", **more}
        return subprocess.Popen(
            [str(_DEPLOY / "slurm" / "peer"), *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)

    status, out, err = _ended(case, task("sh", "-c", 'mkdir "$0" && exit 7; echo "$RANK/$WORLD_SIZE"', str(case.logs / "d")))
    check(status == 0 and out == "1/2\n" and "status 7, attempt 1 of 3" in err, f"status {status}: {out}{err}")
    status, _, err = _ended(case, task("sh", "-c", "exit 9", PEER_ATTEMPTS="2"))
    check(status == 9 and err.count("it ended with status 9") == 2, f"status {status}: {err}")
    status, _, err = _ended(case, task("true", PCCL_MASTER=f"127.0.0.1:{_free_port()}", MASTER_PATIENCE="0"))
    check(status == 1 and "no master answers" in err, f"status {status}: {err}")

    waiting = task("sh", "-c", "echo $$; exec sleep 1000")
    child = int(waiting.stdout.readline())
    waiting.send_signal(signal.SIGTERM)
    status, _, err = _ended(case, waiting)
    check(status == 143, f"status {status}: {err}")
    try:
        os.kill(child, 0)
        raise Failure("the program was left behind")
    except ProcessLookupError:
        pass


def _put(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def a_slurm_job_has_a_master_and_its_tasks(case: Case) -> None:
    bin = case.logs / "bin"
    bin.mkdir()
    _put(bin / "scontrol", "#!/bin/sh\n[ \"$*\" = 'show hostnames node[1-2]' ] && printf '127.0.0.1\\nnode2\\n'\n")
    # With --ntasks 1 it is the master's step; otherwise there are two tasks, as the job has them.
    _put(bin / "srun", """#!/usr/bin/env bash
tasks=2
while [ "${1#--}" != "$1" ]; do
    case $1 in
    --ntasks) tasks=$2; shift ;;
    --nodes | --nodelist) shift ;;
    esac
    shift
done
[ "$tasks" != 1 ] || exec "$@"
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=0 "$@" & done
wait -n && wait -n
""")
    env = {
        **os.environ, "PATH": f"{bin}:{Path(case.tools.master).parent}:{os.environ['PATH']}", "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(case.logs),
        "PCCL_SLURM_PEER": str(_DEPLOY / "slurm" / "peer"), "MASTER_PORT": str(_free_port())}
    job = subprocess.Popen(
        [str(_DEPLOY / "slurm" / "run.sbatch"), _example(case), "{master}", "2", "2{task}"], env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    status, out, err = _ended(case, job)
    check(status == 0 and _averages(out) == ["20.5"] * 4, f"status {status}: {out}{err}")
    check("listening on" in err and (case.logs / "pccl-7.journal").exists(), f"no master: {err}")


def torchrun_is_asked_for_the_peers_of_one_machine(case: Case) -> None:
    fake = case.logs / "torchrun"
    _put(fake, "#!/bin/sh\necho \"$@\"\n")
    env = {**os.environ, "TORCHRUN": str(fake), "PCCL_MASTER": "hub:48148", "PEERS": "2"}
    said = subprocess.run(
        [str(_DEPLOY / "torchrun.sh"), "train.py", "--lr", "a b"], env=env, capture_output=True, text=True).stdout
    check(
        said == "--standalone --nnodes 1 --nproc-per-node 2 --max-restarts 3 train.py --lr a b\n", f"torchrun {said}")
    env.pop("PCCL_MASTER")
    done = subprocess.run([str(_DEPLOY / "torchrun.sh"), "train.py"], env=env, capture_output=True, text=True)
    check(done.returncode != 0 and "PCCL_MASTER" in done.stderr, f"without a master: {done}")
