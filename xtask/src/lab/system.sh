#!/bin/sh
# Process 1 of the lab once its root file system is there: mounts, then jobs, and a shell on the console.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
echo lab >/proc/sys/kernel/hostname
echo "+cpu +memory +pids +io" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
mkdir -p /run/netns /opt/paperboat

# As systemd gives it to services: each file that a guest remembers is a descriptor of its machine.
ulimit -Hn 524288

# A job is a directory of the share. The port says its name and its limit in seconds; output and status go to the share.
serve() {
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = jobs ] && exec <"/dev/${port##*/}"
  done
  while read -r job limit; do
    (
      cd /root || exit
      dir=/lab/jobs/$job
      timeout --kill-after=5 "$limit" sh "$dir/script" </dev/null >"$dir/output" 2>&1
      echo $? >"$dir/status.new"
      mv "$dir/status.new" "$dir/status"
    ) &
  done
}
serve &
: >/lab/jobs/ready
while :; do
  setsid -c sh -i </dev/hvc0 >/dev/hvc0 2>&1
  sleep 1
done
