#!/usr/bin/env bash
# Runs LEASE_RUN while the ports are open. The job's token is asked of GitHub by postern itself, which needs
# `permissions: id-token: write` in the job.
set -euo pipefail

if ! command -v "$LEASE_BINARY" >/dev/null; then
    echo "::error::\`$LEASE_BINARY\` is not there; install it in a step before, or say where it is with \`binary\`"
    exit 127
fi

# Word by word, and never as a pattern.
words() { local word; for word in $1; do printf '%s\n' "$word"; done; }
set -f
# With `=`, so that no input is ever taken for another option.
arguments=(lease "--duration=$LEASE_DURATION" "--timeout=$LEASE_TIMEOUT" "--heartbeat=$LEASE_HEARTBEAT")
while read -r port; do arguments+=("--port=$port"); done < <(words "$LEASE_PORTS")
while read -r source; do arguments+=("--source=$source"); done < <(words "$LEASE_SOURCES")
if [ -n "$LEASE_REASON" ]; then arguments+=("--reason=$LEASE_REASON"); fi
if [ -n "$LEASE_KEY" ]; then arguments+=("--key=$LEASE_KEY"); fi
machines=()
while read -r machine; do
    case "$machine" in -*)
        echo "::error::a word of \`machines\` begins with a hyphen, and is no machine"
        exit 2
        ;;
    esac
    machines+=("$machine")
done < <(words "$LEASE_MACHINES")
if [ "${#machines[@]}" -eq 0 ]; then
    echo "::error::\`machines\` names none"
    exit 2
fi

# exec: a cancelled run signals this process, and postern passes it on and closes the ports.
exec "$LEASE_BINARY" "${arguments[@]}" "${machines[@]}" -- bash --noprofile --norc -eo pipefail -c "$LEASE_RUN"
