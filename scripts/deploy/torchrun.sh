#!/usr/bin/env bash
# Peers of one machine, started by torchrun: one for each GPU, or as many as PEERS says.
#
#     PCCL_MASTER=hub.example:48148 [PCCL_KEYS=pccl-keys] [PEERS=2] scripts/deploy/torchrun.sh train.py [ARGUMENT...]
#
# To be called on each machine by itself. torchrun ends all of its processes when one of them fails, so it is not given
# the whole run: machines know each other through the master alone, and what is lost with one of them is that one.
# torchrun starts it again, up to RESTARTS times (3 if not set), and it joins anew.
#
# For a program that uses the communicator of `pccl`. One that uses the backend of torch.distributed has to know all of
# its ranks, and is started as torch has it, with one torchrun for all machines and PCCL_MASTER set at each.
set -euo pipefail

: "${PCCL_MASTER:?is not set: host:port of the master}"
if [ $# -eq 0 ]; then
    echo "$0: which program? $0 PROGRAM.py [ARGUMENT...]" >&2
    exit 2
fi
peers=${PEERS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
[ "$peers" -gt 0 ] || peers=1
exec "${TORCHRUN:-torchrun}" --standalone --nnodes 1 --nproc-per-node "$peers" --max-restarts "${RESTARTS:-3}" "$@"
