#!/usr/bin/env bash
# Makes a CA, all certificates and kubeconfigs under $T/pki. About 1 s.
set -euo pipefail; . "$(dirname "$0")/env.sh"
mkdir -p $T/pki; cd $T/pki
key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }
key ca; openssl req -x509 -new -key ca.key -subj /CN=e2e-ca -days 30 -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
cert() { # name subject [san]
  key $1; openssl req -new -key $1.key -subj "$2" -out $1.csr
  { echo 'extendedKeyUsage=serverAuth,clientAuth'; [ -z "${3:-}" ] || echo "subjectAltName=$3"; } > $1.ext
  openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile $1.ext -out $1.crt 2>/dev/null
}
conf() { # file cert
  cat > $1.conf <<Y
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://$CP_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 $1.crt), client-key-data: $(base64 -w0 $1.key)}}]
contexts: [{name: e2e, context: {cluster: e2e, user: u}}]
current-context: e2e
Y
}
cert apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$CP_IP,IP:10.96.0.1"
cert front-proxy /CN=front-proxy
cert admin /O=system:masters/CN=admin; conf admin
cert kcm /O=system:masters/CN=system:kube-controller-manager; conf kcm
cert scheduler /CN=system:kube-scheduler; conf scheduler
cert kube-proxy /CN=system:kube-proxy; conf kube-proxy
cert kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
for n in 1 2 3; do cert node$n /O=system:nodes/CN=system:node:node$n "DNS:node$n,IP:$UNDER.$((10+n))"; conf node$n; done
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
