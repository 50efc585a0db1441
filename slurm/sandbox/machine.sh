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
wait_for() { # seconds, command...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then echo "error: $* still fails" >&2 && exit 1; fi
        sleep 0.2
    done
}

accounting() { # a database that listens on no port and knows no password: its socket asks the system who one is
    export MYSQL_UNIX_PORT=$dir/run/db.socket
    if [ ! -d "$dir/db/mysql" ]; then
        mariadb-install-db --no-defaults --user=root --basedir=/usr --datadir="$dir/db" --skip-test-db \
            >"$dir/log/db-install.log"
    fi
    mariadbd --no-defaults --user=root --datadir="$dir/db" --socket="$MYSQL_UNIX_PORT" --skip-networking \
        --pid-file="$dir/run/db.pid" --innodb-buffer-pool-size=32M --innodb-lock-wait-timeout=900 \
        >"$dir/log/db.log" 2>&1 &
    others=$!
    wait_for 60 test -S "$MYSQL_UNIX_PORT"
    slurmdbd -D &
    others="$! $others" # asked to end in this order
    wait_for 60 sacctmgr --immediate show cluster
    sacctmgr --immediate add cluster sandbox >/dev/null || true # known already after the first time
}

others=
if [ "$name" = controller ]; then
    munged --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed" --force
    if [ -e "$dir/slurmdbd.conf" ]; then accounting; fi
    # -c: an empty queue after a start, but job numbers go on, so that no old log or record is taken for a new job's.
    slurmctld -D -c &
else
    slurmd -D -N "$name" &
fi
daemon=$!
trap 'kill -TERM "$daemon"' TERM

ended() { # process: bash reaps orphans while it waits, as a machine's first process must; a trap ends `wait` early
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
}

ended "$daemon"
for daemon in $others; do
    kill -TERM "$daemon" || true
    ended "$daemon"
done
