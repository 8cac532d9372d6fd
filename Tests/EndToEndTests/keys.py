"""`pccl keys`: what it makes is good for TLS 1.3 with both sides known, as Python's own TLS judges it."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from harness import Case, Failure, check, reduce


def _keys(case: Case, *arguments: object, status: int = 0) -> str:
    tool = str(Path(case.tools.master).with_name("pccl"))
    try:
        done = subprocess.run(
            [tool, "keys", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=case.seconds_left())
    except subprocess.TimeoutExpired:
        raise Failure(f"keys {arguments} did not end") from None
    check(done.returncode == status, f"keys {arguments}: status {done.returncode}: {done.stdout}{done.stderr}")
    check(bool(done.stderr) == (status == 1 and arguments[0] != "show") or status == 64, f"said: {done.stderr}")
    return done.stdout + done.stderr


def _end(folder: Path, is_server: bool) -> ssl.SSLContext:
    """One end of a connection, as a member of a run has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    context.load_verify_locations(folder / "ca.pem")
    context.load_verify_locations(folder / "revoked.pem")
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def _meet(server: Path, client: Path) -> Optional[str]:
    """What the client's certificate says of its role to the server; None if one of them turns the other away."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [_end(server, True).wrap_bio(up, down, server_side=True), _end(client, False).wrap_bio(down, up)]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return None
    check(not waiting and ends[0].version() == "TLSv1.3", "a handshake without an end")
    names = dict(ends[0].getpeercert()["subjectAltName"])
    return names.get("URI")


def keys_are_good_for_tls_until_they_are_revoked(case: Case) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        authority, hub, alpha, beta = (root / name for name in ("run", "run/hub", "run/alpha", "beta"))
        _keys(case, "init", authority)
        _keys(case, "issue", authority, "hub", "--role", "master")
        _keys(case, "issue", authority, "alpha", "--role", "peer")
        _keys(case, "issue", authority, "beta", "--role", "peer", "--out", beta, "--days", 10)
        check(os.stat(alpha / "key.pem").st_mode & 0o777 == 0o600, "the key can be read by others")
        check((_meet(hub, alpha), _meet(alpha, beta)) == ("pccl:peer", "pccl:peer"), "members turn each other away")
        check(_meet(alpha, hub) == "pccl:master", "the master is not known as one")
        check("yes, with" in _keys(case, "show", alpha), "show does not say that it is good")

        _keys(case, "init", root / "other")
        _keys(case, "issue", root / "other", "mallory", "--role", "peer")
        check(_meet(hub, root / "other/mallory") is None, "another authority's peer is let in")
        check(_meet(root / "other/mallory", alpha) is None, "another authority's master is believed")

        listed = _keys(case, "list", authority)
        check("within 14 days nothing good is left of: beta" in listed, f"list: {listed}")
        said = _keys(case, "revoke", authority, "alpha")
        check(str(hub / "revoked.pem") in said and str(beta) not in said, f"revoke: {said}")
        check(_meet(hub, alpha) is None and _meet(hub, beta) == "pccl:peer", "the wrong one was revoked")
        check("no: certificate revoked" in _keys(case, "show", alpha, status=1), "show does not see it")
        check(re.search(r"alpha .* revoked 20\d\d-", _keys(case, "list", authority)) is not None, "list does not either")

        _keys(case, "token", root / "token")
        token = (root / "token").read_text()
        check(re.fullmatch("[0-9a-f]{64}\n", token) is not None, f"a token: {token}")
        _keys(case, "token", root / "token", status=1)
        check((root / "token").read_text() == token, "a token was overwritten")
        _keys(case, "init", authority, status=1)
        _keys(case, "issue", authority, "a/b", "--role", "peer", status=64)


def keys_let_a_run_begin(case: Case) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        authority = Path(temporary) / "run"
        _keys(case, "init", authority)
        _keys(case, "issue", authority, "hub", "--role", "master")
        _keys(case, "issue", authority, "peers", "--role", "peer")
        _keys(case, "token", Path(temporary) / "token")
        case.env["PCCL_KEYS"] = str(authority / "peers")
        case.env["PCCL_TOKEN_FILE"] = str(Path(temporary) / "token")
        case.start_master(arguments=["--no-journal", "--keys", str(authority / "hub")])
        reduce(case.world(2), 1000)
