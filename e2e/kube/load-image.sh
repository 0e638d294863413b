#!/usr/bin/env bash
# load-image.sh TAR..: imports image archives into every running node.
set -euo pipefail; . "$(dirname "$0")/env.sh"
for p in $T/run/node*.pid; do c=$(cut -d' ' -f1 /proc/$(cat $p)/task/$(cat $p)/children)
  for i in "$@"; do nsenter -t $c -m ctr -n k8s.io images import --snapshotter overlayfs $i; done; done
