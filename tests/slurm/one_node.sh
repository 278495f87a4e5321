#!/usr/bin/env bash
# A Slurm of one node on this machine, from Debian's packages (apt-get install slurm-wlm munge), as root, in a container
# as well: no cgroups, no accounting, nothing but the loopback. It says that it has 16 CPUs and four GPUs, or fewer if
# asked, whatever there is.
#   tests/slurm/one_node.sh start FOLDER [GPUS]
#   tests/slurm/one_node.sh stop FOLDER
# Snakemake's job steps drop SLURM_CONF, so /etc/slurm/slurm.conf is a link into the folder meanwhile. A machine that
# has one is left alone.
set -euo pipefail
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
gpus=${3:-4}
host=$(hostname -s)
default=/etc/slurm/slurm.conf

stop() {
  for name in slurmd slurmctld munged; do
    [ ! -s "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
  done
  [ "$(readlink "$default")" != "$folder/slurm.conf" ] || rm "$default"
}

configure() {
  mkdir -p "$folder/state" "$folder/spool"
  chmod 755 "$folder"
  cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=30
InactiveLimit=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=128000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  # It asks for devices; these are some that every machine has.
  printf "NodeName=$host Name=gpu File=/dev/%s\n" null zero full random | head -n "$gpus" >"$folder/gres.conf"
  printf 'CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' >"$folder/cgroup.conf"
}

start() {
  if [ -e "$default" ]; then
    echo "$default: this machine has a Slurm" >&2
    exit 1
  fi
  configure
  mkdir -p "$(dirname "$default")"
  ln -sf "$folder/slurm.conf" "$default"
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  export SLURM_CONF=$folder/slurm.conf # beside which the daemons look for the other files
  slurmctld
  slurmd
  for _ in $(seq 60); do
    ! sinfo --noheader --format=%t 2>/dev/null | grep -q '^idle$' || exit 0
    sleep 0.5
  done
  tail -n 20 "$folder"/*.log >&2
  stop
  exit 1
}

"$action"
