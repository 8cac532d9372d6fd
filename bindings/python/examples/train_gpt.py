"""Trains a small GPT on the novels of Jane Austen, in several processes that average seldom, while some are killed.

By hand, on as many machines as you like; start and stop peers while it runs:

    pccl-master
    python train_gpt.py peer --master 192.0.2.1:48148 --mode streaming --codec e3m0 --steps 100000
    python train_gpt.py peer --master 192.0.2.1:48148 --mode streaming --codec e3m0 --steps 100000 --seed 2

One experiment on this machine: a master, four peers, and with --churn two that are killed and two that join:

    python train_gpt.py run --mode delayed --churn

All of them, a plot, and a verdict (`make example`):

    python train_gpt.py all

Needs torch, and matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, TextIO, Tuple

import torch
from torch import nn
from torch.nn import functional

import pccl
from pccl.diloco import DiLoCo, RoundInfo

# ---------------------------------------------------------------------------------------------------------------------
# The text

# Six novels, 3.8 MB. Their copyright has expired; the package is under the MIT licence.
PACKAGE = "r-cran-janeaustenr"
NOVELS = Path("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")


def find_novels(cache: Path) -> Path:
    """The file of the Debian package: the installed one, else one that is downloaded and unpacked below ``cache``."""
    for root in (Path("/"), cache):
        if (root / NOVELS).exists():
            return root / NOVELS
    cache.mkdir(parents=True, exist_ok=True)
    try:
        # Nothing is installed, so neither command needs to be root.
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=cache, check=True)
        (package,) = cache.glob(f"{PACKAGE}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(cache)], check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as reason:
        raise SystemExit(f"cannot get the package {PACKAGE} ({reason}); name any large text with --text") from None
    return cache / NOVELS


def read_novels(path: Path) -> bytes:
    """The lines of all character vectors in an R data base: per object a length, and zlib data of R's XDR format."""
    database, lines, at = path.read_bytes(), [], 0
    while at < len(database):
        inflater = zlib.decompressobj()
        content = inflater.decompress(database[at + 4 :])
        at = len(database) - len(inflater.unused_data)
        # "X\n", three versions, the name of the encoding; then the vector: its type, its length, its strings.
        (name,) = struct.unpack_from(">I", content, 14)
        kind, count = struct.unpack_from(">II", content, 18 + name)
        assert kind == 16, f"{path} holds an object of type {kind}, not a character vector"
        cursor = 26 + name
        for _ in range(count):
            _, length = struct.unpack_from(">II", content, cursor)
            lines.append(content[cursor + 8 : cursor + 8 + length])
            cursor += 8 + length
    return b"\n".join(lines)


@dataclass
class Text:
    """Bytes to train on and, from the end of the text, others to validate with."""

    training: torch.Tensor
    validation: torch.Tensor

    @classmethod
    def load(cls, options: argparse.Namespace) -> Text:
        content = options.text.read_bytes() if options.text else read_novels(find_novels(options.cache))
        whole = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        cut = len(whole) * 19 // 20
        return cls(whole[:cut], whole[cut:])


