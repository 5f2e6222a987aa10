#!/usr/bin/env bash
# The last part of `./x demo`: a server with its state in DEMO_DIR, a first shed in it, a command run there.
#
# Called by `x`, which has built everything. It never touches another server's state, and `stop` ends exactly the
# server it started.
set -euo pipefail

: "${TARGET_DIR:?run this through ./x demo}" "${GUEST_DIR:?}" "${DEMO_DIR:?}"
bin=$TARGET_DIR/release
shed() { "$bin/shed" --config "$DEMO_DIR/config.yaml" "$@"; }
say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

# The server's pid, if it is still the one that this script started.
server_pid() {
  local pid
  pid=$(cat "$DEMO_DIR/server.pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && grep -qz "$DEMO_DIR/server.yaml" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

stop() {
  local pid
  if pid=$(server_pid); then
    say "deleting the demo's sheds"
    shed list --json | jq -r '.sheds[]?.name' | while read -r name; do shed delete -f "$name"; done
    say "stopping the server (pid $pid)"
    kill "$pid"
    tail --pid="$pid" -f /dev/null
  else
    say "the demo's server is not running"
  fi
  rm -f "$DEMO_DIR/server.pid" "$DEMO_DIR/ready.json"
}

start() {
  mkdir -p "$DEMO_DIR"
  if server_pid >/dev/null; then
    say "the demo's server is already running"
  else
    cat > "$DEMO_DIR/server.yaml" <<YAML
# Written by ./x demo. Port 0 takes any free port; a server of your own would say 8080.
name: demo
http_port: ${SHED_DEMO_PORT:-0}
ssh_host_key: $DEMO_DIR/host_key
default_backend: qemu
qemu:
  images_dir: $GUEST_DIR
  instance_dir: $DEMO_DIR/instances
  socket_dir: $DEMO_DIR/s
YAML
    say "starting shed-server (log: $DEMO_DIR/server.log)"
    rm -f "$DEMO_DIR/ready.json"
    setsid "$bin/shed-server" serve --config "$DEMO_DIR/server.yaml" --ready-file "$DEMO_DIR/ready.json" \
      >> "$DEMO_DIR/server.log" 2>&1 < /dev/null &
    local pid=$!
    echo "$pid" > "$DEMO_DIR/server.pid"
    # The file appears, whole, when the server listens; if the server ends before that, its log says why.
    until [ -s "$DEMO_DIR/ready.json" ]; do
      kill -0 "$pid" 2>/dev/null || { tail -n 20 "$DEMO_DIR/server.log" >&2; echo "demo: the server did not start" >&2; exit 1; }
      sleep 0.05
    done
  fi
  local port
  port=$(jq -r .http_port "$DEMO_DIR/ready.json")
  shed server remove demo >/dev/null 2>&1 || true
  shed server add 127.0.0.1 --name demo --port "$port"

  if shed list --json | jq -e '.sheds[] | select(.name == "demo")' >/dev/null; then
    shed list --json | jq -e '.sheds[] | select(.name == "demo" and .status == "running")' >/dev/null || shed start demo
  else
    say "shed create demo"
    shed create demo --trace
  fi
  say "shed exec demo -- uname -a"
  shed exec demo -- uname -a

  cat >&2 <<TEXT

A shed is running. Go on with:

  alias shed='$bin/shed --config $DEMO_DIR/config.yaml'
  shed list -v
  shed exec demo                          # a login shell; leave with exit
  shed exec demo -- tmux new -d -s work   # goes on when you are gone
  shed stop demo && shed start demo       # files stay
  ./x demo stop                           # delete it all
TEXT
}

case ${1:?start or stop} in
  start) start ;;
  stop) stop ;;
  *) echo "demo: start or stop" >&2; exit 2 ;;
esac
