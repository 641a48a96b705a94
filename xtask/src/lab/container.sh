# A container's life in a micro-VM under KVM, through containerd. Every line that says "is" or "fails" is checked; the first that is not so ends this.
set -eu
dir=$(mktemp -d /tmp/pb-XXXXXX)
export PATH=/opt/paperboat/bin:$PATH PAPERBOAT_CONFIG=$dir/config.yaml
cat >"$dir/config.yaml" <<YAML
kernel: /opt/paperboat/vmlinux
initramfs: /opt/paperboat/initramfs.cpio
state_dir: $dir/p
backend: kvm
YAML
cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/c.sock"
TOML
ctr() { command ctr --address "$dir/c.sock" "$@"; }
is() {
  [ "$2" = "$3" ] || { echo "FAILED: $1 is $2, not $3"; tail -n 30 "$dir/containerd.log"; exit 1; }
  echo "$1 is $2"
}
paperboat check
containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
engine=$!
trap 'kill $engine' EXIT
until ctr version >/dev/null 2>&1; do kill -0 $engine; sleep 0.2; done
ctr images import --no-unpack /opt/paperboat/images/busybox.tar >/dev/null
image=paperboat.local/busybox:latest
runtime=io.containerd.paperboat.v1

status=0
ctr run --rm --runtime $runtime $image first sh -c 'uname -r; grep ^cpu /proc/cpuinfo; dmesg; exit 7' >"$dir/output" || status=$?
is "the exit status" $status 7
cat "$dir/output"
grep -q -- -paperboat "$dir/output"
grep -q 'hash-mmu: Initializing hash mmu' "$dir/output"
grep -q 'backend=kvm' "$dir/containerd.log"

ctr run --detach --runtime $runtime $image second sleep 1000
is "the task" "$(ctr task ls | awk '$1 == "second" { print $3 }')" RUNNING
is "what an exec prints" "$(ctr task exec --exec-id e second echo from an exec)" "from an exec"
status=0
ctr task exec --exec-id f second sh -c 'exit 3' || status=$?
is "an exec's status" $status 3
ctr task kill --signal KILL second
tries=0
while ctr task ls | grep -q 'second.*RUNNING' && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.2; done
# ctr reports the status as a warning.
is "what the killed task left" "$(ctr task delete second 2>&1 | grep -o 'exit code 137')" "exit code 137"
ctr container delete second
is "what is left of the pods" "$(ls "$dir/p" | wc -l)" 0
is "machines left" "$(pgrep -c paperboat-vmm || true)" 0
