# Sourced by every script here. T is the private directory of one cluster (state, certificates, logs), P the prefix of its
# network namespaces and cgroups: two clusters of different T and P do not know of each other.
: "${T:?set T to an empty directory, e.g. T=\$(mktemp -d)}"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BIN=${BIN:-$("$HERE/build" --where)}
P=${P:-causeway}
UNDER=172.30.0                   # underlay: control plane .1, node N .(10+N); exists inside the namespaces only
CP_IP=$UNDER.1
SVC_CIDR=10.96.0.0/16 POD_CIDR=10.244.0.0/16 DNS_IP=10.96.0.10
PAUSE_IMAGE=e2e.local/pause:1
CNI_KIND=${CNI_KIND:-ptp}        # ptp (as kind does) or bridge
CTRD=${CTRD:-/usr/bin/containerd}
WARM=${WARM:-}
export KUBECONFIG=$T/pki/admin.conf
cp_exec() { nsenter --net="/run/netns/$P-cp" "$@"; }
k() { cp_exec "$BIN/kubectl" "$@"; }
now() { date +%s.%N; }
since() { echo "$(now) - $1" | bc; }
wait_for() { # seconds description command...
  local limit=$1 what=$2
  shift 2
  local end=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "timed out after $limit s: $what" >&2; return 1; }
    sleep 0.2
  done
}
