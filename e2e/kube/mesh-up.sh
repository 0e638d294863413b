#!/usr/bin/env bash
# CoreDNS, Gateway API CRDs, then upstream Istio ambient from the charts inside the istio.io/istio module.
# Skip parts with SKIP="cni ztunnel" to install the project's own charts instead.
set -euo pipefail; . "$(dirname "$0")/env.sh"; s=$(now); SKIP=" ${SKIP:-} "
MOD=$(go env GOMODCACHE); I=${ISTIO_SRC:-$MOD/istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad}; G=${GWAPI_SRC:-$MOD/sigs.k8s.io/gateway-api@v1.6.3}
h() { cp_exec $BIN/helm install "$@" >/dev/null; }
t() { echo "$1 after $(echo "$(now) - $s" | bc) s"; }
k apply -f $HERE/coredns.yaml >/dev/null
k create ns istio-system >/dev/null
k apply --server-side -f $G/config/crd/${CHANNEL:-standard}/ >/dev/null
h istio-base $I/manifests/charts/base -n istio-system; t "CRDs"
C="--set global.hub=e2e.local --set global.tag=1 --set global.variant= --set global.imagePullPolicy=IfNotPresent"
h istiod $I/manifests/charts/istio-control/istio-discovery -n istio-system --set profile=ambient $C \
  --set resources.requests.cpu=50m --set resources.requests.memory=128Mi --set autoscaleEnabled=false ${ISTIOD_ARGS:-}
case $SKIP in *" cni "*) ;; *) h istio-cni $I/manifests/charts/istio-cni -n istio-system --set profile=ambient $C ;; esac
case $SKIP in *" ztunnel "*) ;; *) h ztunnel $I/manifests/charts/ztunnel -n istio-system --set hub=e2e.local --set tag=1 --set variant= \
  --set imagePullPolicy=IfNotPresent --set resources.requests.memory=64Mi ;; esac
t "charts installed"
k -n kube-system rollout status deploy/coredns --timeout=60s >/dev/null; t "coredns ready"
k -n istio-system rollout status deploy/istiod --timeout=90s >/dev/null; t "istiod ready"
case $SKIP in *" cni "*) ;; *) k -n istio-system rollout status ds/istio-cni-node --timeout=60s >/dev/null; t "istio-cni ready" ;; esac
case $SKIP in *" ztunnel "*) ;; *) k -n istio-system rollout status ds/ztunnel --timeout=90s >/dev/null; t "ztunnel ready" ;; esac
