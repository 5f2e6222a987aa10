# Runs as root inside the new root, on top of default: what lets programs use the extensions, for each that is there.
# Nothing is enabled here; the server says which extensions a shed has.
set -eu

have() { [ -x "/usr/local/bin/$1" ]; }

# NAMESPACE UNIT DESCRIPTION
manifest() {
    install -d -m 0755 /etc/shed-extensions.d
    printf 'namespace: %s\nsystemd_unit: %s\ndescription: %s\n' "$1" "$2" "$3" >"/etc/shed-extensions.d/$1.yaml"
}

# PROGRAM DESCRIPTION [LINES OF THE SERVICE]
unit() {
    cat >"/etc/systemd/system/$1.service" <<UNIT
[Unit]
Description=$2

[Service]
User=shed
ExecStart=/usr/local/bin/$1
Restart=always
RestartSec=2
# Another service has its socket there, too.
RuntimeDirectory=shed-extensions
RuntimeDirectoryPreserve=yes
${3:-}

[Install]
WantedBy=multi-user.target
UNIT
}

# A variable for every way into a shed: user services, and logins.
variable() {
    install -d -m 0755 /etc/environment.d
    echo "$1=$2" >>/etc/environment.d/shed-extensions.conf
    echo "export $1=$2" >>/etc/profile.d/shed-extensions.sh
}

if have shed-ssh-agent; then
    unit shed-ssh-agent "SSH agent whose keys stay on the host"
    manifest ssh-agent shed-ssh-agent.service "SSH keys"
    variable SSH_AUTH_SOCK /run/shed-extensions/ssh-agent.sock
fi
if have shed-aws-proxy; then
    # Its port, 499, is a privileged one.
    unit shed-aws-proxy "AWS credentials from the host" "AmbientCapabilities=CAP_NET_BIND_SERVICE"
    manifest aws-credentials shed-aws-proxy.service "AWS credentials"
    variable AWS_CONTAINER_CREDENTIALS_FULL_URI http://127.0.0.1:499/credentials
fi
if have docker-credential-shed; then
    install -d -m 0700 -o shed -g shed /home/shed/.docker
    echo '{"credsStore":"shed"}' >/home/shed/.docker/config.json
    chown shed:shed /home/shed/.docker/config.json
    install -d -m 0755 /etc/shed-extensions.d
    printf 'namespace: docker-credentials\ndescription: Docker registry logins\n' >/etc/shed-extensions.d/docker-credentials.yaml
fi
