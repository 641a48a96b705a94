# What the lab's scripts share: a private containerd with Paperboat, `ctr` that speaks to it, and checks that end the script.
set -eu
dir=$(mktemp -d /tmp/pb-XXXXXX)
chmod 755 "$dir"
export PATH=/opt/paperboat/bin:$PATH PAPERBOAT_CONFIG=$dir/config.yaml
runtime=io.containerd.paperboat.v1
image=paperboat.local/busybox:latest
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
# is WHAT FOUND EXPECTED
is() {
  [ "$2" = "$3" ] || { echo "FAILED: $1 is $2, not $3"; tail -n 30 "$dir/containerd.log"; exit 1; }
  echo "$1 is $2"
}
start_engine() {
  containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
  engine=$!
  trap 'kill $engine' EXIT
  until ctr version >/dev/null 2>&1; do kill -0 $engine; sleep 0.2; done
  ctr images import /opt/paperboat/images/busybox.tar >/dev/null
}
