#!/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# /init of dom0 in the real-Xen rig: brings up what a Xen host's init scripts
# bring up, then hands over to what the kernel command line asks for:
#   rig=test [scenarios=a,b]   run the scenarios, power off
#   rig=soak soak=pv,1,0.05,1  the soak: kind of guest, GiB, at most of one client, seed; power off
#   rig=bench bench=quick      measure, as long as that says (quick or full), power off
#   rig=demo                   start the echo guest, one node-cli session, power off
#   rig=shell                  an interactive shell, power off when it ends
# Lines for the program outside start with "@@rig".
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var /mnt
/bin/busybox --install -s /bin
export PATH=/opt/rig:/usr/lib/xen/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-linux}"

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
# Without devpts xenconsoled cannot give a guest its console and xl create times out.
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
ln -sf /run /var/run
mkdir -p /run/lock /run/xen /run/xenstored /var/lib/xen /var/log/xen /var/log /root
ln -sf /run/lock /var/lock
ln -sf /proc/self/fd /dev/fd
echo 1 4 1 7 > /proc/sys/kernel/printk
ip link set lo up

give_up() {
    echo "@@rig broken $*"
    poweroff -f
}

while read -r module; do
    insmod "/lib/modules-xen/$module" || give_up "dom0 cannot load $module"
done < /lib/modules-xen/order
mount -t xenfs xenfs /proc/xen || give_up "dom0 cannot mount xenfs on /proc/xen"

xenstored --pid-file /run/xen/xenstored.pid || give_up "xenstored does not start"
tries=0
until xenstore-exists /tool >/dev/null 2>&1 || xenstore-write /tool "" 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || give_up "xenstored does not answer"
    sleep 0.1
done
xen-init-dom0 >/run/xen-init-dom0.log 2>&1 ||
    give_up "xen-init-dom0 failed: $(tr '\n' ' ' </run/xen-init-dom0.log)"
xenconsoled --pid-file=/run/xen/xenconsoled.pid --log=guest --log-dir=/var/log/xen ||
    give_up "xenconsoled does not start"

read -r uptime _ < /proc/uptime
echo "@@rig dom0 $uptime"

rig=shell scenarios= soak= bench=
for word in $(cat /proc/cmdline); do
    case $word in
    rig=* | scenarios=* | soak=* | bench=*) eval "${word%%=*}='${word#*=}'" ;;
    esac
done

# The paths in xl/*.xl are right from here.
cd /root || give_up "dom0 has no /root"
case $rig in
test) xen-scenarios "$scenarios" </dev/null ;;
bench) xen-scenarios --bench "$bench" </dev/null ;;
soak) soak.sh $(echo "$soak" | tr , ' ') ;;
demo) demo.sh ;;
*)
    cat /etc/motd
    # setsid gives the shell a controlling terminal, so that Ctrl-C reaches
    # the program in front and not the shell.
    setsid sh -c 'exec sh -l </dev/hvc0 >/dev/hvc0 2>&1'
    ;;
esac
sync
echo "@@rig end"
poweroff -f
