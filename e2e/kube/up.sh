#!/usr/bin/env bash
# Control plane in its own network namespace: etcd, kube-apiserver, controller-manager, scheduler.
set -euo pipefail; . "$(dirname "$0")/env.sh"
mkdir -p $T/log $T/etcd $T/run; s=$(now)
# the kubelet sets these for the whole machine; down.sh puts them back
sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops | tr -d ' ' > $T/run/sysctl
[ -f $T/pki/admin.conf ] || bash $HERE/pki.sh
if [ ! -e /run/netns/$P-cp ]; then
  ip netns add $P-cp
  ip -n $P-cp link set lo up
  ip -n $P-cp link add br0 type bridge
  ip -n $P-cp addr add $CP_IP/24 dev br0
  ip -n $P-cp link set br0 up
  nsenter --net=/run/netns/$P-cp sysctl -qw net.ipv4.ip_forward=1
fi
bg() { # name command...
  local n=$1; shift
  setsid nsenter --net=/run/netns/$P-cp "$@" > $T/log/$n.log 2>&1 < /dev/null &
  echo $! > $T/run/$n.pid
}
bg etcd $BIN/etcd --name e2e --data-dir $T/etcd --unsafe-no-fsync \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster e2e=http://127.0.0.1:2380
bg kube-apiserver $BIN/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --advertise-address=$CP_IP \
  --service-cluster-ip-range=$SVC_CIDR --tls-cert-file=$T/pki/apiserver.crt --tls-private-key-file=$T/pki/apiserver.key \
  --client-ca-file=$T/pki/ca.crt --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=$T/pki/sa.pub \
  --service-account-signing-key-file=$T/pki/sa.key --kubelet-client-certificate=$T/pki/kubelet-client.crt \
  --kubelet-client-key=$T/pki/kubelet-client.key --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true \
  --requestheader-client-ca-file=$T/pki/ca.crt --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
  --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=$T/pki/front-proxy.crt --proxy-client-key-file=$T/pki/front-proxy.key \
  --watch-cache=true --profiling=false --cert-dir=$T/run ${APISERVER_ARGS:-}
wait_for 60 apiserver k get --raw=/readyz
echo "apiserver ready after $(echo "$(now) - $s" | bc) s"
bg kube-controller-manager $BIN/kube-controller-manager --kubeconfig=$T/pki/kcm.conf --authentication-kubeconfig=$T/pki/kcm.conf \
  --authorization-kubeconfig=$T/pki/kcm.conf --service-account-private-key-file=$T/pki/sa.key --root-ca-file=$T/pki/ca.crt \
  --cluster-signing-cert-file=$T/pki/ca.crt --cluster-signing-key-file=$T/pki/ca.key --kube-api-qps=500 --kube-api-burst=1000 \
  --flex-volume-plugin-dir=$T/run/flex --leader-elect=false --bind-address=127.0.0.1 --node-monitor-grace-period=20s --cert-dir=$T/run
bg kube-scheduler $BIN/kube-scheduler --kubeconfig=$T/pki/scheduler.conf --authentication-kubeconfig=$T/pki/scheduler.conf \
  --authorization-kubeconfig=$T/pki/scheduler.conf --leader-elect=false --bind-address=127.0.0.1 --cert-dir=$T/run
wait_for 30 "default service account" k -n default get serviceaccount default
echo "control plane ready after $(echo "$(now) - $s" | bc) s"
