"""DiLoCo with processes that are killed with signal 9, stopped, or cut off, and with a master that is.

Peers take their steps when they are told to, so that each test knows where all of them are. Each leaves the crew at the
end of a round.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest
from cluster import Worker, free_port

EVERY = 4
MODES: Dict[str, Dict[str, Any]] = {
    "synchronous": {},
    "delayed": {"mode": "delayed"},
    # What is launched in a round arrives in the next, unless peers meet before.
    "streaming": {"mode": "streaming", "fragments": 2, "overlap": 3, "check_every": 2},
}
# Many segments, so that a kill may find a transfer half done.
LARGE = [300_000]
SCRIPT = Path(__file__).with_name("diloco_worker.py")
# A dead time of one second: who is silent for so long is taken for lost.
IMPATIENT = {"PCCL_TIMEOUT": "1"}


class Crew:
    """A master, and peers that train together. Each is a process."""

    def __init__(
        self, size: int, options: Optional[Dict[str, Any]] = None, environment: Optional[Dict[str, str]] = None
    ) -> None:
        self.options: Dict[str, Any] = {"sync_every": EVERY, "minimum_peers": max(size, 2), **(options or {})}
        self.environment = environment
        self.address = f"127.0.0.1:{free_port()}"
        self.workers: List[Worker] = []
        try:
            self.master = self.start_master()
            self.peers = [self.start() for _ in range(size)]
            for peer in self.peers:
                self.tell_begin(peer)
            check_alike([peer.hear() for peer in self.peers])
        except BaseException:
            self.close()
            raise

    def start_master(self) -> Worker:
        self.workers.append(Worker("master", self.address, environment=self.environment))
        assert self.workers[-1].hear() == {"ok": True}
        return self.workers[-1]

    def start(self) -> Worker:
        self.workers.append(Worker("peer", self.address, SCRIPT, self.environment))
        return self.workers[-1]

    def tell_begin(self, peer: Worker) -> None:
        peer.tell("begin", index=self.workers.index(peer), shape=LARGE, **self.options)

    def await_newcomer(self, members: List[Worker]) -> Worker:
        """One that waits to be admitted at the end of the members' round."""
        newcomer = self.start()
        self.tell_begin(newcomer)
        self.ask(members, "await_pending")
        return newcomer

    def admit(self) -> Worker:
        """A newcomer that has joined, at the end of a round, and holds what the members do."""
        newcomer = self.await_newcomer(self.peers)
        self.train(self.peers)
        self.check_joined(newcomer)
        return newcomer

    def check_joined(self, newcomer: Worker) -> None:
        """It has begun with what the members hold."""
        wanted = self.peers[0].ask("state")
        assert newcomer.hear() == wanted and wanted["world_size"] == len(self.peers) + 1

    def train(self, peers: List[Worker], steps: int = EVERY, **arguments: Any) -> List[Dict[str, Any]]:
        for peer in peers:
            peer.tell("train", steps=steps, **arguments)
        return self.trained(peers)

    def trained(self, peers: List[Worker]) -> List[Dict[str, Any]]:
        """The rounds of peers that were told to train, which saw the same."""
        answers = [peer.hear() for peer in peers]
        check_alike(answers)
        return answers[0]["rounds"]

    def wait_inside(self, peers: List[Worker], steps: int) -> None:
        """Peers that take so many steps, and wait in the last one."""
        for peer in peers:
            peer.tell("train", steps=steps, tells=True)
        for peer in peers:
            assert peer.hear() == {"inside": True}

    def check_goes_on(self) -> None:
        """All rounds are by the survivors, and they hold the same."""
        rounds = self.train(self.peers, 2 * EVERY)
        assert len({found["hash"] for found in rounds}) == len(rounds), "each changes something"
        assert rounds[-1]["world_size"] == len(self.peers), rounds

    def ask(self, peers: List[Worker], do: str, **arguments: Any) -> List[Dict[str, Any]]:
        for peer in peers:
            peer.tell(do, **arguments)
        answers = [peer.hear() for peer in peers]
        assert all(answer["ok"] for answer in answers), answers
        return answers

    def close(self) -> None:
        # The master last: others would say that it is lost.
        for worker in reversed(self.workers):
            worker.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def check_alike(answers: List[Dict[str, Any]]) -> None:
    assert all(answer["ok"] for answer in answers), answers
    assert answers == answers[:1] * len(answers)


