#!/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The soak on real Xen: the echo guest, and clients in dom0 of which some are killed.
#   soak.sh PV-OR-PVH GIB CLIENT-GIB SEED
cd /root || exit
kind=$1 gib=$2 client_gib=$3 seed=$4
# Every wake-up takes milliseconds here: the more bytes each moves, the better. Rings of a killed
# client may still be there when the next are made, and gntalloc gives 1024 pages in all.
rings="read-size=524288 write-size=524288"
case $kind in
pvh) guest=echo-linux-pvh ;;
*) guest=echo-linux ;;
esac
echo "@@rig start soak/$kind 120"
if ! xl create "xl/$guest.xl" "extra=\"console=hvc0 quiet panic=-1 $rings\"" >/run/xl-create.log 2>&1; then
    cat /run/xl-create.log
    echo "@@rig broken xl create xl/$guest.xl failed"
    exit
fi
domid=$(xl domid $guest)
until xenstore-exists "/local/domain/$domid/data/vchan/event-channel"; do
    sleep 1
done
read -r began _ </proc/uptime
# What is said on standard error goes to the console, and so to its log.
vchan-soak clients "$domid" --gib "$gib" --client-gib "$client_gib" --seed "$seed" |
    while read -r line; do
        echo "@@rig note $line"
        echo "$line" >/run/soak.last
    done
read -r ended _ </proc/uptime
xl destroy $guest
verdict=fail
case $(cat /run/soak.last) in
passed:*) verdict=pass ;;
esac
echo "@@rig $verdict soak/$kind $((${ended%.*} - ${began%.*}))"
