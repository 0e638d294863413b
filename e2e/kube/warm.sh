#!/usr/bin/env bash
# warm.sh: unpacks every image of $T/images once into $WARM/root; node.sh then hard-links it (cp -al) instead of importing.
# Blobs and committed snapshots are never written again, so sharing them is safe; only the *.db files are copied.
set -euo pipefail; . "$(dirname "$0")/env.sh"; WARM=${WARM:?}; rm -rf $WARM; mkdir -p $WARM; s=$(now)
PATH=$(dirname $CTRD):$PATH
cat > $WARM/c.toml <<J
version = 2
root = "$WARM/root"
state = "$WARM/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
  address = "$WARM/sock"
J
$CTRD --config $WARM/c.toml > $WARM/log 2>&1 & p=$!
until ctr -a $WARM/sock version >/dev/null 2>&1; do sleep 0.1; done
for i in $T/images/*.tar; do ctr -a $WARM/sock -n k8s.io images import --snapshotter overlayfs $i >/dev/null; done
ctr -a $WARM/sock -n k8s.io images ls -q | while read -r n; do ctr -a $WARM/sock -n k8s.io images label $n io.cri-containerd.image=managed >/dev/null; done
kill $p; wait $p || true; rm -rf $WARM/state $WARM/sock*; echo "warm root after $(echo "$(now) - $s" | bc) s, $(du -sh $WARM/root | cut -f1)"
