# Runs as root inside the new root, on top of default. The programs of the extensions come with the agent, and it sets up
# what tools need to find them when the server enables one. Only where the build was given other programs, as for work on
# them, they are in /usr/local/bin, which the agent leaves as it is, and the units here start them instead of Shed's.
set -eu

# PROGRAM DESCRIPTION [LINE OF THE SERVICE]
unit() {
    [ -x "/usr/local/bin/$1" ] || return 0
    cat >"/etc/systemd/system/$1.service" <<UNIT
[Unit]
Description=$2
StartLimitIntervalSec=0

[Service]
User=shed
ExecStart=/usr/local/bin/$1
Restart=always
RestartSec=2
# Another service has its socket there, too.
RuntimeDirectory=shed-extensions
RuntimeDirectoryPreserve=yes
LimitCORE=0
${3:-}

[Install]
WantedBy=multi-user.target
UNIT
}

unit shed-ssh-agent "SSH agent whose keys stay on the user's machine"
# Its port, 499, is a privileged one.
unit shed-aws-proxy "AWS credentials from the user's machine" "AmbientCapabilities=CAP_NET_BIND_SERVICE"
