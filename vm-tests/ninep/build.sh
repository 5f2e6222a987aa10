# Builds with make and a compiler in the directory $1; what is up to date is not built again.
set -eu
mkdir "$1/build" && cd "$1/build"
mkdir src
for i in $(seq 12); do echo "int f$i(void) { return $i; }" >src/f$i.c; done
{
    for i in $(seq 12); do echo "int f$i(void);"; done
    echo '#include <stdio.h>'
    printf '%s\n' 'int main(void) { printf("%d\n", 0'
    for i in $(seq 12); do echo "+ f$i()"; done
    echo '); return 0; }'
} >src/main.c
cat >Makefile <<'MAKE'
OBJECTS := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
prog: $(OBJECTS)
	cc -o $@ $^
obj/%.o: src/%.c | obj
	cc -c -o $@ $<
obj:
	mkdir obj
MAKE
make -s -j2
test "$(./prog)" = 78
make -q
echo 'int f3(void) { return 1003; }' >src/f3.c
make -s
test "$(./prog)" = 1078
python3 -m venv --without-pip env && env/bin/python -c 'import json' && python3 -m compileall -q src
tar -cf t.tar src && mkdir out && tar -xf t.tar -C out && diff -r src out/src
rsync -a src/ copy/ && diff -r src copy
rm -rf src obj env out copy prog Makefile t.tar
test -z "$(ls -A)"
echo build done
