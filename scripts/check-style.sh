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

# What is for one system alone has files of its own, and others only choose among them: so a system is named on the line
# above a `mod` or `use` and, where a whole file is for one, at its top. There is no exception.
hits=$(git ls-files -co --exclude-standard '*.rs' | xargs awk '
    function settle(line) {
      if (held != "" && line !~ /^ *(pub(\([a-z ]+\))? )?(use [a-zA-Z]|mod [a-z0-9_]+;$)/) print held
      held = ""
    }
    FNR == 1 { settle("") }
    held != "" && /^ *#\[/ && !/target_/ { next }
    held != "" { settle($0) }
    /target_(os|vendor|family)|cfg!?\((unix|windows|not\(unix)|consts::(OS|FAMILY)/ {
      if ($0 ~ /^ *#\[cfg\(.*\)\]$/) held = FILENAME ":" FNR ": " $0
      else if ($0 !~ /^#!\[cfg\(target_os = "[a-z]+"\)\]$/) print FILENAME ":" FNR ": " $0
    }
    END { settle("") }')
if [ -n "$hits" ]; then
  printf '%s\n' "$hits" >&2
  complain "the lines above are for one system, in files that have others: give them a linux.rs or a macos.rs"
fi

for script in x .ci/run scripts/*.sh packaging/*/*.sh; do
  bash -n "$script" || complain "$script does not parse"
done

# Homebrew is not needed to see that its formula is Ruby.
if command -v ruby >/dev/null; then
  ruby -c packaging/homebrew/shed.rb >/dev/null || complain "packaging/homebrew/shed.rb does not parse"
fi

exit "$failed"
