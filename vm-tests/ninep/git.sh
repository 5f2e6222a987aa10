# What people do with git, in the directory $1.
set -eu
mkdir "$1/git" && cd "$1/git"
export GIT_CONFIG_GLOBAL=/tmp/ninep-gitconfig
git config --global user.email a@example.org
git config --global user.name A
git config --global init.defaultBranch main
git config --global advice.detachedHead false
git init -q one
cd one
mkdir -p src/deep
for i in $(seq 150); do echo "file $i" >"src/f$i"; done
ln -s f1 src/link
printf '#!/bin/sh\necho run\n' >run && chmod +x run
git add .
git commit -qm first
test -z "$(git status --porcelain)"
git checkout -qb topic
echo change >>src/f7 && git rm -q src/f8 && git mv src/f9 src/deep/f9 && echo new >src/new
test "$(git status --porcelain | wc -l)" = 4
git add -A && git commit -qm second
git checkout -q main
test -f src/f8 && test ! -e src/new && grep -qx 'file 7' src/f7
echo other >>src/f20 && git commit -qam third
git merge -q --no-edit topic
git stash list
echo stashed >>src/f30 && git stash -q && grep -qx 'file 30' src/f30 && git stash pop -q && git checkout -q .
git worktree add -q --no-checkout ../two topic && git -C ../two checkout -q topic -- src/new && test -f ../two/src/new && git worktree remove --force ../two
git gc -q --prune=now
git fsck --full --strict
git clone -q . ../clone
git clone -q --no-local --no-checkout . ../copy && git -C ../copy fsck
cd ../clone
test "$(git log --oneline | wc -l)" = 4 && test -x run && test "$(readlink src/link)" = f1
echo pushed >pushed && git add pushed && git commit -qm pushed && git push -q origin HEAD:refs/heads/from-clone
git rebase -q HEAD~1
cd ../one
git log --oneline from-clone | wc -l
test -z "$(git status --porcelain)"
cd ..
rm -rf one clone copy
test -z "$(ls -A)"
echo git done
