#!/bin/sh
# A cluster key out of a typed passphrase, as Cluster File Encryption's ckey_passphrase makes it: SHA-256 of the line.
#   command:/usr/local/share/walcrypt/commands/passphrase.sh %R "%p"
# For those who come from there; for a new key take passphrase:ask, whose scrypt makes guessing dear.
set -eu
[ $# -ge 1 ] || { echo "usage: passphrase.sh %R [\"%p\"]" >&2; exit 1; }
terminal=$1
prompt=${PROMPT:-${2:-Passphrase: }}
before=$(stty -g <&"$terminal")
trap 'stty "$before" <&"$terminal"' EXIT
trap 'exit 1' INT TERM
stty -echo <&"$terminal"
printf '%s' "$prompt" >&"$terminal"
IFS= read -r line <&"$terminal"
echo >&"$terminal"
[ -n "$line" ] || { echo "no passphrase was typed" >&2; exit 1; }
printf '%s\n' "$line" | sha256sum | cut -d' ' -f1
