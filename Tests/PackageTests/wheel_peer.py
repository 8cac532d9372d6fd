"""A peer for wheel.sh: an all-reduce and a shared state with another one, and a look at which libraries serve them."""

import hashlib
import os
import ssl  # Brings the system's libcrypto along, which must not be mistaken for the bundled one.
import sys

os.environ["PCCL_STATE_HASH"] = "sha256"

import numpy
import pccl

address, value = sys.argv[1], int(sys.argv[2])
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442") and ssl.OPENSSL_VERSION
with pccl.Communicator(address) as communicator:
    communicator.connect(attempts=30)
    done = 0
    while done < 20:
        vector = numpy.full(100_000, value, dtype=numpy.float32)
        try:
            info = communicator.all_reduce(vector, op=pccl.ReduceOp.AVG)
        except pccl.TooFewPeersError:
            pass
        else:
            assert info.world_size == 2 and (vector == 1.5).all(), (info, vector[:4])
            done += 1
        if done < 20 and communicator.are_peers_pending():
            communicator.update_topology()
    # One of two contents wins, and its chunks travel, compressed by libzstd and hashed by libcrypto.
    weights = numpy.full(1_000_000, value, dtype=numpy.float32)
    communicator.sync_shared_state(pccl.SharedState.from_mapping({"weights": weights}, revision=0))
    assert weights[0] in (1, 2) and (weights == weights[0]).all()

with open("/proc/self/maps") as maps:
    libraries = {line.split()[-1] for line in maps if ".so" in line}
bundled = sorted(os.path.basename(path) for path in libraries if "/pccl.libs/" in path)
assert [name.partition("-")[0] for name in bundled] == ["libcrypto", "libuv", "libzstd"], bundled
assert not [path for path in libraries if path.startswith(("/lib", "/usr/lib")) and "libuv" in path]
print(f"ok: two peers reduced 20 times and synchronised a state, with {', '.join(bundled)}")
