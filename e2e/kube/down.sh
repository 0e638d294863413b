#!/usr/bin/env bash
# Ends what up.sh/node.sh started (by pid), then removes namespaces, cgroups. $T itself stays (logs).
set -u; . "$(dirname "$0")/env.sh"
pids=; for f in $T/run/*.pid; do [ -e $f ] && { p=$(cat $f); pids="$pids $p"; }; done
for f in $T/run/node*.pid; do [ -e $f ] && { p=$(cat $f); pids="$(cat /proc/$p/task/$p/children 2>/dev/null) $pids"; }; done
kill -9 $(for f in $T/run/node*.pid; do cat $f 2>/dev/null; done) 2>/dev/null   # unshare --kill-child takes the pid namespace with it
kill $pids 2>/dev/null; sleep 1; kill -9 $pids 2>/dev/null
for n in $(ip netns list | awk '{print $1}' | grep "^$P-"); do ip netns del $n; done
for i in 1 2 3 4 5; do
  find /sys/fs/cgroup/*/$P-node* -depth -type d -exec rmdir {} + 2>/dev/null
  ls -d /sys/fs/cgroup/*/$P-node* >/dev/null 2>&1 || break; sleep 0.5
done
[ ! -e $T/run/sysctl ] || sysctl -qw $(cat $T/run/sysctl)
rm -f $T/run/*.pid
