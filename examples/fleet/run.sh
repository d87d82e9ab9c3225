#!/bin/bash
# Two servers on one store, and HAProxy before them; Ctrl-C stops all three. Addresses and folder: FLEET_*.
set -e
export FLEET_PROXY=${FLEET_PROXY:-127.0.0.1:8000}
export FLEET_FIRST=${FLEET_FIRST:-127.0.0.1:8001}
export FLEET_SECOND=${FLEET_SECOND:-127.0.0.1:8002}
export ACCLIMATE_DATA=${FLEET_DATA:-build/fleet}
export ACCLIMATE_SHARDED=true

trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
trap exit INT TERM
for server in "$FLEET_FIRST" "$FLEET_SECOND"; do
    acclimate serve --port "${server##*:}" &
done
# HAProxy takes servers for healthy until it has checked them.
for server in "$FLEET_FIRST" "$FLEET_SECOND"; do
    until curl -sf "http://$server/v2/health/ready" >/dev/null; do sleep 0.2; done
done
haproxy -f "$(dirname "$0")/haproxy.cfg" &
wait
