# A host on which no guest with a hashed page table can run: probe, check and a container's creation say why, in $WORDS.
start_engine
uname -a
grep -E '^(cpu|platform|MMU)' /proc/cpuinfo
getconf PAGE_SIZE
ls -l /dev/kvm || true
says "the probe" 1 "$WORDS" paperboat-vmm probe
says "the check" 1 "$WORDS" paperboat check
says "a container" 1 "$WORDS" run first
is "what is left of the pods" "$(ls "$dir/p" 2>/dev/null | wc -l)" 0
