#!/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# /init of a guest that is measured: for each link to dom0 a server of either library, at
# data/load/<ring order>/<library here>-<library in dom0>, one client after the other.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/lib/modules-xen/$module"
done < /lib/modules-xen/order

# The largest rings take 513 pages each, and the driver gives 1024 in all.
echo 4096 > /sys/module/xen_gntalloc/parameters/limit

serve() {
    while :; do
        "$1" server 0 "data/load/$2" "${2%/*}"
        echo "$1 at $2 ended with status $?"
        sleep 0.2
    done
}
for order in 16 20; do
    serve vchan-load $order/c-c &
    serve vchan-load $order/c-rust &
    serve rust-load $order/rust-c &
    serve rust-load $order/rust-rust &
done
while :; do
    sleep 3600
done
