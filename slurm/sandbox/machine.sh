#!/usr/bin/env bash
# The first process of one machine of the sandbox, in namespaces of its own (cluster.sh starts it): machine.sh DIR NAME
#
# A machine has a process tree, a hostname and an /etc/hosts of its own; network and files are shared. When this process
# is killed, the kernel kills all that runs on the machine, daemons that left their session included: a power cut.
set -euo pipefail
dir=$1 name=$2
export SLURM_CONF=$dir/slurm.conf

hostname "$name"
mount --bind "$dir/hosts" /etc/hosts # jobs find controller and nodes by name, the host's own file stays as it is
if [ "$name" = controller ]; then
    munged --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed" --force
    # -c: an empty queue after a start, but job numbers go on, so that no old log or record is taken for a new job's.
    slurmctld -D -c &
else
    slurmd -D -N "$name" &
fi
daemon=$!
trap 'kill -TERM "$daemon"' TERM
# Bash reaps orphans while it waits, as the first process of a machine must. A trap ends `wait` early, hence the loop.
while kill -0 "$daemon" 2>/dev/null; do wait "$daemon" || true; done
