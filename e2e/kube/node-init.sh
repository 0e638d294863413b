#!/usr/bin/env bash
# pid 1 of a node's pid namespace (started by node.sh).
set -eu
PATH=$(dirname $CTRD):$PATH                     # ctr and the shim that belong to this containerd
mount --make-rprivate /
mount -t proc proc /proc
cg=$(ls /sys/fs/cgroup)
mount -t sysfs sysfs /sys                      # /sys/class/net of this network namespace
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in $cg; do                               # this cgroup namespace sees its own sub-tree as the root
  mkdir -p /sys/fs/cgroup/$c
  case $c in
    unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/$c ;;
    systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/$c ;;
    *) mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c ;;
  esac
done
b() { mkdir -p $2; mount --bind $D/$1 $2; }
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/netns /run/lock
b etc-cni /etc/cni; b opt-cni-bin /opt/cni/bin; b etc-kubernetes /etc/kubernetes; b var-lib-kubelet /var/lib/kubelet
b var-lib-containerd /var/lib/containerd; b var-lib-cni /var/lib/cni; b var-log-pods /var/log/pods; b var-log-containers /var/log/containers
mount --make-rshared /                         # hostPath volumes with mountPropagation need shared mounts
hostname $NODE
$CTRD --config $D/containerd.toml > $T/log/$NODE-containerd.log 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
[ -n "$WARM" ] || for i in $T/images/*.tar; do ctr -n k8s.io images import --snapshotter overlayfs $i; done
$BIN/kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=$T/pki/$NODE.conf --hostname-override=$NODE --node-ip=$IP \
  --cert-dir=/var/lib/kubelet/pki ${KUBELET_ARGS:-} > $T/log/$NODE-kubelet.log 2>&1 &
$BIN/kube-proxy --config=/etc/kubernetes/kube-proxy.yaml > $T/log/$NODE-kube-proxy.log 2>&1 &
while :; do wait -n || true; sleep 1; done
