# A container's life in a micro-VM under KVM, through containerd. Every line that says "is" or "fails" is checked; the first that is not so ends this.
start_engine
paperboat check
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
