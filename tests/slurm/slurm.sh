#!/usr/bin/env bash
# A SLURM of one node on this machine (Debian, root): slurm.sh start FOLDER, then SLURM_CONF=FOLDER/slurm.conf; stop FOLDER.
set -euo pipefail
action=${1:?start or stop} folder=$(realpath -m "${2:?folder for its files}")

install() {
    command -v slurmctld slurmd munged > /dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
}

configure() {
    mkdir -p "$folder"/{state,spool,log}
    local node
    node=$(hostname -s)
    cat > "$folder/slurm.conf" << CONF
ClusterName=hpv
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=36817
SlurmdPort=36818
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=5
MinJobAge=300
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem:/ {print $2}') State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
    install
    configure
    if ! munge -n > /dev/null 2>&1; then
        mkdir -p /run/munge
        chown munge /run/munge
        runuser -u munge -- munged
    fi
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    slurmd
    for _ in $(seq 100); do
        [ "$(sinfo -h -o %T 2> /dev/null)" = idle ] && exit
        sleep 0.2
    done
    tail -n 20 "$folder"/log/*.log >&2
    exit 1
}

stop() {
    for name in slurmd slurmctld; do
        [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")"
    done
    exit 0
}

"$action"
