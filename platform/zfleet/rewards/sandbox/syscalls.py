"""A seccomp program that refuses system calls which no completion needs and which escapes begin with."""

from __future__ import annotations

import errno
import tempfile
from functools import cache

_CLONE_THREAD = 0x00010000
"""The flag of ``clone`` that makes a thread (linux/sched.h)."""

_REFUSED = (
    # New processes; threads are allowed.
    *("fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    # Namespaces and mounts.
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsmount"),
    # The network.
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"),
    # Permissions of files: as root, a box could change the host's /dev/null, which is mounted into it.
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "mknod", "mknodat"),
    # Memory outside the limits.
    *("shmget", "shmat", "msgget", "semget", "memfd_create"),
    # Parts of the kernel with a history of vulnerabilities.
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("keyctl", "add_key", "request_key", "kcmp", "personality", "modify_ldt", "open_by_handle_at"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
)


@cache
def refusals() -> bytes:
    """Return the program in the kernel's format; empty if this machine has no libseccomp."""
    try:
        # Imported here because the import itself looks for the library.
        import pyseccomp
    except RuntimeError:
        return b""
    denied = pyseccomp.ERRNO(errno.EPERM)
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _REFUSED:
        program.add_rule(denied, name)
    program.add_rule(denied, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    # The flags of clone3 are in memory, which a filter cannot read. On ENOSYS the C library falls back to clone.
    program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
