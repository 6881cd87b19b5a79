"""A seccomp program: system calls that no completion needs, and that break-outs begin with."""

from __future__ import annotations

import errno
import tempfile
from functools import cache

_CLONE_THREAD = 0x00010000
"""Of ``clone`` (linux/sched.h)."""

_REFUSED = (
    # Processes, other than threads of its own.
    *("fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    # Namespaces and mounts.
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsmount"),
    # The network.
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg"),
    # Who may do what with files: as root, a box could change the host's /dev/null, which it needs.
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "mknod", "mknodat"),
    # Memory that no limit counts.
    *("shmget", "shmat", "msgget", "semget", "memfd_create"),
    # Parts of the kernel with a history.
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("keyctl", "add_key", "request_key", "kcmp", "personality", "modify_ldt", "open_by_handle_at"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
)


@cache
def refusals() -> bytes:
    """The program as the kernel takes it; empty where this machine has no libseccomp."""
    try:
        # Looks for the library when it is imported.
        import pyseccomp
    except RuntimeError:
        return b""
    denied = pyseccomp.ERRNO(errno.EPERM)
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _REFUSED:
        program.add_rule(denied, name)
    program.add_rule(denied, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    # Its flags lie in memory, where no filter can look: the C library goes back to clone.
    program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
