"""Processes that are killed with signal 9, peers and the master."""

from __future__ import annotations

import pytest
from cluster import ProcessWorld, Worker, free_port

LARGE = 400_000  # elements; many segments, so that a kill finds an operation half done
VALUES = [1.0, 2.0, 4.0]  # each set of contributors has its own sum


def test_processes_reduce() -> None:
    with ProcessWorld(2) as world:
        for peer, value in zip(world.peers, VALUES):
            peer.tell("reduce", value=value, count=LARGE)
        assert [peer.hear() for peer in world.peers] == [{"ok": True, "world_size": 2, "values": [3.0]}] * 2


def test_a_peer_killed_before_it_contributed_is_an_error_and_the_retry_works() -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        # Both survivors have entered the operation when the third dies without having done so: nobody can finish it,
        # and nobody can begin it anew in silence.
        for peer, value in zip(survivors, VALUES):
            assert peer.ask("launch", value=value, count=LARGE) == {"ok": True}
        victim.kill()
        for peer, value in zip(survivors, VALUES):
            answer = peer.ask("wait")
            assert answer["error"] == "RankConnectionLostError", answer
            assert peer.ask("values")["values"] == [value], "the input must be whole"
            assert peer.ask("world_size")["world_size"] == 2
        for peer, value in zip(survivors, VALUES):
            peer.tell("reduce", value=value, count=LARGE)
        assert [peer.hear() for peer in survivors] == [{"ok": True, "world_size": 2, "values": [3.0]}] * 2


@pytest.mark.parametrize("turns_before_the_kill", [1, 4])
def test_a_peer_killed_in_mid_loop_costs_no_result(turns_before_the_kill: int) -> None:
    sums = {3: [7.0], 2: [3.0]}
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer, value in zip(world.peers, VALUES):
            peer.tell("loop", value=value, count=LARGE, until_size=2, successes=5)
        for _ in range(turns_before_the_kill):
            assert victim.hear()["values"] == sums[3]
        victim.kill()
        ends = []
        for peer in survivors:
            while True:
                answer = peer.hear()
                assert answer["ok"], answer
                if "finished" in answer:
                    ends.append((answer["losses"], answer["total"]))
                    break
                assert answer["values"] == sums[answer["world_size"]], answer
        # The same verdict on every operation: as many errors, as many results.
        assert ends[0] == ends[1]


def test_several_tensors_survive_the_loss_of_a_peer() -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer, value in zip(survivors, VALUES):
            peer.tell("reduce_many", value=value, count=LARGE // 10, tensors=12)
        victim.kill()
        for peer in survivors:
            answer = peer.hear()
            assert answer["ok"] and answer["world_size"] == 2, answer
            assert answer["values"] == [[3.0 * (i + 1)] for i in range(12)]


def test_the_last_survivor_is_told_that_it_is_alone() -> None:
    with ProcessWorld(2) as world:
        survivor, victim = world.peers
        assert survivor.ask("launch", value=1, count=LARGE) == {"ok": True}
        victim.kill()
        assert survivor.ask("wait")["error"] == "RankConnectionLostError"
        assert survivor.ask("reduce", value=1, count=LARGE)["error"] == "TooFewPeersError"
        assert survivor.ask("world_size")["world_size"] == 1


def test_a_killed_peer_is_replaced_by_a_newcomer() -> None:
    with ProcessWorld(2) as world:
        survivor, victim = world.peers
        assert survivor.ask("launch", value=1, count=10) == {"ok": True}
        victim.kill()
        assert survivor.ask("wait")["error"] == "RankConnectionLostError"
        newcomer = Worker("peer", world.address)
        world.workers.append(newcomer)
        newcomer.tell("join", size=2)
        survivor.tell("rejoin", size=2)
        assert [newcomer.hear(), survivor.hear()] == [{"ok": True}] * 2
        survivor.tell("reduce", value=1, count=10)
        newcomer.tell("reduce", value=2, count=10)
        assert [survivor.hear(), newcomer.hear()] == [{"ok": True, "world_size": 2, "values": [3.0]}] * 2


def test_without_the_master_collectives_go_on_and_join_points_fail() -> None:
    with ProcessWorld(2) as world:
        world.master.kill()
        for peer, value in zip(world.peers, VALUES):
            peer.tell("reduce", value=value, count=LARGE)
        assert [peer.hear() for peer in world.peers] == [{"ok": True, "world_size": 2, "values": [3.0]}] * 2
        answers = world.ask_all("update_topology")
        assert [answer.get("error") for answer in answers] == ["UpdateTopologyFailedError"] * 2, answers


def test_a_newcomer_that_waits_when_the_master_dies_is_told_so() -> None:
    address = f"127.0.0.1:{free_port()}"
    workers = [Worker("master", address)]
    try:
        master = workers[0]
        assert master.hear() == {"ok": True}
        member = Worker("peer", address)
        workers.append(member)
        assert member.ask("join", size=1) == {"ok": True}
        newcomer = Worker("peer", address)
        workers.append(newcomer)
        newcomer.tell("connect")
        assert member.ask("await_pending") == {"ok": True}
        master.kill()
        assert newcomer.hear()["error"] == "MasterConnectionFailedError"
    finally:
        for worker in workers:
            worker.close()
