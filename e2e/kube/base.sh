#!/usr/bin/env bash
# What every cluster has before a mesh: CoreDNS and the custom resources of Gateway API. Called after the nodes are ready.
set -euo pipefail; . "$(dirname "$0")/env.sh"
k apply -f "$HERE/coredns.yaml" >/dev/null
if [ "${CRDS:-yes}" = yes ]; then
  gateway=${GATEWAY_API:-$(cd "$HERE/../tools/gateway-api" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)}
  k apply --server-side -f "$gateway/config/crd/${CHANNEL:-standard}/" >/dev/null
fi
k -n kube-system rollout status deploy/coredns --timeout=60s >/dev/null
