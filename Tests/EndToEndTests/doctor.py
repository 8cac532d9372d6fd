"""`pccl doctor`: it says who answers and who does not, and a run does not notice that it was looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

from harness import Case, Failure, Worker, check, peer_port, reduce


def _doctor(case: Case, *arguments: str, env: Dict[str, str] = {}) -> Tuple[int, str, str]:
    tool = str(Path(case.tools.master).with_name("pccl"))
    try:
        done = subprocess.run(
            [tool, "doctor", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env={**os.environ, **case.env, **env}, timeout=case.seconds_left())
    except subprocess.TimeoutExpired:
        raise Failure(f"doctor {arguments} did not end") from None
    return done.returncode, done.stdout, done.stderr


def _findings(case: Case, *arguments: str, status: int, env: Dict[str, str] = {}) -> Dict[str, dict]:
    """By subject and area; the status must be that one, and go with what was found."""
    returned, out, err = _doctor(case, "--json", *arguments, env=env)
    check(returned == status, f"status {returned}, not {status}: {out}{err}")
    report = json.loads(out)
    findings = report["findings"]
    weights = ("ok", "note", "change", "fault")
    check(all(f["weight"] in weights and f["text"] for f in findings), f"findings: {findings}")
    faults: List[dict] = [f for f in findings if f["weight"] == "fault"]
    check(report["counts"]["fault"] == len(faults) and (status == 1) == bool(faults), f"faults: {faults}")
    check(all(f["commands"] and f["brings"] for f in faults), f"nothing to be done: {faults}")
    return {f["subject"]: f for f in findings}


def doctor_knows_the_living_from_the_dead(case: Case) -> None:
    case.env["PCCL_TRANSPORT"] = "auto"
    members: List[Worker] = case.world(2)
    master = f"master 127.0.0.1:{case.master.port}"
    peer = f"127.0.0.1:{peer_port(members[0])}"
    calls = ["--no-gpu", "--timeout", "30s", "--master", master.split()[1]]

    found = _findings(case, *calls, "--peer", peer, status=0)
    check(found[master]["weight"] == "ok" and found[master]["figures"]["same_host"], f"the master: {found[master]}")
    check(found[master]["figures"]["segment_bytes"] > 0, f"figures: {found[master]}")
    check(found[f"peer {peer}"]["weight"] == "ok", f"the peer: {found[f'peer {peer}']}")
    readable = found["process_vm_readv"]["weight"] == "ok"
    link = found[f"link to {peer}"]["figures"]["link"]
    check(link == ("memory" if readable else "tcp"), f"the link: {found[f'link to {peer}']}")
    reduce(members, 1000)

    # Taken for the other, each says what it is.
    found = _findings(case, "--no-gpu", "--master", peer, "--peer", master.split()[1], status=1)
    check("a peer answered" in found[f"master {peer}"]["text"], f"a peer as a master: {found}")
    reduce(members, 1000)

    case.master.signal(signal.SIGSTOP)
    found = _findings(case, "--no-gpu", "--timeout", "0.2s", "--master", master.split()[1], status=1)
    check("says nothing" in found[master]["text"], f"a master that stands still: {found[master]}")
    case.master.signal(signal.SIGCONT)
    case.master.kill()
    found = _findings(case, *calls, status=1)
    check("refused" in found[master]["text"], f"a master that is gone: {found[master]}")
    for member in members:
        member.kill()


def doctor_reads_the_environment_and_leaves_the_driver_alone(case: Case) -> None:
    missing = str(case.logs / "no-driver.so")
    env = {"PCCL_TIMEOT": "20", "PCCL_LIBCUDA": missing}
    found = _findings(case, env=env, status=0)
    check("PCCL_TIMEOUT" in found["PCCL_TIMEOT"]["text"], f"a misspelt variable: {found['PCCL_TIMEOT']}")
    check(missing in found["CUDA"]["text"], f"it has not looked for a driver: {found['CUDA']}")
    found = _findings(case, "--no-gpu", env=env, status=0)
    check(missing not in found["CUDA"]["text"], f"it has looked for a driver: {found['CUDA']}")
    status, out, err = _doctor(case, "--bandwidth", "much")
    check(status == 2 and not out and "--bandwidth much" in err, f"wrong options: status {status}, {out}{err}")
