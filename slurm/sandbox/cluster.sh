#!/usr/bin/env bash
# A real SLURM cluster on this one machine, for tests and for a try before the first submission. Needs root.
#
# The controller and each node run in a process tree of their own (Linux namespaces), with a hostname of their own; all
# files, keys and sockets are in one folder. /etc/slurm and a munge of the system are neither read nor changed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
uid=$(id -u)
default_dir=${XDG_STATE_HOME:+$XDG_STATE_HOME/pvdr-bench/slurm}
default_dir=${default_dir:-/tmp/pvdr-bench-slurm-${SUDO_UID:-$uid}} # the same with and without sudo

usage() {
    cat <<EOF
usage: cluster.sh COMMAND [OPTIONS]

  install          install the packages (Debian, Ubuntu)
  up               start what is not running, wait until all nodes are ready, print the line that selects the cluster
  down             stop everything; also after a crash. Logs stay in the folder
  status           what runs, nodes and queue (exit code 3: not running)
  env              print that line again:  eval "\$(cluster.sh env)"
  kill-node NAME   as if its power failed: jobs there are requeued after SlurmdTimeout
  start-node NAME  switch it on again

  --dir DIR        the cluster's folder ($default_dir); each folder is a cluster of its own

of \`up\`, read when the controller starts:
  --nodes N        nodes, named node1.. (2)
  --cpus N         CPUs of a node; may be more than this machine has (4)
  --gpus N         GPUs of a node: entries in SLURM's books, no device is needed (2)
  --gpu-type TYPE  their type (a100)
  --max-array N    MaxArraySize (1001): indices of an array are below it
  --grace SECONDS  between SIGTERM and the end of a preempted job (5)
  --accounting     with slurmdbd and a MariaDB of its own, for sacct; also of \`install\`
  --port N         first of the ports: the controller, each node, accounting (searched)
  --set KEY=VALUE  any line of slurm.conf; may be repeated, and stands over ours
EOF
}

die() { # message, hint, exit code
    echo "error: $1" >&2
    [ -z "${2:-}" ] || echo "  -> $2" >&2
    exit "${3:-1}"
}

need_root() { [ "$uid" = 0 ] || die "$1 needs root" "sudo $here/cluster.sh $1 ..." 4; }

need_programs() {
    local program missing=()
    for program in slurmctld slurmd sbatch munged unshare ${accounting:+slurmdbd mariadbd my_print_defaults}; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] || die "not installed: ${missing[*]}" \
        "$here/cluster.sh install${accounting:+ --accounting}" 4
    unshare --pid --fork --mount --uts true 2>/dev/null \
        || die "no namespaces here (a container without CAP_SYS_ADMIN?)" "docker run --privileged, or a VM" 4
}

# ------------------------------------------------------------------------------------------------ machines

# Machines are found by a mark in their environment: no file of process ids can be stale, lost, or name a stranger.
mark() { echo "PVDR_BENCH_SLURM_MACHINE=$dir:$1"; }

pids() { # of a machine's first processes and daemons; jobs are not listed, and die with the first process
    local file
    # Processes end while we look.
    { grep -lzxF "$(mark "$1")" /proc/[0-9]*/environ || true; } 2>/dev/null | while read -r file; do
        file=${file#/proc/}
        echo "${file%/environ}"
    done
}

runs() { [ -n "$(pids "$1")" ]; }

start_machine() {
    # Descriptor 9 is our lock. `setsid`: a terminal that closes must not take the cluster with it.
    env "$(mark "$1")" setsid unshare --pid --fork --kill-child=KILL --mount --mount-proc --uts \
        bash "$here/machine.sh" "$dir" "$1" </dev/null >>"$dir/log/$1.out" 2>&1 9>&- &
}

gone() { # true when the process ended; a zombie has
    local state
    state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
    [ "${state:0:1}" = Z ]
}

kill_machine() {
    local all pid
    all=$(pids "$1")
    for pid in $all; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in $all; do
        until gone "$pid"; do sleep 0.05; done # the first process ends after all others of its machine
    done
}

nodes() { sed -n 's/^NodeName=\([^ ]*\).*/\1/p' "$dir/slurm.conf" 2>/dev/null || true; }

need_node() {
    [ -n "$1" ] || die "which node?" "one of: $(nodes | xargs)" 2
    nodes | grep -qxF -- "$1" || die "no node $1 in $dir" "one of: $(nodes | xargs)" 2
}

# ------------------------------------------------------------------------------------------------ configuration

taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free() { # true when ports from $1 are free: controller, nodes, accounting; else `busy` is the first that is not
    for ((busy = $1; busy <= $1 + node_count + 1; busy++)); do
        if taken "$busy"; then return 1; fi
    done
}

choose_port() {
    if [ -n "$port" ]; then
        free "$port" || die "port $busy is taken" "another --port; without one, free ports are searched"
        return
    fi
    # The folder decides where the search begins, so that two clusters that start together do not meet.
    local start try
    start=$(($(printf %s "$dir" | cksum | cut -d' ' -f1) % 900))
    for ((try = 0; try < 900; try++)); do
        port=$((16000 + (start + try) % 900 * 16))
        if free "$port"; then return; fi
    done
    die "no free ports between 16000 and 30400"
}

configure() {
    local i g line storage='AccountingStorageType=accounting_storage/none'
    mkdir -p "$dir"/{run,log,state,gpu}
    chmod 755 "$dir" "$dir"/{run,log} # munge wants folders that only their owner writes; other users may submit
    [ -s "$dir/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    rm -f "$dir"/run/* "$dir"/munge.socket*

    { cat /etc/hosts && echo "127.0.0.1 controller $(seq -f node%g -s ' ' "$node_count")"; } >"$dir/hosts"
    : >"$dir/plugstack.conf"
    rm -f "$dir"/log/*.out
    : >"$dir/gres.conf"
    for ((g = 0; g < gpus; g++)); do
        ln -sfn /dev/null "$dir/gpu/$g" # any device will do: SLURM reads the index at the end of the name
        echo "Name=gpu Type=$gpu_type File=$dir/gpu/$g" >>"$dir/gres.conf"
    done

    rm -f "$dir/slurmdbd.conf"
    if [ -n "$accounting" ]; then
        storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + node_count + 1))
AccountingStoragePass=$dir/munge.socket
AccountingStorageTRES=gres/gpu"
        (umask 077 && cat >"$dir/slurmdbd.conf") <<EOF
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
DbdHost=controller
DbdAddr=127.0.0.1
DbdPort=$((port + node_count + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
EOF
    fi

    cat >"$dir/slurm.conf" <<EOF
# Written by cluster.sh up.
ClusterName=sandbox
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (120 by default). It must be longer than
# KillWait: a job that starts on a node where its last start still ends is held, and the node drained.
AuthInfo=socket=$dir/munge.socket,cred_expire=8
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
PlugStackConfig=$dir/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
$storage
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobs.txt

# Scheduling: soon, and often.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MaxArraySize=$max_array

# Short times, for tests.
KillWait=5
SlurmdTimeout=10
ReturnToService=2
UnkillableStepTimeout=20

GresTypes=gpu
SlurmdParameters=config_overrides
EOF
    for ((i = 1; i <= node_count; i++)); do
        mkdir -p "$dir/spool-node$i"
        line="NodeName=node$i NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=$((cpus * 4000))"
        [ "$gpus" = 0 ] || line+=" Gres=gpu:$gpu_type:$gpus"
        echo "$line State=UNKNOWN"
    done >>"$dir/slurm.conf"
    cat >>"$dir/slurm.conf" <<EOF
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=$grace State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
EOF
    # SLURM takes the last of several lines with one key.
    [ ${#settings[@]} = 0 ] || printf '%s\n' '# --set' "${settings[@]}" >>"$dir/slurm.conf"
}

# ------------------------------------------------------------------------------------------------ commands

ready() { # every node known, up and answering (a * says that it does not)
    local states
    states=$(sinfo -h -N -o '%N %T' 2>/dev/null | sort -u) || return 1
    [ -n "$states" ] && ! grep -Evq ' (idle|mixed|allocated|completing)$' <<<"$states"
}

wait_until() { # seconds, what, command...
    local begin=$SECONDS seconds=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        # A machine that is just being started cannot be seen yet.
        if [ $((SECONDS - begin)) -ge "$seconds" ] || { [ $((SECONDS - begin)) -ge 3 ] && ! runs controller; }; then
            tail -n 5 "$dir"/log/*.out >&2 || true
            die "$what" "logs: $dir/log"
        fi
        sleep 0.2
    done
}

up() {
    local machine
    need_root up
    need_programs
    mkdir -p "$dir"
    [ -O "$dir" ] || die "$dir belongs to someone else" "another --dir"
    exec 9>"$dir/lock"
    flock 9
    if runs controller; then
        [ -z "$options" ] || echo "note: the controller runs already; options are read when it starts" >&2
    else
        stop # nodes of a controller that crashed
        choose_port
        configure
        start_machine controller
    fi
    wait_until 150 "the controller does not answer" scontrol ping
    for machine in $(nodes); do
        runs "$machine" || start_machine "$machine"
    done
    wait_until 60 "the nodes do not become ready" ready
    environment
}

stop() {
    local machine pid end=$((SECONDS + 10))
    for machine in $(nodes); do kill_machine "$machine"; done
    # The controller is asked first: it writes down which job numbers are used.
    for pid in $(pids controller); do
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != bash ] || kill -TERM "$pid" 2>/dev/null || true
    done
    while runs controller && [ "$SECONDS" -lt "$end" ]; do sleep 0.1; done
    kill_machine controller
    rm -f "$dir"/run/* "$dir"/munge.socket*
}

down() {
    need_root down
    [ -d "$dir" ] || die "no cluster in $dir"
    exec 9>"$dir/lock"
    flock 9
    stop
}

status() {
    local machine code=0
    for machine in controller $(nodes); do
        if runs "$machine"; then echo "$machine runs"; else echo "$machine is off" && code=3; fi
    done
    if runs controller; then
        sinfo -N -o '%8N %12T %5c %8m %12G %P'
        squeue -o '%.12i %.9P %.20j %.8T %.9M %.12l %R'
    fi
    return $code
}

environment() { echo "export SLURM_CONF=$(printf %q "$dir/slurm.conf")"; }

install() {
    need_root install
    if (need_programs) 2>/dev/null; then return; fi
    command -v apt-get >/dev/null \
        || die "no apt-get here" "install what holds slurmctld, slurmd, sbatch and munged by hand" 4
    apt-get update -qq
    # shellcheck disable=SC2086 # several packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge ${accounting:+slurmdbd mariadb-server-core mariadb-client-core} >/dev/null
}

number() { [[ $2 =~ ^[0-9]+$ ]] || die "$1 $2: not a number" "" 2; }

command=${1:-} dir=$default_dir port='' node_count=2 cpus=4 gpus=2 gpu_type=a100 max_array=1001 grace=5 name=''
settings=() options='' accounting=''
case $command in '' | -h | --help | help) usage && exit 0 ;; esac
shift
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --accounting) accounting=1 options=given ;;
        -*)
            [ $# -gt 1 ] || die "$1 needs a value" "" 2
            case $1 in
                --dir) dir=$2 ;;
                --port) port=$2 && number "$1" "$2" ;;
                --nodes) node_count=$2 && number "$1" "$2" ;;
                --cpus) cpus=$2 && number "$1" "$2" ;;
                --gpus) gpus=$2 && number "$1" "$2" ;;
                --gpu-type) gpu_type=$2 ;;
                --max-array) max_array=$2 && number "$1" "$2" ;;
                --grace) grace=$2 && number "$1" "$2" ;;
                --set) settings+=("$2") ;;
                *) die "no option $1" "cluster.sh --help" 2 ;;
            esac
            [ "$1" = --dir ] || options=given
            shift
            ;;
        *)
            [ -z "$name" ] || die "what is $1?" "cluster.sh --help" 2
            name=$1
            ;;
    esac
    shift
done
if [ "$node_count" -lt 1 ] || [ "$node_count" -gt 14 ]; then die "--nodes $node_count: 1 to 14" "" 2; fi
dir=$(realpath -m -- "$dir")
[[ $dir != *[[:space:],=#]* ]] || die "$dir: slurm.conf cannot hold it" "a --dir without blanks, commas, = and #" 2
[ ${#dir} -le 80 ] || die "$dir: too long for the path of a socket" "a --dir of at most 80 characters" 2
export SLURM_CONF=$dir/slurm.conf

case $command in
    up | down | status | install) [ -z "$name" ] || die "what is $name?" "cluster.sh --help" 2 ;;&
    up | down | status | install) "$command" ;;
    env) [ -e "$SLURM_CONF" ] || die "no cluster in $dir" "$here/cluster.sh up" && environment ;;
    kill-node) need_root kill-node && need_node "$name" && kill_machine "$name" ;;
    start-node)
        need_root start-node && need_node "$name"
        runs "$name" || start_machine "$name"
        ;;
    *) die "no command $command" "cluster.sh --help" 2 ;;
esac
