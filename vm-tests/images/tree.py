"""Prints what is in a tree, a JSON line for each name: what `umoci unpack` made on the host, or what a guest has.

    tree.py ROOT [DIRECTORY...]      only these directories below ROOT; all of it when none is named

Names are hexadecimal when they are no UTF-8, so that nothing is lost on the way. Hard links show as the number of the
first name (in the order of the listing) of the same file.
"""

import json
import os
import stat
import sys
import zlib


def text(raw):
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"hex": raw.hex()}


def content(path):
    # Nobody forges these trees, and software emulation has no time for more.
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def attributes(path):
    names = os.listxattr(path, follow_symlinks=False)
    # A layer of overlayfs and SELinux have some of their own, which are no part of an image.
    wanted = [name for name in sorted(names) if not name.startswith(("trusted.overlay.", "security.selinux"))]
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in wanted}


def main():
    root = os.fsencode(sys.argv[1])
    tops = [os.path.join(root, os.fsencode(name)) for name in sys.argv[2:]] or [root]
    numbers = {}
    out = sys.stdout

    def show(path):
        found = os.lstat(path)
        mode = found.st_mode
        line = {
            "path": text(os.path.relpath(path, root)),
            "mode": oct(mode),
            "owner": [found.st_uid, found.st_gid],
        }
        line["mtime"] = found.st_mtime_ns
        if stat.S_ISREG(mode):
            line["size"] = found.st_size
            line["content"] = content(path)
        elif stat.S_ISLNK(mode):
            line["target"] = text(os.readlink(path))
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            line["device"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
        if not stat.S_ISDIR(mode):
            line["links"] = found.st_nlink
            key = (found.st_dev, found.st_ino)
            line["file"] = numbers.setdefault(key, text(os.path.relpath(path, root)))
        extra = attributes(path)
        if extra:
            line["attributes"] = extra
        out.write(json.dumps(line, sort_keys=True) + "\n")
        if stat.S_ISDIR(mode):
            for name in sorted(os.listdir(path)):
                show(os.path.join(path, name))

    for top in tops:
        show(top)


main()
