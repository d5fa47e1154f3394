#!/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# /init of a guest in which Debian's own programs are the other side:
#   data/vchan                      libxenvchan serves an upper-casing echo
#   data/proxy                      vchan-socket-proxy serves; the bytes come back as they were
#   /local/domain/0/data/to-guest   libxenvchan connects to a server in dom0 and echoes
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/lib/modules-xen/$module"
done < /lib/modules-xen/order

mkfifo /tmp/back
while :; do
    vchan-socket-proxy -m server 0 data/proxy - < /tmp/back | cat > /tmp/back
    sleep 1
done &
while :; do
    vchan-peer echo client 0 /local/domain/0/data/to-guest -t 0 2>/dev/null
    sleep 1
done &
while :; do
    vchan-peer echo server 0 data/vchan
    echo "vchan-peer ended with status $?"
    sleep 1
done
