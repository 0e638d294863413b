#!/usr/bin/env bash
# Makes image archives in $T/images from programs, without a registry: those that stand for Kubernetes' own and for the
# applications of the tests. POD names the program that those run (e2e/examples/pod), IMAGES a directory with further archives (`make images` fills one with ours).
set -euo pipefail; . "$(dirname "$0")/env.sh"; mkdir -p $T/images; cd $T/images
mk() { python3 $HERE/mkimage.py "$@"; }
mk pause.tar $PAUSE_IMAGE --entrypoint '["/pause"]' --user 65535:65535 $BIN/pause=/pause
# a shell with the usual applets, plus curl, ip, nft, iptables copied from this machine with their libraries
mk tools.tar e2e.local/tools:1 --ldd --entrypoint '["/bin/sleep"]' --cmd '["infinity"]' \
  --text "/etc/passwd=root:x:0:0:root:/root:/bin/sh" --text "/etc/nsswitch.conf=hosts: files dns" \
  $(for a in sh ls cat sleep wget nc nslookup httpd ps env hostname id grep tar mount netstat ping touch rm od tr sed; do echo --link /bin/$a=/bin/busybox; done) \
  ${POD:+$POD=/bin/pod} /bin/busybox /usr/bin/curl /sbin/ip=/sbin/ip /usr/sbin/nft=/sbin/nft $(ls /lib/x86_64-linux-gnu/libnss_{dns,files}.so.2 2>/dev/null)
[ ! -e $BIN/coredns ] || mk coredns.tar e2e.local/coredns:1 --entrypoint '["/coredns"]' $BIN/coredns=/coredns
# istiod, for the cases under it
[ ! -e $BIN/pilot-discovery ] || mk pilot.tar e2e.local/pilot:1 --ldd --entrypoint '["/usr/local/bin/pilot-discovery"]' --user 1337:1337 $BIN/pilot-discovery=/usr/local/bin/pilot-discovery
# The conformance images, under the names that the suite's manifests use: their repository is read from there.
if [ -e $BIN/echo-basic ]; then
  suite=$(cd $HERE/../tools/gateway-api && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)
  ECHO_REPO=$(grep -rhm1 'image:.*echo-basic' $suite --include=*.yaml | head -n 1 | sed 's/.*image: *//; s#/echo-basic.*##')
fi
for t in v1.5.1 v1.6.0-dev.2 v1.6.0-dev.3; do
  [ ! -e $BIN/echo-basic ] || mk echo-$t.tar "${ECHO_REPO:?}/echo-basic:$t" --entrypoint '["/echo-basic"]' $BIN/echo-basic=/echo-basic
done
# echo-advanced is Istio's echo server + client with a certificate at /cert.crt
if [ -e $BIN/echo-server ]; then
  [ -e cert.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=echo -keyout cert.key -out cert.crt 2>/dev/null
  mk echo-advanced.tar "$ECHO_REPO/echo-advanced:v1.5.1" --entrypoint '["/usr/local/bin/server"]' \
    $BIN/echo-server=/usr/local/bin/server $BIN/echo-client=/usr/local/bin/client cert.crt=/cert.crt cert.key=/cert.key
fi
[ -z "${IMAGES:-}" ] || ln -sf "$IMAGES"/*.tar .
