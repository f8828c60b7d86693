#!/bin/sh
# The cluster key itself, 64 hexadecimal digits, typed on the terminal.
#   command:/usr/local/share/walcrypt/commands/direct.sh %R "%p"
set -eu
[ $# -ge 1 ] || { echo "usage: direct.sh %R [\"%p\"]" >&2; exit 1; }
terminal=$1
prompt=${PROMPT:-${2:-Cluster key: }}
before=$(stty -g <&"$terminal")
trap 'stty "$before" <&"$terminal"' EXIT
trap 'exit 1' INT TERM
stty -echo <&"$terminal"
printf '%s' "$prompt" >&"$terminal"
IFS= read -r key <&"$terminal"
echo >&"$terminal"
case $key in
*[!0-9A-Fa-f]*) echo "what was typed are not hexadecimal digits" >&2; exit 1 ;;
esac
[ ${#key} = 64 ] || { echo "what was typed are not 64 digits" >&2; exit 1; }
printf '%s\n' "$key"