def windows(text: torch.Tensor, starts: torch.Tensor, length: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Bytes from each start, and the bytes that follow each of them."""
    taken = text[starts[:, None] + torch.arange(length + 1)].long()
    return taken[:, :-1], taken[:, 1:]


# ---------------------------------------------------------------------------------------------------------------------
# The model: 478,000 parameters, which two cores train with 10,000 to 25,000 bytes a second

WIDTH, LAYERS, HEADS, CONTEXT = 96, 4, 4, 64
BATCH = 4
TOKENS_PER_STEP = BATCH * CONTEXT
LEARNING_RATE, WARM_UP_STEPS = 3e-3, 50
# DiLoCo's usual momentum of 0.9 is for runs of hundreds of rounds; in forty it overshoots. What arrives a round late is
# measured from parameters that the round before it has moved already, in about the same direction: with momentum on
# top of that the loss goes up, so the delayed mode has none.
OUTER: Dict[str, Dict[str, Any]] = {
    "synchronous": {"outer_momentum": 0.7},
    "delayed": {"outer": "descent", "outer_learning_rate": 0.7},
    "streaming": {"outer_momentum": 0.7},
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        heads = self.attend(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(x.shape))
        return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))


class GPT(nn.Module):
    """Predicts the next byte. The same weights in every process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=WIDTH**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.bytes(x) + self.places.weight[: x.shape[1]])
        return functional.linear(self.norm(hidden), self.bytes.weight)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Nats per byte."""
        return functional.cross_entropy(self(x).flatten(0, 1), y.flatten())


# ---------------------------------------------------------------------------------------------------------------------
# A peer


class Peer:
    """What a training program has anyway, and a log of JSON lines."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        self.text = Text.load(options)
        self.model = GPT()
        # A second model to validate with: in some modes the outer parameters are not those that are trained.
        self.outer = GPT()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.warm_up = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS)
        )
        self.random = torch.Generator().manual_seed(options.seed)
        self.steps = 0
        self.sent_bytes = 0
        self._log: Optional[TextIO] = open(options.log, "w") if options.log else None

    def backward(self) -> None:
        starts = torch.randint(len(self.text.training) - CONTEXT, (BATCH,), generator=self.random)
        self.model.loss(*windows(self.text.training, starts, CONTEXT)).backward()

    def step(self) -> None:
        """One step of the inner optimizer; DiLoCo does its part in here."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.warm_up.step()
        self.steps += 1

    def validate(self, parameters: Mapping[str, torch.Tensor], count: int) -> float:
        """The loss with these parameters on ``count`` windows, always the same."""
        with torch.no_grad():
            for name, parameter in self.outer.named_parameters():
                parameter.copy_(parameters[name])
            starts = torch.linspace(0, len(self.text.validation) - CONTEXT - 1, count).long()
            losses = [self.outer.loss(*windows(self.text.validation, some, CONTEXT)) for some in starts.split(32)]
        return float(torch.stack(losses).mean())

    def tell(self, event: str, round: int, parameters: Mapping[str, torch.Tensor], digest: str, world: int) -> None:
        """Validates, and writes a line. The last one is of more windows, for the comparison of whole runs."""
        line = {
            "event": event,
            "round": round,
            "world": world,
            "tokens": self.steps * TOKENS_PER_STEP,
            "loss": self.validate(parameters, 1024 if event == "end" else 64),
            "sent": self.sent_bytes,
            "hash": digest,
            "time": time.time(),
        }
        if self._log is not None:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        print(f"{event} {round}: {world} peers, loss {line['loss']:.4f}, {self.sent_bytes:,} bytes sent", flush=True)

    def is_over(self, round: int) -> bool:
        """Whether the run ends after this round. The answer is the same at all peers."""
        if self.options.end is None:
            return round >= int(self.options.steps) // int(self.options.sync_every)
        # Whoever directs the run writes it two rounds ahead or more, so that no peer looks too early.
        try:
            return round >= int(self.options.end.read_text())
        except (FileNotFoundError, ValueError):
            return False


def gather(communicator: pccl.Communicator, size: int) -> None:
    """Begins with ``size`` peers. All of them run it, so that they make the same joint calls."""
    communicator.connect(attempts=60)
    while communicator.world_size < size:
        if communicator.are_peers_pending():
            communicator.update_topology()
        else:
            time.sleep(0.01)


def train_with_diloco(peer: Peer, communicator: pccl.Communicator) -> None:
    options = peer.options
    diloco = DiLoCo(
        peer.model,
        peer.optimizer,
        communicator,
        mode=options.mode,
        sync_every=options.sync_every,
        codec=options.codec,
        **OUTER[options.mode],
    )

    world = 0

    def on_round(info: RoundInfo) -> None:
        nonlocal world
        world = info.world_size
        peer.sent_bytes += info.tx_bytes

    def tell(event: str) -> None:
        peer.tell(event, diloco.round, diloco.outer_parameters(), diloco.parameters_hash(), world)

    diloco.on_round = on_round
    with diloco:
        world = communicator.world_size
        # A peer that joins a run has the outer parameters of the others now.
        tell("begin")
        is_over = False
        while not is_over:
            peer.backward()
            peer.step()
            # Here members meet those who join: all have the same outer parameters.
            if peer.steps % options.sync_every == 0:
                tell("round")
                is_over = peer.is_over(diloco.round)
    # What was in flight is part of them now.
    tell("end")


def train_with_every_step(peer: Peer, communicator: Optional[pccl.Communicator]) -> None:
    """The baseline: all peers average their gradients in each step. Without a communicator, training alone."""
    parameters = dict(peer.model.named_parameters())
    world = 1

    def tell(event: str, round: int) -> None:
        digest = hashlib.sha256()
        for parameter in parameters.values():
            digest.update(parameter.detach().numpy().tobytes())
        peer.tell(event, round, parameters, digest.hexdigest(), world)

    tell("begin", 0)
    round = 0
    while not peer.is_over(round):
        peer.backward()
        gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
        if communicator is not None:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            try:
                info = communicator.all_reduce(flat, op=pccl.ReduceOp.AVG, on_loss=pccl.OnLoss.RESUME)
                world = info.world_size
                peer.sent_bytes += info.tx_bytes
            except pccl.TooFewPeersError:
                world = 1
            for gradient, average in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(average.view_as(gradient))
        peer.step()
        # Not rounds of anything, but logged as often.
        if peer.steps % peer.options.sync_every == 0:
            round += 1
            tell("round", round)
    tell("end", round)


def run_peer(options: argparse.Namespace) -> None:
    peer = Peer(options)
    if options.mode == "none":
        train_with_every_step(peer, None)
        return
    with pccl.Communicator(options.master) as communicator:
        # Who joins a run is connected by DiLoCo, at the next round.
        if options.founders:
            gather(communicator, options.founders)
        if options.mode == "every-step":
            train_with_every_step(peer, communicator)
        else:
            train_with_diloco(peer, communicator)


# ---------------------------------------------------------------------------------------------------------------------
# The director of a run


PEERS = 4
# When so much of the tokens is trained: one peer is killed or started.
CHURN = ((0.20, "kill", "peer-1"), (0.30, "start", "peer-5"), (0.50, "kill", "peer-3"), (0.60, "start", "peer-6"))
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class Variant:
    mode: str
    codec: Optional[str] = None
    churn: bool = False

    def __str__(self) -> str:
        return " ".join([self.mode, *([self.codec] if self.codec else []), *(["churn"] if self.churn else [])])

    @property
    def without_churn(self) -> Variant:
        return Variant(self.mode, self.codec)


BASELINE = Variant("every-step")
VARIANTS = [BASELINE] + [
    Variant(mode, codec, churn)
    for mode, codec in (("synchronous", None), ("delayed", None), ("streaming", "e3m0"))
    for churn in (False, True)
]


@dataclass
class Outcome:
    """What is known of a run when it is over."""

    curve: List[Tuple[int, float]]
    """Tokens of all peers together, and the loss then."""
    final_loss: float
    tokens: int
    sent_bytes: int
    """By all peers together."""
    rounds: int
    worlds: List[int]
    """How many peers there were, from one change to the next."""
    seconds: float
    faults: List[str]
    events: List[Tuple[int, float, str]] = field(default_factory=list)
    """Tokens, loss, and what was done then."""


class Process:
    """A peer, and what it has logged so far."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.jsonl"
        self.output = folder / f"{name}.txt"
        self.log.write_text("")
        with open(self.output, "w") as output:
            self.popen = subprocess.Popen(
                [*command, "--log", str(self.log)], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        self.lines: List[Dict[str, Any]] = []
        self.killed = False
        self._read = 0

    def read(self) -> None:
        """Reads what is new; a line that is not whole yet waits."""
        with open(self.log) as log:
            log.seek(self._read)
            content = log.read()
        whole = content[: content.rfind("\n") + 1]
        self._read += len(whole)
        self.lines += [json.loads(line) for line in whole.splitlines()]

    def of(self, event: str) -> Dict[int, Dict[str, Any]]:
        """Lines of this event by their rounds."""
        return {line["round"]: line for line in self.lines if line["event"] == event}

    def tokens_until(self, round: int) -> int:
        return max((line["tokens"] for line in self.lines if line["round"] <= round), default=0)

    def kill(self) -> None:
        self.killed = True
        self.popen.kill()
        self.popen.wait()


class Director:
    """Runs one variant: starts the processes, kills and adds some, and checks what they say."""

    def __init__(self, variant: Variant, options: argparse.Namespace) -> None:
        self.variant, self.options = variant, options
        self.folder = options.output / str(variant).replace(" ", "-")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.peers: Dict[str, Process] = {}
        self.schedule = list(CHURN) if variant.churn else []
        self.done: List[Tuple[int, float, str]] = []

    # What happens

    def run(self) -> Outcome:
        began = time.monotonic()
        with open(self.folder / "master.txt", "w") as output:
            master = subprocess.Popen(
                [self.options.pccl_master, "--listen", "127.0.0.1", "--port", str(self.port), "--no-journal"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            for number in range(1, PEERS + 1):
                self.start(f"peer-{number}", founders=PEERS)
            while not self.is_over():
                if time.monotonic() - began > PATIENCE_SECONDS:
                    raise RuntimeError(f"{self.variant}: not over after {PATIENCE_SECONDS:.0f} s; see {self.folder}")
                self.follow_schedule()
                time.sleep(0.1)
        finally:
            for process in self.peers.values():
                process.kill()
            master.terminate()
            master.wait()
        return self.outcome(time.monotonic() - began)

    def start(self, name: str, founders: int = 0) -> None:
        options = self.options
        command = [sys.executable, __file__, "peer", "--master", f"127.0.0.1:{self.port}"]
        command += ["--mode", self.variant.mode, "--sync-every", str(options.sync_every)]
        command += ["--codec", self.variant.codec] if self.variant.codec else []
        command += ["--founders", str(founders), "--seed", name.split("-")[1], "--threads", "1"]
        command += ["--end", str(self.folder / "end"), "--cache", str(options.cache)]
        command += ["--text", str(options.text)] if options.text else []
        self.peers[name] = Process(name, command, self.folder)

    def is_over(self) -> bool:
        """Reads the logs. Whether all peers have ended; one that ended in another way than it should is an error."""
        for process in self.peers.values():
            ended = process.popen.poll()
            process.read()
            if not process.killed and ended not in (None, 0):
                last = "\n".join(process.output.read_text().splitlines()[-15:])
                raise RuntimeError(f"{self.variant}: {process.name} ended with status {ended}:\n{last}")
        return all(process.popen.poll() is not None for process in self.peers.values())

    def follow_schedule(self) -> None:
        round = self.last_round()
        tokens = self.tokens_until(round)
        if self.schedule and tokens >= self.schedule[0][0] * self.options.tokens:
            _, deed, name = self.schedule.pop(0)
            if deed == "kill":
                self.peers[name].kill()
            else:
                self.start(name)
            self.done.append((tokens, self.loss_at(round), f"{deed} {name}"))
        elif not self.schedule and not (self.folder / "end").exists():
            self.decide_end(round, tokens)

    def decide_end(self, round: int, tokens: int) -> None:
        """From the last change of the world on, it is known how many rounds make up the tokens that are wanted."""
        living = [process for process in self.peers.values() if not process.killed]
        if not all(process.of("round") for process in living):
            return
        per_round = len(living) * self.options.sync_every * TOKENS_PER_STEP
        last = round + math.ceil((self.options.tokens - tokens) / per_round)
        ahead = max(process.lines[-1]["round"] for process in living) + 2
        (self.folder / "end.new").write_text(str(max(last, ahead)))
        # In one move: a peer never reads half a number.
        (self.folder / "end.new").rename(self.folder / "end")

    # What is known

    def last_round(self) -> int:
        """The last one that all living peers have told of."""
        living = [process for process in self.peers.values() if not process.killed and process.lines]
        return min((process.lines[-1]["round"] for process in living), default=0)

    def tokens_until(self, round: int) -> int:
        """Trained by all peers together; what a peer did after its last round before it was killed is lost."""
        return sum(process.tokens_until(round) for process in self.peers.values())

    def loss_at(self, round: int) -> float:
        for event in ("round", "begin"):
            for process in self.peers.values():
                if round in process.of(event):
                    return float(process.of(event)[round]["loss"])
        return math.nan

    def outcome(self, seconds: float) -> Outcome:
        ends = [line for process in self.peers.values() for line in process.of("end").values()]
        if not ends:
            raise RuntimeError(f"{self.variant}: no peer came to the end")
        told = [process.of("round") for process in self.peers.values()]
        rounds = sorted({round for lines in told for round in lines})
        worlds: List[int] = []
        for round in rounds:
            world = next(lines[round]["world"] for lines in told if round in lines)
            if worlds[-1:] != [world]:
                worlds.append(world)
        return Outcome(
            curve=[(self.tokens_until(round), self.loss_at(round)) for round in rounds],
            final_loss=ends[0]["loss"],
            tokens=self.tokens_until(ends[0]["round"]),
            sent_bytes=sum(process.lines[-1]["sent"] for process in self.peers.values() if process.lines),
            rounds=ends[0]["round"],
            worlds=worlds,
            seconds=seconds,
            faults=self.faults(),
            events=self.done,
        )

    def faults(self) -> List[str]:
        """What must not be."""
        found: List[str] = []
        seen: Dict[Tuple[str, int], Tuple[str, float]] = {}
        for process in self.peers.values():
            for line in process.lines:
                # After the same round there is the same model, whoever holds it and however it came there: the line
                # "begin" of a peer that joined is held against the others' "round".
                event = "round" if line["event"] == "begin" and line["round"] > 0 else line["event"]
                this = (line["hash"], line["loss"])
                other = seen.setdefault((event, line["round"]), this)
                if this[0] != other[0]:
                    found.append(f"{process.name} has other outer parameters ({line['event']} {line['round']})")
                elif abs(this[1] - other[1]) > 1e-5:
                    found.append(f"{process.name} validates to {this[1]}, others to {other[1]} (round {line['round']})")
            if not process.killed and not process.of("end"):
                found.append(f"{process.name} did not come to the end")
        for deed, count in (("kill", 2), ("start", 2)) if self.variant.churn else ():
            if sum(what.startswith(deed) for _, _, what in self.done) != count:
                found.append(f"the run was over before all was done that was due ({deed})")
        for process in self.peers.values():
            others = [other for other in self.peers.values() if other is not process]
            for round in process.of("begin"):
                if round > 0 and not any(round in other.of("round") for other in others):
                    found.append(f"{process.name} joined after round {round}, which no other peer has told of")
        return found


def run_variant(variant: Variant, options: argparse.Namespace) -> Outcome:
    outcome = Director(variant, options).run()
    print(
        f"{variant}: loss {outcome.final_loss:.4f} after {outcome.tokens:,} tokens in {outcome.rounds} rounds of "
        f"{'-'.join(map(str, outcome.worlds))} peers, {outcome.sent_bytes:,} bytes sent, {outcome.seconds:.0f} s, "
        f"hashes {'differ' if outcome.faults else 'identical'}",
        flush=True,
    )
    for fault in outcome.faults:
        print(f"  {fault}", flush=True)
    return outcome


# ---------------------------------------------------------------------------------------------------------------------
# All variants


def in_words(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def draw(outcomes: Dict[Variant, Outcome], path: Path) -> None:
    """The loss over the tokens, a line for each variant: dashed with churn, with a mark for each kill and join."""
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text, and the same data make the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "train-gpt", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours = {"every-step": "black", "synchronous": "tab:blue", "delayed": "tab:orange", "streaming": "tab:green"}
    for variant, outcome in outcomes.items():
        label = f"{variant}: {in_words(outcome.sent_bytes)} sent"
        tokens, losses = zip(*((round(tokens / 1e6, 3), round(loss, 3)) for tokens, loss in outcome.curve if tokens))
        style = "--" if variant.churn else "-"
        axes.plot(tokens, losses, style, color=colours[variant.mode], linewidth=1.2, label=label)
        for deed, mark in (("kill", "x"), ("start", "^")):
            marked = [(tokens / 1e6, loss) for tokens, loss, what in outcome.events if what.startswith(deed)]
            if marked:
                axes.plot(*zip(*marked), mark, color=colours[variant.mode], markersize=6)
    axes.set_xlabel("million bytes trained, by all peers together (x: a peer is killed, triangle: one is started)")
    axes.set_ylabel("validation loss, nats per byte")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.grid(which="both", linewidth=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def verdict(outcomes: Dict[Variant, Outcome], options: argparse.Namespace) -> List[str]:
    """What is not as it should be."""
    wrong = [f"{variant}: {fault}" for variant, outcome in outcomes.items() for fault in outcome.faults]
    for variant, outcome in outcomes.items():
        calm = outcomes[variant.without_churn].final_loss
        if not abs(outcome.final_loss - calm) <= 0.05 * calm:
            wrong.append(f"{variant}: loss {outcome.final_loss:.4f}, without churn {calm:.4f}")
        if variant.mode == "streaming" and outcome.sent_bytes * 100 > outcomes[BASELINE].sent_bytes:
            wrong.append(f"{variant}: sent more than a hundredth of the baseline's bytes")
        if variant.mode == "streaming" and outcome.final_loss > 1.05 * outcomes[BASELINE].final_loss:
            wrong.append(f"{variant}: loss {outcome.final_loss:.4f}, the baseline's {outcomes[BASELINE].final_loss:.4f}")
    return wrong


def run_all(options: argparse.Namespace) -> int:
    began = time.monotonic()
    outcomes = {variant: run_variant(variant, options) for variant in VARIANTS}
    results = {str(variant): asdict(outcome) for variant, outcome in outcomes.items()}
    (options.output / "results.json").write_text(json.dumps(results))
    draw(outcomes, options.plot)
    print(f"\n{'variant':<22}{'loss':>8}{'tokens':>12}{'rounds':>8}  {'peers':<12}{'sent':>9}{'less by':>9}{'s':>6}")
    baseline = outcomes[BASELINE].sent_bytes
    for variant, outcome in outcomes.items():
        print(
            f"{str(variant):<22}{outcome.final_loss:>8.4f}{outcome.tokens:>12,}{outcome.rounds:>8}  "
            f"{'-'.join(map(str, outcome.worlds)):<12}{in_words(outcome.sent_bytes):>9}"
            f"{baseline / max(outcome.sent_bytes, 1):>9.0f}{outcome.seconds:>6.0f}"
        )
    wrong = verdict(outcomes, options)
    for line in wrong:
        print(line)
    streaming = outcomes[Variant("streaming", "e3m0")].sent_bytes
    hashes = "differ" if any(outcome.faults for outcome in outcomes.values()) else "identical"
    print(
        f"example: {'FAILED' if wrong else 'ok'} variants={len(outcomes)} peers={PEERS} tokens={options.tokens} "
        f"killed=2 joined=2 streaming=1/{baseline / max(streaming, 1):.0f} hashes={hashes} "
        f"plot={options.plot} seconds={time.monotonic() - began:.0f}"
    )
    return 1 if wrong else 0


# ---------------------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    root = Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(description="Trains a small GPT in several processes that come and go.")
    roles = parser.add_subparsers(dest="role", required=True)
    peer = roles.add_parser("peer", help="one process that trains")
    run = roles.add_parser("run", help="one variant: a master and four peers")
    all_ = roles.add_parser("all", help="all variants, a plot and a verdict")

    peer.add_argument("--master", default="127.0.0.1:48148", help="address of the master")
    peer.add_argument("--steps", type=int, default=1280, help="steps of the run; who joins late does fewer")
    peer.add_argument("--end", type=Path, help="instead: a file that will hold the round after which the run ends")
    peer.add_argument("--founders", type=int, default=0, help="wait for so many peers before the first step")
    peer.add_argument("--seed", type=int, default=1, help="which parts of the text this peer trains with")
    peer.add_argument("--log", type=Path, help="file for JSON lines")
    peer.add_argument("--threads", type=int, default=1)
    modes = ["none", "every-step", "synchronous", "delayed", "streaming"]
    for role in (peer, run):
        role.add_argument("--mode", choices=modes if role is peer else modes[1:], default="synchronous")
        role.add_argument("--codec", help="what of the pseudo-gradients travels: e3m0, int4, min-max8, ...")
    run.add_argument("--churn", action="store_true", help="kill two peers and start two others")
    all_.add_argument("--plot", type=Path, default=root / ".build/example/train-gpt.svg", help="SVG or PNG file")
    for role in (run, all_):
        role.add_argument("--tokens", type=int, default=2_949_120, help="bytes that all peers together train with")
        role.add_argument("--output", type=Path, default=root / ".build/example/runs", help="folder for logs")
        role.add_argument("--pccl-master", default=shutil.which("pccl-master") or str(root / "dist/bin/pccl-master"))
    for role in (peer, run, all_):
        role.add_argument("--sync-every", type=int, default=32, help="steps from one averaging to the next")
        role.add_argument("--text", type=Path, help="a text to train with, instead of the novels")
        role.add_argument("--cache", type=Path, default=root / ".build/example/text", help="folder for the novels")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.role == "peer":
        run_peer(options)
        return 0
    if not options.text:
        # Before there are peers, which would all look for it at once.
        find_novels(options.cache)
    if options.role == "all":
        return run_all(options)
    if options.mode == "every-step" and options.churn:
        raise SystemExit("the baseline admits nobody, so it cannot have churn")
    return 1 if run_variant(Variant(options.mode, options.codec, options.churn), options).faults else 0


if __name__ == "__main__":
    sys.exit(main())
