# Debian's own kernels, and ours in little memory: each comes to a shell in which commands run, loses a CPU, and powers off.
# boots KERNEL CPUS MEMORY
boots() {
    rm -f /tmp/console /tmp/status
    begun=$(cut -d. -f1 /proc/uptime)
    {
        until grep -q '\[ready\]' /tmp/console 2>/dev/null || [ -e /tmp/status ]; do sleep 1; done
        echo 'echo "here is $(uname -r) with $(nproc)"'
        [ "$2" = 1 ] || echo 'echo 0 >/sys/devices/system/cpu/cpu1/online; echo "left is $(cat /sys/devices/system/cpu/online)"'
        echo 'poweroff -f'
        until [ -e /tmp/status ]; do sleep 1; done
    } | {
        timeout 900 /opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --stats --cpus "$2" --memory "$3" --cmdline 'console=hvc0 quiet' \
            --kernel "$1" --initrd /opt/paperboat/shell.cpio >/tmp/console 2>&1
        echo $? >/tmp/status
    }
    echo "$1 with $2 CPUs and $3 took $(($(cut -d. -f1 /proc/uptime) - begun)) s"
    # As the guest printed it, not as it was typed.
    if [ "$(cat /tmp/status)" = 0 ] && tr -d '\r' </tmp/console | grep -E "^here is [0-9.]+[^ ]* with $2$" &&
        { [ "$2" = 1 ] || tr -d '\r' </tmp/console | grep '^left is 0$'; }; then
        return 0
    fi
    echo "$1 with $2 CPUs and $3: exit status $(cat /tmp/status)"
    cat /tmp/console
    return 1
}
boots /opt/paperboat/vmlinux 1 64M &&
    boots /opt/paperboat/kernels/stock-6.1 2 96M &&
    boots /opt/paperboat/kernels/stock-6.12-4k 2 96M &&
    boots /opt/paperboat/kernels/stock-6.12-64k 2 96M
