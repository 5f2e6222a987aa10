"""Writes the layers of images for tests, as tar files that other tools add to an image.

    layers.py odd DIRECTORY                  one layer with all that is rare in a file system, one that changes it
    layers.py large DIRECTORY FILES MIB N    N layers with so many files and so much content together, and whiteouts

Prints the names of the files, bottom layer first. The same arguments give the same bytes.
"""

import io
import os
import random
import sys
import tarfile


class Layer:
    """One layer; directories above an entry are written as they are needed."""

    def __init__(self, path):
        self.path = path
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape")
        self.seen = set()

    def above(self, name):
        parts = name.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            directory = "/".join(parts[:end])
            if directory not in self.seen:
                self.add(directory, kind=tarfile.DIRTYPE, mode=0o755)

    def add(self, name, data=None, kind=tarfile.REGTYPE, mode=0o644, owner=(0, 0), mtime=1_600_000_000, link="",
            device=(0, 0), xattrs=None):
        self.above(name)
        self.seen.add(name)
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.linkname = kind, mode, mtime, link
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        for key, value in (xattrs or {}).items():
            info.pax_headers["SCHILY.xattr." + key] = value
        if data is not None:
            info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data) if data is not None else None)

    def whiteout(self, name):
        directory, _, last = name.rpartition("/")
        self.add(f"{directory}/.wh.{last}" if directory else f".wh.{last}", b"")

    def opaque(self, directory):
        self.add(f"{directory}/.wh..wh..opq", b"")

    def close(self):
        self.tar.close()
        print(self.path)


def odd(directory):
    first = Layer(os.path.join(directory, "odd-1.tar"))
    top = "opt/odd"
    first.add(f"{top}/setuid", b"s", mode=0o4755)
    first.add(f"{top}/setgid", b"s", mode=0o2755, owner=(0, 50))
    first.add(f"{top}/sticky", kind=tarfile.DIRTYPE, mode=0o1777)
    first.add(f"{top}/nothing", b"", mode=0o000)
    first.add(f"{top}/far", b"x", owner=(3_000_000, 4_000_000_000))
    first.add(f"{top}/then", b"x", mtime=1_234_567_890.123456789)
    first.add(f"{top}/before", b"x", mtime=0)
    first.add(f"{top}/name with  spaces", b"1")
    first.add(f"{top}/new\nline", b"2")
    first.add(f"{top}/\u00fc\u4e2d\U0001f600", b"3")
    first.add(f"{top}/latin-\udce9", b"4")
    first.add(f"{top}/" + "n" * 255, b"5")
    first.add(f"{top}/" + "/".join(["deep" * 20] * 12) + "/end", b"6")
    first.add(f"{top}/-rf", b"7")
    first.add(f"{top}/*", b"8")
    first.add(f"{top}/.wheel", b"not a whiteout")
    first.add(f"{top}/linked", b"one file", mode=0o600, owner=(1000, 1000))
    for number in range(3):
        first.add(f"{top}/link-{number}", kind=tarfile.LNKTYPE, link=f"{top}/linked")
    first.add(f"{top}/soft", kind=tarfile.SYMTYPE, mode=0o777, link="linked")
    first.add(f"{top}/absolute", kind=tarfile.SYMTYPE, mode=0o777, link="/etc/passwd")
    first.add(f"{top}/dangling", kind=tarfile.SYMTYPE, mode=0o777, link="../../no/such/" + "t" * 200)
    first.add(f"{top}/pipe", kind=tarfile.FIFOTYPE, mode=0o620)
    first.add(f"{top}/null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3))
    first.add(f"{top}/disk", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 200))
    first.add(f"{top}/noted", b"x", xattrs={"user.note": "a value"})
    # cap_net_raw+ep, as setcap writes it (capabilities(7), revision 2).
    capability = bytes.fromhex("0100000200200000000000000000000000000000").decode("utf-8", "surrogateescape")
    first.add(f"{top}/capable", b"x", mode=0o755, xattrs={"security.capability": capability})
    first.add(f"{top}/holes", b"begin" + bytes(8 << 20) + b"end")
    for number in range(3000):
        first.add(f"{top}/crowd/{number:05}", str(number).encode())
    first.add(f"{top}/replaced-by-file/inner", b"x")
    first.add(f"{top}/replaced-by-directory", b"x")
    first.add(f"{top}/hidden/inner/file", b"x")
    first.add(f"{top}/emptied/old", b"x")
    first.add(f"{top}/emptied/deep/old", b"x")
    first.add(f"{top}/gone", b"x")
    first.add(f"{top}/back", b"old")
    first.add(f"{top}/real/inside", b"x")
    first.add(f"{top}/way", kind=tarfile.SYMTYPE, mode=0o777, link="real")
    first.close()

    second = Layer(os.path.join(directory, "odd-2.tar"))
    second.add(f"{top}/replaced-by-file", b"now a file")
    second.add(f"{top}/replaced-by-directory/inner", b"now a directory")
    second.whiteout(f"{top}/hidden")
    second.opaque(f"{top}/emptied")
    second.add(f"{top}/emptied/new", b"x")
    second.whiteout(f"{top}/gone")
    second.whiteout(f"{top}/back")
    second.whiteout(f"{top}/linked")
    second.add(f"{top}/link-1", b"a file of its own now")
    second.add(f"{top}/setuid", b"no more", mode=0o755)
    second.close()

    third = Layer(os.path.join(directory, "odd-3.tar"))
    third.add(f"{top}/back", b"new")
    third.close()


def large(directory, files, mib, count):
    source = random.Random(1)
    noise = source.randbytes(4 << 20)
    words = b" ".join(source.choice([b"alpha", b"beta", b"gamma", b"delta\n"]) for _ in range(1 << 20))
    each, size = files // count, (mib << 20) // files
    top = "opt/large"
    for number in range(count):
        layer = Layer(os.path.join(directory, f"large-{number:02}.tar"))
        for index in range(each):
            # From nothing to twice the mean; a third of it cannot be compressed.
            length = source.randrange(2 * size)
            data = noise if index % 3 == 0 else words
            start = source.randrange(len(data) - length)
            layer.add(f"{top}/{number:02}/{index // 250:03}/{index:05}", data[start:start + length], mode=0o640)
        if number:
            below = f"{top}/{number - 1:02}"
            layer.whiteout(f"{below}/000/00007")
            layer.whiteout(f"{below}/001")
            layer.add(f"{below}/000/00008", b"changed", mode=0o600)
        if number > 1:
            layer.opaque(f"{top}/{number - 2:02}/002")
        layer.close()


def main():
    what, directory, *rest = sys.argv[1:]
    if what == "odd":
        odd(directory)
    elif what == "large":
        large(directory, *map(int, rest))
    else:
        sys.exit(__doc__)


main()