@pytest.fixture(scope="module", params=MODES)
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Two peers in each mode, which all tests of the mode go on with."""
    with Crew(2, MODES[request.param]) as crew:
        yield crew


def test_a_peer_killed_while_it_waits_to_join_harms_nobody(crew: Crew) -> None:
    newcomer = crew.await_newcomer(crew.peers)
    newcomer.kill()
    crew.check_goes_on()


def test_a_newcomer_killed_while_it_is_let_in_harms_nobody(crew: Crew) -> None:
    newcomer = crew.await_newcomer(crew.peers)
    for peer in crew.peers:
        peer.tell("train", steps=EVERY)
    # Wherever this strikes.
    newcomer.kill()
    crew.trained(crew.peers)
    crew.check_goes_on()


def test_a_newcomer_killed_right_after_it_has_joined_harms_nobody(crew: Crew) -> None:
    newcomer = crew.admit()
    newcomer.kill()
    crew.check_goes_on()


def test_a_peer_killed_between_inner_steps_is_missing_from_then_on(crew: Crew) -> None:
    victim = crew.admit()
    crew.train([*crew.peers, victim], EVERY - 2)
    victim.kill()
    crew.train(crew.peers, 2)
    crew.check_goes_on()


def test_a_peer_killed_while_its_contribution_is_on_its_way_harms_nobody(crew: Crew) -> None:
    victim = crew.admit()
    mode = crew.options.get("mode")
    if mode == "streaming":
        # The second fragment is launched after half of the round.
        assert victim.ask("train", steps=EVERY // 2 + 1)["ok"]
        victim.kill()
        crew.train(crew.peers)
    elif mode == "delayed":
        rounds = crew.train([*crew.peers, victim])
        assert rounds[-1]["world_size"] == 3
        victim.kill()
    else:
        crew.wait_inside([victim], EVERY)
        victim.kill()
        crew.train(crew.peers)
    crew.check_goes_on()


def test_a_peer_stopped_and_killed_while_others_wait_for_it_lets_them_go_on(crew: Crew) -> None:
    victim = crew.admit()
    crew.train([*crew.peers, victim], 1)
    victim.process.send_signal(signal.SIGSTOP)
    crew.wait_inside(crew.peers, EVERY - 1)
    victim.kill()
    crew.trained(crew.peers)
    crew.check_goes_on()


def test_a_peer_killed_at_a_boundary_keeps_no_newcomer_out(crew: Crew) -> None:
    victim = crew.admit()
    newcomer = crew.await_newcomer([*crew.peers, victim])
    victim.process.send_signal(signal.SIGSTOP)
    crew.wait_inside(crew.peers, EVERY)
    victim.kill()
    crew.trained(crew.peers)
    crew.check_joined(newcomer)
    rounds = crew.train([*crew.peers, newcomer], 2 * EVERY)
    assert rounds[-1]["world_size"] == 3
    newcomer.kill()
    crew.check_goes_on()


def test_a_peer_killed_inside_of_a_boundary_keeps_no_newcomer_out(crew: Crew) -> None:
    victim = crew.admit()
    newcomer = crew.await_newcomer([*crew.peers, victim])
    crew.wait_inside([victim], EVERY)
    victim.kill()
    crew.train(crew.peers)
    crew.check_joined(newcomer)
    newcomer.kill()
    crew.check_goes_on()


def test_the_first_peer_killed_while_it_waits_for_a_second_one_harms_nobody() -> None:
    with Crew(0) as crew:
        first, second, third = (crew.start() for _ in range(3))
        crew.tell_begin(first)
        # Whoever is let in first, and whether two have begun when it dies: the others are two in the end.
        crew.tell_begin(second)
        first.kill()
        crew.tell_begin(third)
        # The second may have begun with the first, and is at its first step then.
        second.tell("train", steps=EVERY)
        third.tell("train", steps=EVERY)
        answers = [second.hear(), third.hear()]
        assert all(answer["ok"] for answer in answers), answers
        answers = [second.hear(), third.hear()]
        assert all(answer["ok"] for answer in answers), answers
        crew.peers = [second, third]
        assert second.ask("state")["world_size"] == 2


def test_a_lonely_survivor_waits_for_another_peer_and_goes_on_with_it() -> None:
    with Crew(2) as crew:
        survivor, victim = crew.peers
        crew.train(crew.peers)
        victim.kill()
        # One outer step is its own; then it waits.
        survivor.tell("train", steps=EVERY)
        newcomer = crew.start()
        crew.tell_begin(newcomer)
        rounds = crew.trained([survivor])
        assert [found["world_size"] for found in rounds] == [1]
        crew.peers = [survivor]
        crew.check_joined(newcomer)
        crew.peers.append(newcomer)
        crew.check_goes_on()


def test_a_lonely_survivor_loses_its_patience() -> None:
    with Crew(2, {"patience": 0.2}) as crew:
        survivor, victim = crew.peers
        victim.kill()
        assert survivor.ask("train", steps=EVERY)["error"] == "TooFewPeersError"


def test_a_lonely_survivor_without_a_master_is_told_so() -> None:
    with Crew(2, environment={"PCCL_MASTER_GRACE": "0"}) as crew:
        survivor, victim = crew.peers
        victim.kill()
        survivor.tell("train", steps=EVERY, tells=True)
        assert survivor.hear() == {"inside": True}
        crew.master.kill()
        assert survivor.hear()["error"] == "MasterConnectionFailedError"


@pytest.mark.parametrize("mode", MODES)
def test_one_goes_on_alone_where_that_was_asked_for(mode: str) -> None:
    with Crew(1, {**MODES[mode], "minimum_peers": 1}) as crew:
        crew.check_goes_on()
        crew.peers.append(crew.admit())
        crew.check_goes_on()
        crew.peers.pop().kill()
        crew.check_goes_on()
        crew.peers.append(crew.admit())
        crew.check_goes_on()


@pytest.mark.parametrize("mode", MODES)
def test_a_peer_that_was_cut_off_comes_back_by_itself(mode: str) -> None:
    with Crew(2, MODES[mode], IMPATIENT) as crew:
        others, stopped = list(crew.peers), crew.admit()
        crew.peers.append(stopped)
        crew.train(crew.peers)
        stopped.process.send_signal(signal.SIGSTOP)
        # They wait for it until it is taken for lost.
        crew.train(others, 2 * EVERY)
        stopped.process.send_signal(signal.SIGCONT)
        stopped.tell("train_until_back")
        crew.ask(others, "await_pending")
        crew.train(others)
        assert stopped.hear() == others[0].ask("state")
        rounds = crew.train(crew.peers, 2 * EVERY)
        assert rounds[-1]["world_size"] == 3


@pytest.mark.parametrize("mode", MODES)
def test_training_goes_on_with_a_master_that_is_started_again(mode: str) -> None:
    with Crew(2, MODES[mode]) as crew:
        crew.train(crew.peers, EVERY - 1)
        crew.master.kill()
        # At the boundary they look for it.
        crew.wait_inside(crew.peers, 1)
        crew.master = crew.start_master()
        crew.trained(crew.peers)
        crew.peers.append(crew.admit())
        crew.check_goes_on()


@pytest.mark.parametrize("mode", MODES)
def test_training_goes_on_without_a_master(mode: str) -> None:
    with Crew(2, MODES[mode], {"PCCL_MASTER_GRACE": "0"}) as crew:
        crew.train(crew.peers)
        crew.master.kill()
        crew.check_goes_on()
