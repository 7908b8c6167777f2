# Sends frames as a guest might, from the link `guest`, and prints the names of those that arrive at
# the link `listener`, sorted. The guest has the MAC 52:54:00:01:02:03, 192.0.2.7 and 2001:db8::7.
import select, socket, struct

mac, other = bytes.fromhex("525400010203"), bytes.fromhex("525400000099")
everybody = b"\xff" * 6
v4, v6 = (lambda a: socket.inet_aton(a)), (lambda a: socket.inet_pton(socket.AF_INET6, a))
mine4, mine6, local = v4("192.0.2.7"), v6("2001:db8::7"), v6("fe80::5054:ff:fe01:203")
theirs4, theirs6 = v4("192.0.2.8"), v6("2001:db8::8")

def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def ether(payload, kind, source=mac, to=everybody):
    return to + source + struct.pack("!H", kind) + payload

def arp(source=mac, address=mine4):
    return ether(struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + source + address + b"\0" * 6 + theirs4, 0x0806)

def udp(payload, sport, dport):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload

def ipv4(payload, source=mine4, to=v4("255.255.255.255"), protocol=17, mac=mac):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + source + to
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return ether(head + payload, 0x0800, mac)

def ipv6(payload, source=mine6, next=17, to=v6("ff02::1")):
    return ether(struct.pack("!IHBB", 6 << 28, len(payload), next, 255) + source + to + payload, 0x86DD)

def icmp6(kind, rest, source=mine6, to=v6("ff02::1")):
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = source + to + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return ipv6(body, source, 58, to)

def option(kind, address):
    return struct.pack("!BB", kind, 1) + address

frames = {
    "arp": arp(),
    "dhcp": ipv4(udp(b"x" * 30, 68, 67), v4("0.0.0.0")),
    "ipv4": ipv4(udp(b"hello", 1000, 2000)),
    "ipv6": ipv6(udp(b"hello", 1000, 2000)),
    "ns": icmp6(135, b"\0" * 4 + theirs6 + option(1, mac), local),
    "na": icmp6(136, b"\x20\0\0\0" + mine6 + option(2, mac), local),
    "spoofed-mac": ipv4(udp(b"hello", 1000, 2000), mac=other),
    "spoofed-arp-mac": arp(other),
    "spoofed-arp-address": arp(address=theirs4),
    "spoofed-ipv4": ipv4(udp(b"hello", 1000, 2000), theirs4),
    "spoofed-ipv6": ipv6(udp(b"hello", 1000, 2000), theirs6),
    "spoofed-local": ipv6(udp(b"hello", 1000, 2000), v6("fe80::1")),
    "spoofed-na-target": icmp6(136, b"\x20\0\0\0" + theirs6 + option(2, mac)),
    "spoofed-na-mac": icmp6(136, b"\x20\0\0\0" + mine6 + option(2, other)),
    "spoofed-ns-mac": icmp6(135, b"\0" * 4 + theirs6 + option(1, other), local),
    "dhcp-server": ipv4(udp(b"x" * 30, 67, 68)),
    "dhcpv6-server": ipv6(udp(b"x" * 30, 547, 546), local),
    "router": icmp6(134, b"\x40\0\x07\x08" + b"\0" * 8, local),
    "redirect": icmp6(137, b"\0" * 4 + theirs6 + theirs6, local),
    "vlan": ether(struct.pack("!HH", 5, 0x0800) + ipv4(udp(b"hello", 1, 2))[14:], 0x8100),
    "qinq": ether(struct.pack("!HH", 5, 0x0800) + ipv4(udp(b"hello", 3, 4))[14:], 0x88A8),
    "strange": ether(b"x" * 50, 0x88B5),
    "bpdu": ether(b"\x42\x42\x03" + b"\0" * 35, 38, to=bytes.fromhex("0180c2000000")),
}

ALL = 0x0003
sender, listener = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) for _ in "ab")
sender.bind(("guest", ALL))
listener.bind(("listener", ALL))
got = set()
# A VLAN's tag is taken off on the way.
names = {frame[:12] + frame[16:] if name in ("vlan", "qinq") else frame: name for name, frame in frames.items()}
assert len(names) == len(frames)
last = arp(address=v4("192.0.2.7")) + b"the last"
for frame in [*frames.values(), last]:
    sender.send(frame)
while select.select([listener], [], [], 10)[0]:
    data = listener.recv(4096)
    if data == last:
        break
    got.add(names.get(data))
else:
    raise SystemExit("the last frame did not arrive")
print(*sorted(name for name in got if name))
