# What the guest does about a device, at boot (rcS) and when one is plugged
# (device). Each function may be called again for the same device.

# network_up IFACE: up, with IPv6 link-local by the kernel and an IPv4
# link-local address made from the last two bytes of the MAC, so that any two
# guests on one bridge can talk. 169.254.0.* and 169.254.255.* are reserved
# (RFC 3927): those become 169.254.1.* and 169.254.254.*.
network_up() {
    read -r mac <"/sys/class/net/$1/address" || return
    tail=${mac#??:??:??:??:}
    high=$((0x${tail%:*}))
    low=$((0x${tail#*:}))
    [ "$high" -eq 0 ] && high=1
    [ "$high" -eq 255 ] && high=254
    ip link set "$1" up
    ip addr add "169.254.$high.$low/16" dev "$1" 2>/dev/null
}

# port_link VPORT: /dev/virtio-ports/NAME, as udev would make it.
port_link() {
    read -r port <"/sys/class/virtio-ports/$1/name" || return
    [ -n "$port" ] || return
    [ -d /dev/virtio-ports ] || mkdir /dev/virtio-ports
    ln -sf "../$1" "/dev/virtio-ports/$port"
}

# disk_link DISK: /dev/disk/by-id/virtio-SERIAL, as udev would make it.
disk_link() {
    serial=
    [ -e "/sys/block/$1/serial" ] && read -r serial <"/sys/block/$1/serial"
    [ -n "$serial" ] || return
    [ -d /dev/disk/by-id ] || mkdir -p /dev/disk/by-id
    ln -sf "../../$1" "/dev/disk/by-id/virtio-$serial"
}

# disk_unlink DISK: takes away the links of a disk that is gone.
disk_unlink() {
    for link in /dev/disk/by-id/*; do
        [ -L "$link" ] && ! [ -e "$link" ] && rm -f "$link"
    done
}
