#!/bin/busybox sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The echo session in dom0; whoever is at the console is node-cli's user.
cd /root || exit
# The terminal outside shows what is typed.
stty -F /dev/hvc0 -echo -onlcr
echo "@@rig guest creating"

# Hundredths of a second since dom0 started.
now() {
    read -r uptime _ < /proc/uptime
    echo "${uptime%.*}${uptime#*.}"
}

# Creates the guest of xl/$1.xl and says how long it took to the first echoed line.
first_echo() {
    began=$(now)
    if ! xl create "xl/$1.xl" >/run/xl-create.log 2>&1; then
        cat /run/xl-create.log
        echo "@@rig broken xl create xl/$1.xl failed"
        exit
    fi
    if [ "$(echo hello | node-cli --quiet "$(xl domid "$1")")" != HELLO ]; then
        echo "@@rig broken the guest of xl/$1.xl does not echo"
        exit
    fi
    took=$(($(now) - began))
    printf '  %-28s %3d.%02d s\n' "$2" $((took / 100)) $((took % 100))
}

echo "From xl create to the first echoed line:"
first_echo echo "the unikernel (4 MiB)"
first_echo echo-linux "a Linux guest (256 MiB)"
xl destroy echo-linux
domid=$(xl domid echo)
xl list
echo "@@rig guest $domid"
# A controlling terminal, so that Ctrl-C and Ctrl-D typed outside reach node-cli.
setsid -c node-cli "$domid" </dev/hvc0 >/dev/hvc0 2>&1
status=$?
xl destroy echo
echo "@@rig guest ended $status"
