#!/usr/bin/env bash
# node.sh N: one "node" = own network, mount, pid, uts, ipc and cgroup namespace with containerd, kubelet, kube-proxy.
set -euo pipefail; . "$(dirname "$0")/env.sh"
N=$1; NODE=node$N; IP=$UNDER.$((10+N)); D=$T/$NODE; NS=$P-$NODE; s=$(now)
mkdir -p $D/{etc-cni,etc-kubernetes,opt-cni-bin,var-lib-kubelet,var-lib-containerd,var-lib-cni,var-log-pods,var-log-containers,images}
[ -e $D/opt-cni-bin/bridge ] || cp /usr/lib/cni/* $D/opt-cni-bin/
if [ -n "${WARM:-}" ] && [ -d $WARM/root ] && [ ! -e $D/var-lib-containerd/io.containerd.metadata.v1.bolt ]; then
  cp -al $WARM/root/. $D/var-lib-containerd/      # same file system as $T
  find $D/var-lib-containerd -name '*.db' | while read -r f; do cp $f $f.n; mv $f.n $f; done
fi
# --- network namespace, veth to the control plane's bridge, routes to the other nodes' pods
ip netns del $NS 2>/dev/null || true; ip netns add $NS     # del: node.sh also restarts a crashed node
ip -n $P-cp link add v$N type veth peer name eth0 netns $NS
ip -n $P-cp link set v$N master br0 up
ip -n $NS link set lo up; ip -n $NS addr add $IP/24 dev eth0; ip -n $NS link set eth0 up
ip -n $NS route add default via $CP_IP
nsenter --net=/run/netns/$NS sysctl -qw net.ipv4.ip_forward=1
ip -n $P-cp route replace 10.244.$N.0/24 via $IP
[ $N != 1 ] || ip -n $P-cp route replace $SVC_CIDR via $IP    # Service VIPs from the control plane namespace (tests run there)
for m in 1 2 3; do [ $m = $N ] || ip -n $NS route add 10.244.$m.0/24 via $UNDER.$((10+m)); done
# --- configuration
mkdir -p $D/etc-cni/net.d
if [ $CNI_KIND = ptp ]; then MAIN='"type": "ptp", "ipMasq": false'
else MAIN='"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false'; fi
cat > $D/etc-cni/net.d/10-e2e.conflist <<J
{"cniVersion": "0.4.0", "name": "e2e", "plugins": [
  {$MAIN, "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks",
    "ranges": [[{"subnet": "10.244.$N.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
if $CTRD --version | grep -q ' v\?2\.'; then cat > $D/containerd.toml <<J
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "$PAUSE_IMAGE"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
J
else cat > $D/containerd.toml <<J
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
J
fi
cat > $D/etc-kubernetes/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 20000
clusterDNS: ["$DNS_IP"]
clusterDomain: cluster.local
volumePluginDir: /var/lib/kubelet/volumeplugins
resolvConf: /etc/kubernetes/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $T/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $T/pki/$NODE.crt
tlsPrivateKeyFile: $T/pki/$NODE.key
nodeStatusUpdateFrequency: 4s
syncFrequency: 10s
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
Y
: > $D/etc-kubernetes/resolv.conf
cat > $D/etc-kubernetes/kube-proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $T/pki/kube-proxy.conf}
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
bindAddress: $IP
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 0s}
Y
# --- cgroup per node; then start
for c in /sys/fs/cgroup/*/; do
  mkdir -p $c$P-$NODE
  [ ! -e $c/cpuset.cpus ] || { cat $c/cpuset.cpus > $c$P-$NODE/cpuset.cpus; cat $c/cpuset.mems > $c$P-$NODE/cpuset.mems; }
done
export T BIN P N NODE IP D PAUSE_IMAGE CTRD WARM=${WARM:-}
setsid bash -c 'for c in /sys/fs/cgroup/*/; do echo $$ > $c$0/cgroup.procs; done
  exec nsenter --net=/run/netns/$0 unshare --mount --uts --pid --ipc --cgroup --fork --kill-child bash $1' $NS $HERE/node-init.sh > $T/log/$NODE-init.log 2>&1 < /dev/null &
echo $! > $T/run/$NODE.pid
wait_for 60 "$NODE registered" k get node $NODE
k label node $NODE --overwrite kubernetes.io/hostname=$NODE node-role.kubernetes.io/worker= >/dev/null
wait_for 60 "$NODE Ready" sh -c "KUBECONFIG=$KUBECONFIG nsenter --net=/run/netns/$P-cp $BIN/kubectl get node $NODE -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}' | grep -q True"
echo "$NODE Ready after $(echo "$(now) - $s" | bc) s"
