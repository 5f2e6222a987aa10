#!/bin/sh
# Stands in for a C compiler and its archiver while Rust is checked for a system whose headers are not here (`./x check-mac`).
#
# Checking links nothing, so what C becomes does not matter, only that a build script sees it made. Every file named by -o, and an
# archive's, is made empty. Nothing built with this can run.
set -eu

made=""
archive=""
while [ $# -gt 0 ]; do
    case $1 in
        -o) made=${2:?-o needs a file}; shift ;;
        -E)
            # Build scripts ask a compiler in this way which one it is.
            echo "clang"
            exit 0
            ;;
        *.a) archive=$1 ;;
    esac
    shift
done
for file in "$made" "$archive"; do
    [ -z "$file" ] || : > "$file"
done
