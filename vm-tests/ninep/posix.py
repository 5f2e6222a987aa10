"""What a POSIX file system does, asked of one directory: python3 posix.py DIRECTORY.

In the manner of pjdfstest: each check is a function with a directory of its own. Prints a line for each that fails, and
how many there were; ends with 1 when one failed. Where the 9P server refuses by design (devices, setuid, extended
attributes) a clean refusal is what is asked for.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback

CHECKS = []
ROOT = os.geteuid() == 0


def check(function):
    CHECKS.append(function)
    return function


@contextlib.contextmanager
def fails(*expected):
    """Whatever is within fails with one of these errors."""
    names = [errno.errorcode[number] for number in expected]
    try:
        yield
    except OSError as error:
        if error.errno not in expected:
            raise AssertionError(f"{errno.errorcode.get(error.errno, error.errno)} instead of {names}") from error
        return
    raise AssertionError(f"no error instead of {names}")


def put(path, content=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    os.write(fd, content)
    os.close(fd)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def same(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


def in_child(function):
    """Runs a function in a process of its own; returns its number."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(function() or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- open -----------------------------------------------------------------------------------------------------------
@check
def open_creates_once():
    os.close(os.open("f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
    same(mode_of("f"), 0o640)
    with fails(errno.EEXIST):
        os.open("f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.symlink("nowhere", "dangling")
    with fails(errno.EEXIST):
        os.open("dangling", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.close(os.open("dangling", os.O_CREAT | os.O_RDWR))
    assert os.path.exists("nowhere")
    os.mkdir("d")
    with fails(errno.EEXIST):
        os.open("d", os.O_CREAT | os.O_EXCL | os.O_RDWR)


@check
def open_refuses():
    put("f")
    os.mkdir("d")
    os.symlink("f", "link")
    with fails(errno.ENOENT):
        os.open("no", os.O_RDONLY)
    with fails(errno.ENOENT):
        os.open("no/f", os.O_CREAT | os.O_RDWR)
    with fails(errno.ENOTDIR):
        os.open("f/f", os.O_CREAT | os.O_RDWR)
    with fails(errno.ENOTDIR):
        os.open("f", os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.EISDIR):
        os.open("d", os.O_WRONLY)
    with fails(errno.EISDIR):
        os.open("d", os.O_RDWR | os.O_CREAT)
    with fails(errno.ELOOP):
        os.open("link", os.O_RDONLY | os.O_NOFOLLOW)
    fd = os.open("f", os.O_RDONLY)
    with fails(errno.EBADF):
        os.write(fd, b"x")
    os.close(fd)
    fd = os.open("f", os.O_WRONLY)
    with fails(errno.EBADF):
        os.read(fd, 1)
    os.close(fd)


@check
def open_truncates():
    put("f", b"abcdef")
    fd = os.open("f", os.O_RDWR | os.O_TRUNC)
    same(os.fstat(fd).st_size, 0)
    os.write(fd, b"xy")
    os.close(fd)
    same(get("f"), b"xy")
    os.close(os.open("f", os.O_RDONLY | os.O_CREAT))
    same(get("f"), b"xy")


@check
def a_file_made_read_only_is_written_by_its_maker():
    fd = os.open("f", os.O_CREAT | os.O_WRONLY, 0o444)
    os.write(fd, b"once")
    os.close(fd)
    same((get("f"), mode_of("f")), (b"once", 0o444))
    fd = os.open("none", os.O_CREAT | os.O_RDWR, 0)
    os.write(fd, b"once")
    os.ftruncate(fd, 2)
    same(os.pread(fd, 9, 0), b"on")
    os.close(fd)


@check
def the_umask_holds():
    before = os.umask(0o027)
    put("f", mode=0o666)
    os.mkdir("d", 0o777)
    os.umask(before)
    same((mode_of("f"), mode_of("d")), (0o640, 0o750))


@check
def appends_go_to_the_end():
    put("f", b"0\n")
    fds = [os.open("f", os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    for number in range(30):
        os.write(fds[number % 3], b"%d\n" % (number + 1))
    os.lseek(fds[0], 0, os.SEEK_SET)
    os.write(fds[0], b"31\n")
    for fd in fds:
        os.close(fd)
    same(get("f"), b"".join(b"%d\n" % n for n in range(32)))


@check
def appends_of_many_processes_are_all_there():
    # One at a time: with cache=mmap Linux keeps O_APPEND from the server, and its own writes run side by side.
    put("f")

    def writer(index):
        fd = os.open("f", os.O_WRONLY | os.O_APPEND)
        for number in range(100):
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, b"%d %d\n" % (index, number))
            fcntl.flock(fd, fcntl.LOCK_UN)

    children = []
    for index in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                writer(index)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(pid)
    for pid in children:
        same(os.waitpid(pid, 0)[1], 0)
    lines = get("f").decode().splitlines()
    for index in range(4):
        same([line for line in lines if line.startswith(f"{index} ")], [f"{index} {n}" for n in range(100)])
    same(len(lines), 400)


@check
def files_without_a_name_are_refused_cleanly():
    with fails(errno.EOPNOTSUPP, errno.EISDIR):
        os.open(".", os.O_TMPFILE | os.O_RDWR)


@check
def direct_and_synchronous_files():
    put("f", b"x" * 8192)
    with contextlib.suppress(OSError):
        fd = os.open("f", os.O_RDWR | os.O_DIRECT)
        area = mmap.mmap(-1, 4096)
        same(os.readv(fd, [area]), 4096)
        os.close(fd)
    fd = os.open("g", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    os.write(fd, b"now")
    os.close(fd)
    same(get("g"), b"now")


# ---- directories ----------------------------------------------------------------------------------------------------
@check
def directories_are_made_and_removed():
    os.mkdir("d", 0o700)
    same(mode_of("d"), 0o700)
    with fails(errno.EEXIST):
        os.mkdir("d")
    put("f")
    with fails(errno.EEXIST):
        os.mkdir("f")
    with fails(errno.ENOENT):
        os.mkdir("no/d")
    with fails(errno.ENOTDIR):
        os.mkdir("f/d")
    links = os.stat(".").st_nlink
    os.mkdir("e")
    same(os.stat(".").st_nlink, links + 1)
    put("d/f")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("d")
    with fails(errno.ENOTDIR):
        os.rmdir("f")
    with fails(errno.ENOENT):
        os.rmdir("no")
    with fails(errno.EINVAL):
        os.rmdir("d/.")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("d/..")
    os.unlink("d/f")
    os.rmdir("d")
    assert not os.path.exists("d")


@check
def a_removed_directory_that_is_in_use():
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    same(os.listdir(fd), [])
    with fails(errno.ENOENT):
        os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    os.close(fd)


@check
def many_entries_are_listed_once():
    os.mkdir("d")
    names = {f"entry-{number:05}" for number in range(600)}
    fd = os.open("d", os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    listed = os.listdir("d")
    same((len(listed), set(listed)), (600, names))
    with os.scandir("d") as entries:
        same(sum(entry.is_file(follow_symlinks=False) for entry in entries), 600)
    # Removed while they are listed, as `rm -r` does.
    with os.scandir("d") as entries:
        for entry in entries:
            os.unlink(entry.name, dir_fd=fd)
    for name in os.listdir("d"):
        os.unlink(name, dir_fd=fd)
    os.close(fd)
    os.rmdir("d")


@check
def entries_have_their_types():
    put("f")
    os.mkdir("d")
    os.symlink("f", "l")
    os.mkfifo("p")
    with os.scandir(".") as entries:
        kinds = {e.name: (e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink()) for e in entries}
    same(kinds, {"f": (True, False, False), "d": (False, True, False), "l": (False, False, True), "p": (False, False, False)})
    same({e.name: e.inode() for e in os.scandir(".")}, {n: os.lstat(n).st_ino for n in os.listdir(".")})


@check
def deep_trees():
    deep = "/".join(["d"] * 30)
    os.makedirs(deep)
    put(f"{deep}/f", b"deep")
    same(get(f"{deep}/f"), b"deep")
    same(os.path.realpath(f"{deep}/" + "../" * 30), os.getcwd())
    shutil.rmtree("d")


# ---- names ----------------------------------------------------------------------------------------------------------
@check
def names_may_be_anything():
    names = [b"a" * 255, "ü" .encode() * 127, b"new\nline", b" ", b"-rf", b"...", b"\xff\xfe", b"a:b", b'"\\', b"*", b"proc", b"self", b"CON"]
    for name in names:
        put(name, name)
    same(set(os.listdir(b".")), set(names))
    for name in names:
        same(get(name), name)
        os.unlink(name)


@check
def names_that_are_too_long():
    long = "a" * 256
    with fails(errno.ENAMETOOLONG):
        os.open(long, os.O_CREAT | os.O_RDWR)
    for call in (os.mkdir, os.unlink, os.rmdir, os.lstat, os.mkfifo):
        with fails(errno.ENAMETOOLONG):
            call(long)
    put("f")
    for call in (os.rename, os.link, os.symlink):
        with fails(errno.ENAMETOOLONG):
            call("f", long)
    with fails(errno.ENAMETOOLONG):
        os.stat("a/" * 2500)


# ---- rename ---------------------------------------------------------------------------------------------------------
@check
def renames_replace():
    put("a", b"a")
    put("b", b"b")
    held = os.open("b", os.O_RDONLY)
    os.rename("a", "b")
    same((get("b"), os.path.exists("a")), (b"a", False))
    same(os.read(held, 9), b"b")
    os.close(held)
    os.mkdir("d")
    os.mkdir("e")
    put("d/f", b"f")
    os.rename("d", "e")
    same(get("e/f"), b"f")
    os.mkdir("full")
    put("full/x")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename("e", "full")
    with fails(errno.ENOTDIR):
        os.rename("e", "b")
    with fails(errno.EISDIR):
        os.rename("b", "e")
    with fails(errno.ENOENT):
        os.rename("no", "b")
    with fails(errno.ENOENT):
        os.rename("b", "no/b")
    with fails(errno.EINVAL):
        os.rename("e", "e/below")
    os.rename("b", "b")
    same(get("b"), b"a")
    os.link("b", "b2")
    os.rename("b", "b2")
    same((os.path.exists("b"), os.path.exists("b2")), (True, True))


@check
def renames_across_directories():
    os.makedirs("one/sub")
    os.mkdir("two")
    put("one/sub/f", b"f")
    fd = os.open("one/sub/f", os.O_RDWR)
    os.rename("one/sub", "two/sub")
    same(get("two/sub/f"), b"f")
    os.write(fd, b"F")
    os.close(fd)
    same(get("two/sub/f"), b"F")
    same((os.listdir("one"), os.listdir("two")), ([], ["sub"]))
    os.symlink("sub/f", "two/l")
    os.rename("two/l", "one/l")
    same(os.readlink("one/l"), "sub/f")


@check
def renames_without_replacing():
    libc = ctypes.CDLL(None, use_errno=True)
    put("a", b"a")
    put("b", b"b")
    for flags in (1, 2):
        same(libc.renameat2(-100, b"a", -100, b"b", flags), -1)
        assert ctypes.get_errno() in (errno.EINVAL, errno.EEXIST), errno.errorcode[ctypes.get_errno()]
    same((get("a"), get("b")), (b"a", b"b"))


# ---- links ----------------------------------------------------------------------------------------------------------
@check
def hard_links():
    put("a", b"one")
    os.link("a", "b")
    same((os.stat("a").st_ino, os.stat("b").st_nlink), (os.stat("b").st_ino, 2))
    with open("b", "ab") as file:
        file.write(b" two")
    same(get("a"), b"one two")
    with fails(errno.EEXIST):
        os.link("a", "b")
    os.mkdir("d")
    with fails(errno.EPERM):
        os.link("d", "e")
    with fails(errno.ENOENT):
        os.link("no", "c")
    with fails(errno.ENOENT):
        os.link("a", "no/c")
    os.unlink("a")
    same((get("b"), os.stat("b").st_nlink), (b"one two", 1))
    os.symlink("b", "l")
    os.link("l", "l2", follow_symlinks=False)
    same(os.readlink("l2"), "b")


@check
def symbolic_links():
    put("f", b"f")
    for target in ("f", "/etc/hostname", "../../..", "no", "x" * 1000, "a b\nc"):
        os.symlink(target, "l")
        same((os.readlink("l"), os.lstat("l").st_size), (target, len(target)))
        assert stat.S_ISLNK(os.lstat("l").st_mode)
        os.unlink("l")
    os.symlink("f", "l")
    with fails(errno.EEXIST):
        os.symlink("f", "l")
    with fails(errno.EINVAL):
        os.readlink("f")
    same(get("l"), b"f")
    put("l", b"through")
    same(get("f"), b"through")
    os.chmod("l", 0o600)
    same(mode_of("f"), 0o600)
    os.unlink("l")
    assert os.path.exists("f")
    os.symlink("one", "two")
    os.symlink("two", "one")
    for call in (os.stat, os.listdir, os.chdir):
        with fails(errno.ELOOP):
            call("one")
    with fails(errno.ELOOP):
        os.open("one/f", os.O_RDONLY)
    os.mkdir("d")
    os.symlink("d", "ld")
    put("ld/in", b"in")
    same(get("d/in"), b"in")
    with fails(errno.ENOTDIR):
        os.rmdir("ld")


@check
def unlinked_files_live_on():
    put("f", b"abc")
    fd = os.open("f", os.O_RDWR)
    os.unlink("f")
    with fails(errno.ENOENT):
        os.stat("f")
    same(os.pread(fd, 9, 0), b"abc")
    os.pwrite(fd, b"def", 3)
    same(os.pread(fd, 9, 0), b"abcdef")
    same(os.fstat(fd).st_size, 6)
    os.ftruncate(fd, 1)
    same(os.pread(fd, 9, 0), b"a")
    put("f", b"another")
    same((os.pread(fd, 9, 0), get("f")), (b"a", b"another"))
    os.close(fd)
    os.mkdir("d")
    with fails(errno.EISDIR, errno.EPERM):
        os.unlink("d")
    with fails(errno.ENOENT):
        os.unlink("no")


# ---- content --------------------------------------------------------------------------------------------------------
@check
def sizes_change():
    put("f", b"abcdef")
    os.truncate("f", 3)
    same(get("f"), b"abc")
    os.truncate("f", 6)
    same(get("f"), b"abc\0\0\0")
    fd = os.open("f", os.O_RDWR)
    os.ftruncate(fd, 100_000)
    same((os.fstat(fd).st_size, os.pread(fd, 4, 99_990)), (100_000, b"\0\0\0\0"))
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"end", 5 << 30)
    same((os.fstat(fd).st_size, os.pread(fd, 9, (5 << 30) - 2)), ((5 << 30) + 3, b"\0\0end"))
    os.ftruncate(fd, 0)
    os.close(fd)
    fd = os.open("f", os.O_RDONLY)
    with fails(errno.EINVAL, errno.EBADF):
        os.ftruncate(fd, 1)
    os.close(fd)
    os.mkdir("d")
    with fails(errno.EISDIR):
        os.truncate("d", 0)
    with fails(errno.ENOENT):
        os.truncate("no", 0)
    with fails(errno.EINVAL):
        os.truncate("f", -1)


@check
def large_content_is_whole():
    block = os.urandom(1 << 20)
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    for number in range(16):
        os.pwrite(fd, block, number * (1 << 20) + 7)
    for number in (0, 9, 15):
        same(os.pread(fd, 1 << 20, number * (1 << 20) + 7) == block, True)
    os.close(fd)
    shutil.copyfile("f", "g")
    same(subprocess.run(["cmp", "f", "g"]).returncode, 0)
    source, target = os.open("f", os.O_RDONLY), os.open("h", os.O_CREAT | os.O_RDWR)
    same(os.copy_file_range(source, target, 1 << 20, 7, 0), 1 << 20)
    same(os.pread(target, 1 << 20, 0) == block, True)
    same(os.lseek(source, 0, os.SEEK_END), (16 << 20) + 7)
    os.close(source)
    os.close(target)


@check
def maps_are_shared():
    put("f", b"." * 10_000)
    fd = os.open("f", os.O_RDWR)
    with mmap.mmap(fd, 10_000, mmap.MAP_SHARED) as shared:
        shared[5000:5005] = b"hello"
        shared.flush()
        same(get("f")[4999:5006], b".hello.")
        same(subprocess.run(["cut", "-c", "5001-5005", "f"], capture_output=True).stdout, b"hello\n")
        os.pwrite(fd, b"HELLO", 5000)
        same(bytes(shared[5000:5005]), b"HELLO")
        # Nothing says `flush` here: the end of the map does.
        shared[0:3] = b"top"
    os.close(fd)
    same(get("f")[:4], b"top.")
    fd = os.open("f", os.O_RDONLY)
    with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
        private[0:3] = b"own"
        same(get("f")[:3], b"top")
    os.close(fd)

    def other():
        fd = os.open("f", os.O_RDWR)
        area = mmap.mmap(fd, 0, mmap.MAP_SHARED)
        area[9000:9005] = b"child"

    same(in_child(other), 0)
    same(get("f")[9000:9005], b"child")


@check
def syncs():
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 100_000)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    fd = os.open(".", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.sync()


@check
def file_system_figures():
    figures = os.statvfs(".")
    same(figures.f_namemax, 255)
    assert figures.f_blocks > 0 and figures.f_bavail > 0 and figures.f_bsize >= 512


@check
def space_is_reserved_or_refused():
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, 100_000)
        same(os.fstat(fd).st_size, 100_000)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.EINVAL), error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4096)) != 0:
        assert ctypes.get_errno() in (errno.EOPNOTSUPP, errno.ENOSYS)
    os.close(fd)


# ---- attributes -----------------------------------------------------------------------------------------------------
@check
def modes_change():
    put("f")
    os.mkdir("d")
    for mode in (0o777, 0o000, 0o444, 0o600):
        os.chmod("f", mode)
        os.chmod("d", mode | 0o700)
        same((mode_of("f"), mode_of("d")), (mode, mode | 0o700))
    os.chmod("d", 0o1777)
    same(mode_of("d"), 0o1777)
    for mode in (0o4755, 0o2755):
        with fails(errno.EPERM):
            os.chmod("f", mode)
        same(mode_of("f"), 0o600)
    fd = os.open("f", os.O_RDWR)
    os.fchmod(fd, 0o640)
    same(mode_of("f"), 0o640)
    os.close(fd)
    with fails(errno.ENOENT):
        os.chmod("no", 0o600)


@check
def modes_hold():
    if ROOT:
        return
    put("f", b"x")
    os.chmod("f", 0)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with fails(errno.EACCES):
            os.open("f", flags)
    os.mkdir("d")
    put("d/f")
    os.chmod("d", 0o500)
    with fails(errno.EACCES):
        put("d/g")
    with fails(errno.EACCES):
        os.unlink("d/f")
    os.chmod("d", 0o600)
    with fails(errno.EACCES):
        os.stat("d/f")
    os.chmod("d", 0o700)


@check
def others_are_kept_out():
    if not ROOT:
        return
    put("f", b"secret", 0o600)
    put("open", b"open", 0o644)

    def nobody():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        same(get("open"), b"open")
        with fails(errno.EACCES):
            os.open("f", os.O_RDONLY)
        with fails(errno.EACCES):
            put("mine")
        with fails(errno.EACCES, errno.EPERM):
            os.unlink("f")
        with fails(errno.EPERM, errno.EACCES):
            os.chmod("open", 0o777)

    same(in_child(nobody), 0)


@check
def owners():
    put("f")
    about = os.stat("f")
    same((about.st_uid, about.st_gid), (1000, 1000))
    os.chown("f", about.st_uid, about.st_gid)
    os.chown("f", -1, -1)
    if ROOT:
        # Everything belongs to the directory's owner, whoever it is given to.
        os.chown("f", 0, 0)
        os.symlink("f", "l")
        os.lchown("l", 0, 0)
        same((os.stat("f").st_uid, os.lstat("l").st_uid), (1000, 1000))
    else:
        with fails(errno.EPERM):
            os.chown("f", 0, -1)


@check
def times():
    put("f")
    # Linux sets whole seconds on 9p (fs/9p never says that it has finer ones).
    os.utime("f", ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321))
    about = os.stat("f")
    same((int(about.st_atime), int(about.st_mtime)), (1_700_000_000, 1_600_000_000))
    os.utime("f", (0, 4_102_444_800))
    same((os.stat("f").st_atime, os.stat("f").st_mtime), (0, 4_102_444_800))
    os.utime("f")
    assert abs(os.stat("f").st_mtime - time.time()) < 600
    os.symlink("f", "l")
    os.utime("l", (5, 6), follow_symlinks=False)
    same((os.lstat("l").st_mtime, os.stat("f").st_mtime > 1_000_000), (6, True))
    os.utime("f", (1, 1))
    with open("f", "ab") as file:
        file.write(b"x")
    assert os.stat("f").st_mtime > 1_000_000
    os.utime(".", (1, 1))
    put("g")
    assert os.stat(".").st_mtime > 1_000_000
    before = os.stat("g").st_ctime_ns
    os.chmod("g", 0o600)
    assert os.stat("g").st_ctime_ns > before


@check
def extended_attributes_are_refused():
    put("f")
    with fails(errno.EOPNOTSUPP):
        os.setxattr("f", "user.x", b"1")
    with fails(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr("f", "user.x")
    try:
        same(os.listxattr("f"), [])
    except OSError as error:
        same(error.errno, errno.EOPNOTSUPP)


# ---- locks ----------------------------------------------------------------------------------------------------------
@check
def whole_files_are_locked():
    put("f")
    fd = os.open("f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def other():
        mine = os.open("f", os.O_RDWR)
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 7
        return 8

    same(in_child(other), 7)
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_UN)
    same(in_child(other), 8)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    same(in_child(other), 8)


@check
def parts_of_files_are_locked():
    put("f", b"x" * 100)
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)

    def other():
        mine = os.open("f", os.O_RDWR)
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
        try:
            fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        except OSError as error:
            return 7 if error.errno in (errno.EAGAIN, errno.EACCES) else 9
        return 8

    same(in_child(other), 7)
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 0)
    same(in_child(other), 8)
    # Waits for whoever has it.
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = os.open("f", os.O_RDWR)
        fcntl.lockf(mine, fcntl.LOCK_EX)
        os.write(theirs, b"!")
        time.sleep(1)
        os._exit(0)
    os.read(ours, 1)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    # Whoever has it had it until its end.
    same(os.waitpid(pid, 0)[1], 0)
    os.close(fd)


