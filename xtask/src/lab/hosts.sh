# Hosts that cannot run hash guests under KVM, and what each is told: `paperboat check` and a container's creation say why, and the cure.
start_engine
paperboat check
paperboat-vmm probe

chmod 600 /dev/kvm
unprivileged="setpriv --reuid 65534 --regid 65534 --clear-groups"
says "the probe of a user" 1 "run as root or as a member of the group" $unprivileged paperboat-vmm probe
says "the check of a user" 1 "run as root or as a member of the group" $unprivileged paperboat check

busybox rmmod kvm_hv
says "the probe without kvm_hv" 1 "modprobe kvm_hv" paperboat-vmm probe
says "the check without kvm_hv" 1 "modprobe kvm_hv" paperboat check
says "a container without kvm_hv" 1 "modprobe kvm_hv" run first
busybox insmod /lab/kvm_hv.ko

mv /dev/kvm /dev/kvm.away
says "the check without the device" 1 "there is no /dev/kvm" paperboat check
says "a container without the device" 1 "there is no /dev/kvm" run second
mv /dev/kvm.away /dev/kvm
run third
is "what is left of the pods" "$(ls "$dir/p" 2>/dev/null | wc -l)" 0
