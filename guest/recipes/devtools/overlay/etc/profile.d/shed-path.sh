# Programs that a user installs for himself come first: pip and uv put them into ~/.local/bin, npm into the prefix that
# ~/.npmrc of this image names, which is the same directory.
case ":$PATH:" in
    *":$HOME/.local/bin:"*) ;;
    *) PATH="$HOME/.local/bin:$PATH" ;;
esac
export PATH
