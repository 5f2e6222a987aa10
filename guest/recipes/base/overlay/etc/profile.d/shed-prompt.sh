# The prompt says which shed this is, since many may be open side by side. The agent sets SHED_NAME.
if [ -n "${SHED_NAME:-}" ] && [ -n "${BASH_VERSION:-}" ] && [ -n "${PS1:-}" ]; then
    if [ "$(id -u)" = 0 ]; then
        PS1='root@shed:${SHED_NAME}:\w# '
    else
        PS1='shed:${SHED_NAME}:\w\$ '
    fi
    # The title of the terminal's window too, where it has one.
    case "${TERM:-}" in
        xterm* | rxvt* | tmux* | screen*) PS1="\[\e]0;shed:${SHED_NAME}: \w\a\]$PS1" ;;
    esac
fi
