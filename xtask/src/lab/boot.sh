# boot OPTIONS: the kernel boots to a program, with these options of the machine's.
boot() {
  /opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --memory 256M --cmdline console=hvc0 \
    --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio "$@" </dev/null
}
