"""Processes that are killed with signal 9, peers and the master."""

from __future__ import annotations

import signal
from typing import Any, Dict, List, Optional

import pytest
from cluster import ProcessWorld, Worker, free_port

LARGE = 400_000  # elements; many segments, so that a kill finds an operation half done
VALUES = [1.0, 2.0, 4.0]  # each set of contributors has its own sum
HUGE = 16 << 20  # elements of 4 bytes; far more than may be under way while one peer stands still
SUMS = {3: 7.0, 2: 3.0}  # by world size, the last of the three being lost


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


def launch_around_a_halted_peer(world: ProcessWorld, of_first: str, of_second: str) -> float:
    """All three peers launch, and the last is stopped before the second has. Gives an element that the first then sees.

    The last cannot have reduced its share of the elements without the second's contributions: that operation can only
    end with its loss. The others can reduce what the last has sent of theirs, and that is awaited. If it has sent
    nothing, the master takes it for lost after some seconds, and the others reduce without it.
    """
    first, second, last = world.peers
    assert first.ask("launch", value=VALUES[0], count=HUGE, on_loss=of_first) == {"ok": True}
    assert last.ask("launch", value=VALUES[2], count=HUGE, on_loss=of_first) == {"ok": True}
    assert world.ask_all("fence") == [{"ok": True}] * 3
    last.process.send_signal(signal.SIGSTOP)
    assert second.ask("launch", value=VALUES[1], count=HUGE, on_loss=of_second) == {"ok": True}
    return float(first.ask("await_some", value=VALUES[0])["value"])


def check_promises(answers: List[Dict[str, Any]]) -> None:
    """Of one result at all survivors: a success, the same everywhere, and each element what its part says."""
    assert all(answer["ok"] for answer in answers), answers
    answer = answers[0]
    assert answers == [answer] * len(answers)
    assert answer["parts"] == [] or len(answer["parts"]) > 1
    parts = answer["parts"] or [[0, HUGE, answer["world_size"]]]
    assert answer["runs"] == [[first, count, SUMS[size]] for first, count, size in parts]


def test_with_resume_what_is_final_stays_and_the_survivors_finish_the_rest() -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        seen = launch_around_a_halted_peer(world, "RESUME", "RESUME")
        assert seen in SUMS.values()
        victim.kill()
        for peer in survivors:
            peer.tell("wait_described")
        answers = [peer.hear() for peer in survivors]
        check_promises(answers)
        assert answers[0]["world_size"] == 2
        if seen == SUMS[3]:  # It was final, so it is kept.
            assert {size for _, _, size in answers[0]["parts"]} == {3, 2}
        # And the next one is an ordinary one.
        for peer, value in zip(survivors, VALUES):
            peer.tell("reduce", value=value, count=LARGE)
        assert [peer.hear() for peer in survivors] == [{"ok": True, "world_size": 2, "values": [3.0]}] * 2


@pytest.mark.parametrize("of_first", ["RESUME_WHOLE", "RESUME"])
def test_with_resume_whole_at_one_peer_all_elements_are_of_the_same_peers(of_first: str) -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        launch_around_a_halted_peer(world, of_first, "RESUME_WHOLE")
        victim.kill()
        for peer in survivors:
            peer.tell("wait_described")
        answers = [peer.hear() for peer in survivors]
        check_promises(answers)
        assert answers[0]["world_size"] == 2 and answers[0]["parts"] == []


def test_abort_at_one_peer_holds_for_all() -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer, value, on_loss in zip(survivors, VALUES, ["RESUME", "ABORT"]):
            assert peer.ask("launch", value=value, count=LARGE, on_loss=on_loss) == {"ok": True}
        # Both have heard of the other's call when this has ended, and the third will never make it.
        assert world.ask_all("fence") == [{"ok": True}] * 3
        victim.kill()
        for peer, value in zip(survivors, VALUES):
            assert peer.ask("wait_described")["error"] == "RankConnectionLostError"
            assert peer.ask("values")["values"] == [value], "the input must be whole"


@pytest.mark.parametrize("on_loss", ["RESUME", "RESUME_WHOLE"])
@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_with_a_policy_to_resume_no_loss_is_told(on_loss: str, turn: int) -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer, value in zip(survivors, VALUES):
            peer.tell("loop_on_loss", value=value, count=HUGE, on_loss=on_loss, until_size=2)
        victim.tell("loop_halfway", value=VALUES[2], count=HUGE, on_loss=on_loss)
        for _ in range(turn):
            assert victim.hear() == {"halfway": True}
        # Wherever this strikes: most often in the operation of that turn, but no promise depends on it.
        victim.kill()
        answers = [peer.hear() for peer in survivors]
        assert all(answer["ok"] for answer in answers), answers
        first, second = (answer["results"] for answer in answers)
        assert len(first) == len(second) >= turn
        for results in zip(first, second):
            check_promises(list(results))
            assert on_loss == "RESUME" or results[0]["parts"] == []


def test_without_a_second_survivor_there_is_nothing_to_resume() -> None:
    with ProcessWorld(2) as world:
        survivor, victim = world.peers
        assert survivor.ask("launch", value=1, count=LARGE, on_loss="RESUME") == {"ok": True}
        victim.kill()
        assert survivor.ask("wait")["error"] == "RankConnectionLostError"
        assert survivor.ask("values")["values"] == [1.0], "the input must be whole"


@pytest.mark.parametrize("on_loss", [None, "ABORT", "RESUME", "RESUME_WHOLE"])
def test_several_tensors_survive_the_loss_of_a_peer(on_loss: Optional[str]) -> None:
    with ProcessWorld(3) as world:
        *survivors, victim = world.peers
        for peer, value in zip(survivors, VALUES):
            peer.tell("reduce_many", value=value, count=LARGE // 10, tensors=12, on_loss=on_loss)
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
