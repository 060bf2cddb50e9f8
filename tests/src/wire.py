"""A link with a delay, also where the kernel has none: wire.py HOST SWITCH PORT MILLISECONDS

Makes the device `slow0` in the network namespace HOST and PORT in SWITCH, says so, and carries frames between them: what
the host sends arrives so much later, what it is sent at once. Ends with its standard input, and the devices with it.
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000
FRAME_BYTES_MAX = 1 << 16
# As many as a switch would queue; what comes then is lost.
WAITING_MAX = 10_000

libc = ctypes.CDLL(None, use_errno=True)


def tap(namespace, name):
    """The end of a device of this name in a namespace."""
    with open(f"/var/run/netns/{namespace}") as entry:
        if libc.setns(entry.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


def frames(end):
    while True:
        try:
            yield os.read(end, FRAME_BYTES_MAX)
        except BlockingIOError:
            return


def put(end, frame):
    try:
        os.write(end, frame)
    except OSError:
        pass  # The other end is down or full: the frame is lost, as on any link.


def carry(host, switch, delay):
    waiting = collections.deque()
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([sys.stdin, host, switch], [], [], patience)
        if sys.stdin in readable:
            return
        if host in readable:
            for frame in frames(host):
                if len(waiting) < WAITING_MAX:
                    waiting.append((time.monotonic() + delay, frame))
        if switch in readable:
            for frame in frames(switch):
                put(host, frame)
        while waiting and waiting[0][0] <= time.monotonic():
            put(switch, waiting.popleft()[1])


if __name__ == "__main__":
    _, host, switch, port, milliseconds = sys.argv
    ends = tap(host, "slow0"), tap(switch, port)
    print("ready", flush=True)
    carry(*ends, int(milliseconds) / 1000)
