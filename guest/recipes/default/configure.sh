# Runs as root inside the new root, on top of devtools: OpenCode and Codex CLI. See devtools for where packages come from.
set -eu

# Taken apart below, so new ones are tried before they are taken.
CODEX=0.169.0
OPENCODE=1.18.33

case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
npm() {
    /usr/local/bin/npm --prefix /usr/local --no-audit --no-fund --loglevel=error "$@"
}

# ---- Codex CLI ------------------------------------------------------------------------------------------------------
npm install --global --ignore-scripts "@openai/codex@$CODEX"

# ---- OpenCode -------------------------------------------------------------------------------------------------------
# Its package names a program for every processor, and its install script takes the one for the machine that builds. An
# image runs on others, too: on amd64 the program that needs no AVX2.
npm install --global --ignore-scripts "opencode-ai@$OPENCODE"
opencode=/usr/local/lib/node_modules/opencode-ai
case $arch in x64) program=opencode-linux-x64-baseline ;; *) program=opencode-linux-$arch ;; esac
mv "$opencode/node_modules/$program/bin/opencode" "$opencode/bin/opencode.exe"
chmod 0755 "$opencode/bin/opencode.exe"
rm -r "$opencode/node_modules"

# ---- leave nothing of the build behind ------------------------------------------------------------------------------
rm -f /usr/local/lib/node_modules/.package-lock.json
