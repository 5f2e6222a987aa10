#!/usr/bin/env bash
# Checks what no compiler does: that documents name files which exist, that scripts parse, and that nothing of a
# particular machine has slipped into the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
complain() { printf 'style: %s\n' "$*" >&2; failed=1; }

# Every path in backticks that begins with one of our top folders must exist: documents drift exactly there.
while IFS=: read -r document path; do
  [ -e "$path" ] || complain "$document names $path, which does not exist"
done < <(git ls-files -co --exclude-standard '*.md' | xargs grep -oHE '`(bin|crates|guest|scripts|vm-tests|packaging|docs|\.ci|\.config)/[A-Za-z0-9_./-]*`' |
  tr -d '`' | sed -E 's/[.,]$//' | grep -vE '[<>*{}]' | sort -u)

# Checkouts and home directories of whoever wrote a line; recipes speak of the guest's root.
hits=$(git ls-files -co --exclude-standard | grep -vE '^(Cargo\.lock|scripts/check-style\.sh|guest/recipes/.*)$' |
  xargs grep -sInE '(/root/|/work/)' || true)
if [ -n "$hits" ]; then
  printf '%s\n' "$hits" >&2
  complain "the lines above name a path of one machine"
fi

# What is for macOS alone, or for every system but Linux, has files of its own; others only choose among them.
hits=$(git ls-files -co --exclude-standard 'bin/*.rs' 'crates/*.rs' | grep -vE '/macos(\.rs$|/)' |
  xargs awk '/target_os = "macos"|not\(target_os/ {
      held = FILENAME ":" FNR ": " $0; getline
      if ($0 !~ /^ *(pub(\([a-z]+\))? )?(mod|use) /) print held
    }')
if [ -n "$hits" ]; then
  printf '%s\n' "$hits" >&2
  complain "the lines above are for one system, in files that have others: give them a macos.rs"
fi

for script in x .ci/run scripts/*.sh packaging/*/*.sh; do
  bash -n "$script" || complain "$script does not parse"
done

# Homebrew is not needed to see that its formula is Ruby.
if command -v ruby >/dev/null; then
  ruby -c packaging/homebrew/shed.rb >/dev/null || complain "packaging/homebrew/shed.rb does not parse"
fi

exit "$failed"
