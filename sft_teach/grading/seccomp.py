"""The system calls that a sandboxed process has no business with, as a filter for bubblewrap.

The namespaces and limits of `sandbox.py` hold without it. It closes what they leave open: memory
that RLIMIT_AS does not count (memfd, System V), process bombs (a user namespace may leave
RLIMIT_NPROC unenforced), socket families without a namespace (vsock), and much of the kernel's
attack surface. Threads stay allowed, new processes do not.
"""

from __future__ import annotations

import errno
import platform
import struct

# name: (x86_64, aarch64); None where the machine has no such call.
DENIED = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "swapon": (167, 224),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
CLONE, CLONE3, CLONE_THREAD = (56, 220), 435, 0x00010000

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
X32 = 0x40000000  # x86_64's second set of numbers, which would go around the list


def program(machine: str | None = None) -> bytes | None:
    """The filter as classic BPF for this kind of machine, or None where none is written."""
    machine = machine or platform.machine()
    if machine not in MACHINES:
        return None
    column, arch = MACHINES[machine]
    denied = [numbers[column] for numbers in DENIED.values() if numbers[column] is not None]
    deny, unknown = ERROR | errno.EPERM, ERROR | errno.ENOSYS
    code = [
        (LOAD, 0, 0, ARCH),
        (JUMP_EQUAL, 1, 0, arch),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_GREATER_EQUAL, 0, 1, X32),
        (RETURN, 0, 0, deny),
        (JUMP_EQUAL, 0, 1, CLONE3),  # its flags lie in memory, so libc is sent back to clone
        (RETURN, 0, 0, unknown),
    ]
    for number in denied:
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, deny)]
    code += [
        (JUMP_EQUAL, 0, 3, CLONE[column]),
        (LOAD, 0, 0, ARGUMENT),
        (JUMP_SET, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, deny),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
