"""Runs the cases: `ok NAME (seconds)`, `skipped NAME: why` or `FAILED NAME: why` for each, and a count at the end."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import bench
import chaos
import data
import demos
import deploy
import doctor
import failover
import keys
import labs
import losses
import masters
import membership
import security
import strangers
import watching
from harness import Case, Failure, Skip, Tools

DEFAULT_LIMIT_SECONDS = 60


def over_tcp(function):
    """The same case with peers that do not read each other's memory, as if each had a machine of its own."""

    def run_over_tcp(case: Case) -> None:
        case.env["PCCL_TRANSPORT"] = "tcp"
        function(case)

    run_over_tcp.limit_seconds = getattr(function, "limit_seconds", DEFAULT_LIMIT_SECONDS)
    return run_over_tcp


def under_tls(function):
    """The same case where everybody shows a certificate and knows a token."""

    def run_under_tls(case: Case) -> None:
        case.env.update(security.shows("both", security.TOKEN), PCCL_TRANSPORT="tcp")
        function(case)

    run_under_tls.limit_seconds = getattr(function, "limit_seconds", DEFAULT_LIMIT_SECONDS)
    return run_under_tls


# Each of those that move data or change who belongs to a group; `--secure` runs all.
UNDER_TLS = (data.four_stripes, failover.failover, losses.kill_of_2, losses.leave_with_operations_in_flight,
             membership.join_under_load_asking_first, masters.master_returns,
             masters.master_returns_without_a_journal, strangers.garbage_on_every_port)


def _is_case(function, name: str, module) -> bool:
    return (inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
            and list(inspect.signature(function).parameters) == ["case"])


def all_cases() -> dict:
    """The public functions of the case modules that take one case, in the order in which they are written. Those that move
    data come twice, for the two ways it may take, unless they are long."""
    cases = {}
    modules = (
        bench, chaos, data, demos, deploy, doctor, failover, keys, losses, membership, masters, security, strangers,
        watching, labs)
    for module in modules:
        for name, function in vars(module).items():
            if _is_case(function, name, module):
                cases[name] = function
                if module in (data, losses) and not getattr(function, "is_long", False):
                    cases[name + "_over_tcp"] = over_tcp(function)
                if function in UNDER_TLS:
                    cases[name + "_under_tls"] = under_tls(function)
    return cases


def run(name: str, function, tools: Tools) -> str:
    """One of "passed", "failed", "skipped"."""
    limit = getattr(function, "limit_seconds", DEFAULT_LIMIT_SECONDS)
    case = Case(name, tools, limit)
    started = time.monotonic()
    # Should the driver itself be stuck: every wait of a case ends by itself well before.
    signal.alarm(limit + 60)
    try:
        function(case)
        case.finish()
        print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
        return "passed"
    except Skip as reason:
        print(f"skipped {name}: {reason}", flush=True)
        return "skipped"
    except Exception as error:
        print(f"FAILED {name} ({time.monotonic() - started:.1f} s): {error}", flush=True)
        if not isinstance(error, Failure):
            traceback.print_exc(file=sys.stdout)
        signal.alarm(0)
        print("\n".join("    " + line for line in case.describe().splitlines()), flush=True)
        return "failed"
    finally:
        signal.alarm(0)
        case.close()


def stuck(_signal, _frame) -> None:
    raise Failure("the driver was stuck")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--master", required=True, help="the pccl-master to start")
    parser.add_argument("--worker", required=True, help="the compiled worker")
    parser.add_argument("--logs", required=True, type=Path, help="a folder for the processes' logs")
    parser.add_argument("--seed", type=int, help="of all random choices; a fresh one if not given")
    parser.add_argument("--secure", action="store_true", help="everybody shows a certificate and knows a token")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("cases", nargs="*", help="names or patterns; all cases if none is given")
    options = parser.parse_args()
    cases = all_cases()
    if options.secure:
        cases = {name: under_tls(function) for name, function in cases.items()
                 if function.__module__ in ("data", "losses", "membership", "masters")}
    if options.list:
        print("\n".join(cases))
        return 0
    chosen = [name for name in cases if not options.cases or any(fnmatch.fnmatch(name, p) for p in options.cases)]
    if not chosen:
        print(f"no case is called {' or '.join(options.cases)}", file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGALRM, stuck)
    # Who ends it early still wants nothing left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tools = Tools(options.master, options.worker, options.logs, seed)
    started = time.monotonic()
    outcomes = [run(name, cases[name], tools) for name in chosen]
    skipped = outcomes.count("skipped")
    print(f"all cases: {time.monotonic() - started:.0f} s" + (f", {skipped} skipped" if skipped else ""))
    print(f"{outcomes.count('passed')} passed, {outcomes.count('failed')} failed")
    return 1 if "failed" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
