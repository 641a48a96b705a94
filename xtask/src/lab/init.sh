#!/bin/busybox sh
# First process of the lab: the modules, the root file system, the share.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
while read -r module; do
  $b insmod "/modules/$module.ko" || echo "lab: the module $module cannot be loaded"
done </modules/order
$b mount -t ext4 -o noatime /dev/vda /newroot || { echo "lab: no root file system"; exec $b sh; }
for share in jobs products; do
  $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none $share /newroot/lab/$share
done
$b mount --move /dev /newroot/dev
$b umount /proc
# Tests take it away and bring it back.
$b cp /modules/kvm_hv.ko /newroot/lab/
exec $b switch_root /newroot /lab/init
