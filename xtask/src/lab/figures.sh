# Figures of the lab: each line of the output is a figure's name, ours or peer, and one measured value.
# RUNS and QEMU come before this text. The clock counts instructions. CPU is all that the machine was busy with, from /proc/stat: nothing else runs here.
busy() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
wall() { awk '{ print $1 }' /proc/uptime; }
# cost FIGURE WHO WORDS COMMAND: what the command costs, which must print the words. It runs TIMES times: both clocks tick in hundredths.
TIMES=5
cost() {
  figure=$1 who=$2 words=$3 times=0
  shift 3
  busy=$(busy) wall=$(wall)
  while [ $times -lt $TIMES ]; do
    times=$((times + 1))
    "$@" >"$dir/output" 2>&1 </dev/null || { echo "$*: status $?"; tail -n 30 "$dir/output"; exit 1; }
  done
  echo "$busy $(busy) $wall $(wall)" |
    awk -v f="$figure" -v w="$who" -v n="$times" '{ print f ".cpu", w, ($2 - $1) / 100 / n; print f ".wall", w, ($4 - $3) / n }'
  [ -z "$words" ] || grep -q "$words" "$dir/output" || { echo "$*: no $words"; tail -n 30 "$dir/output"; exit 1; }
}
machine() {
  paperboat-vmm run --backend kvm --bare --memory 512M --cmdline "$1" --kernel /opt/paperboat/vmlinux --initrd "/opt/paperboat/$2"
}
boot_ours() { machine "console=hvc0 quiet" userland.cpio; }
boot_peer() { eval "$QEMU"; }

run=0
while [ $run -lt "$RUNS" ]; do
  run=$((run + 1))
  cost boot ours "userland reached" boot_ours
  cost boot peer "userland reached" boot_peer
done

# What the machine needs beside its guest: the maps of its process while the guest's first program waits.
machine console=hvc0 pause.cpio >"$dir/console" 2>&1 </dev/null &
until grep -q "Run /init" "$dir/console"; do kill -0 $!; sleep 0.5; done
sleep 5
pid=$(pgrep paperboat-vmm)
sed "s/^/maps /" "/proc/$pid/smaps"
kill "$pid"
wait || true

start_engine
run=0
while [ $run -lt "$RUNS" ]; do
  run=$((run + 1))
  cost ctr_run ours "" ctr run --rm --runtime $runtime $image "ours$run" true
  cost ctr_run peer "" ctr run --rm --runtime io.containerd.runc.v2 $image "peer$run" true
done