# ---- what is not a file ---------------------------------------------------------------------------------------------
@check
def pipes_are_the_guests_own():
    os.mkfifo("p", 0o600)
    assert stat.S_ISFIFO(os.stat("p").st_mode)
    pid = os.fork()
    if pid == 0:
        fd = os.open("p", os.O_WRONLY)
        os.write(fd, b"through")
        os._exit(0)
    fd = os.open("p", os.O_RDONLY)
    same(os.read(fd, 99), b"through")
    os.close(fd)
    os.waitpid(pid, 0)


@check
def devices_and_sockets_are_refused():
    with fails(errno.EPERM):
        os.mknod("c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with fails(errno.EPERM):
        os.mknod("b", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    with fails(errno.EPERM, errno.EOPNOTSUPP):
        socket.socket(socket.AF_UNIX).bind("s")
    same(os.listdir("."), [])
    os.mknod("f", stat.S_IFREG | 0o600)
    same(mode_of("f"), 0o600)


@check
def programs_run():
    put("script", b"#!/bin/sh\necho ran $1\n", 0o755)
    same(subprocess.run(["./script", "it"], capture_output=True).stdout, b"ran it\n")
    shutil.copy("/bin/true", "program")
    same(subprocess.run(["./program"]).returncode, 0)
    os.chmod("program", 0o644)
    with fails(errno.EACCES):
        subprocess.run(["./program"])


@check
def many_open_files():
    fds = [os.open(f"f{number}", os.O_CREAT | os.O_RDWR) for number in range(400)]
    for number, fd in enumerate(fds):
        os.write(fd, b"%d" % number)
    for number, fd in enumerate(fds):
        same(os.pread(fd, 9, 0), b"%d" % number)
        os.close(fd)


@check
def an_editor_saves():
    put("doc", b"old", 0o640)
    for number in range(25):
        fd = os.open(f".doc.{number}.swp", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
        os.write(fd, b"version %d" % number)
        os.fsync(fd)
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("doc~")
        os.link("doc", "doc~")
        os.rename(f".doc.{number}.swp", "doc")
        same(get("doc"), b"version %d" % number)
    same((sorted(os.listdir(".")), get("doc~"), mode_of("doc")), (["doc", "doc~"], b"version 23", 0o640))


def main():
    base = os.path.join(sys.argv[1], f"posix-{os.geteuid()}")
    os.umask(0o022)
    failed = 0
    for function in CHECKS:
        place = os.path.join(base, function.__name__)
        os.makedirs(place)
        os.chdir(place)
        began = time.monotonic()
        # Nothing here takes as long.
        signal.alarm(180)
        try:
            function()
        except Exception as error:
            failed += 1
            line = traceback.extract_tb(error.__traceback__)[1].lineno
            print(f"FAILED {function.__name__} (line {line}): {error}")
        signal.alarm(0)
        if time.monotonic() - began > 3:
            print(f"slow: {function.__name__} took {time.monotonic() - began:.1f} s")
        os.chdir("/")
    subprocess.run(["chmod", "-R", "u+rwX", base])
    shutil.rmtree(base)
    print(f"{len(CHECKS)} checks, {failed} failed")
    sys.exit(failed > 0)


main()
