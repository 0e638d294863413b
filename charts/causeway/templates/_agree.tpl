{{/*
Values of different parts that must go together. A part cannot see another's, so what does not is refused here, with the value
to set. Compared are the containers' variables as they come out, so that `env` counts too.
*/}}
{{- define "causeway.agree" -}}
{{- if and .Values.controlPlane.enabled .Values.ztunnel.enabled -}}
{{- $plane := include "causeway.settings" (list .Subcharts.controlPlane "control-plane.env") | fromJson -}}
{{- $node := include "causeway.settings" (list .Subcharts.ztunnel "ztunnel.env") | fromJson -}}
{{- include "causeway.agreeSettings" (list $plane $node) -}}
{{- include "causeway.agreeAddress" (list . $node) -}}
{{- include "causeway.agreeAccount" (list . $plane) -}}
{{- end -}}
{{- if and .Values.cni.enabled .Values.ztunnel.enabled -}}
{{- include "causeway.agreeDns" . -}}
{{- end -}}
{{- end -}}

{{/* Variables of a part by name, as JSON: include "causeway.settings" (list .Subcharts.ztunnel "ztunnel.env") */}}
{{- define "causeway.settings" -}}
{{- $found := dict -}}
{{- range include "causeway.variables" (list (index . 0) (include (index . 1) (index . 0))) | fromYamlArray -}}
{{- $_ := set $found .name (.value | default "" | toString) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- define "causeway.agreeSettings" -}}
{{- $plane := index . 0 -}}
{{- $node := index . 1 -}}
{{- $pairs := list
  (list "TRUST_DOMAIN" "TRUST_DOMAIN" "cluster.local" "global.trustDomain")
  (list "CLUSTER_ID" "CLUSTER_ID" "Kubernetes" "global.multiCluster.clusterName")
  (list "NETWORK" "NETWORK" "" "global.network")
  (list "DOMAIN" "CLUSTER_DOMAIN" "cluster.local" "global.proxy.clusterDomain")
-}}
{{- range $pairs -}}
{{- $theirs := get $plane (index . 0) | default (index . 2) -}}
{{- $ours := get $node (index . 1) | default (index . 2) -}}
{{- if ne $theirs $ours -}}
{{- fail (printf "%s: the control plane would have %s=%q, but ztunnel %s=%q: set %s, which both read, and not a value of one of them" (index . 3) (index . 0) $theirs (index . 1) $ours (index . 3)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where ztunnel looks for the control plane; not asked about when somebody says where that is. */}}
{{- define "causeway.agreeAddress" -}}
{{- $root := index . 0 -}}
{{- $service := printf "%s.%s.svc:15012" (include "control-plane.service" $root.Subcharts.controlPlane) $root.Release.Namespace -}}
{{- $values := $root.Values.ztunnel -}}
{{- $global := include "causeway.global" (list $root "istiodAddress") -}}
{{- $said := dict "XDS_ADDRESS" $values.xdsAddress "CA_ADDRESS" (or $values.caAddress (include "causeway.global" (list $root "caAddress"))) -}}
{{- range $name, $address := $said -}}
{{- $looks := get (index $ 1) $name -}}
{{- if not (or $global $address (hasKey ($values.env | default dict) $name) (eq $looks $service)) -}}
{{- fail (printf "global.istiodAddress: this release has the control plane at %s (controlPlane.serviceName, controlPlane.revision), but ztunnel would look for it at %s (ztunnel.revision, ztunnel.istioNamespace): set global.istiodAddress=%s" $service $looks $service) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The control plane gives certificates of a node's pods to this account alone. */}}
{{- define "causeway.agreeAccount" -}}
{{- $root := index . 0 -}}
{{- $name := $root.Values.ztunnel.resourceName -}}
{{- $runs := printf "%s/%s" $root.Release.Namespace $name -}}
{{- $trusted := get (index . 1) "CA_TRUSTED_NODE_ACCOUNTS" -}}
{{- if not (has $runs (splitList "," (nospace $trusted))) -}}
{{- fail (printf "controlPlane.trustedZtunnelName: the control plane would give certificates to %s alone, but ztunnel runs as %s (ztunnel.resourceName): set controlPlane.trustedZtunnelName=%s, and leave controlPlane.trustedZtunnelNamespace empty" $trusted $runs $name) -}}
{{- end -}}
{{- end -}}

{{/* Names that the node agent sends to ztunnel must be answered there. */}}
{{- define "causeway.agreeDns" -}}
{{- $node := include "causeway.settings" (list .Subcharts.ztunnel "ztunnel.env") | fromJson -}}
{{- $sent := get (.Values.cni.env | default dict) "AMBIENT_DNS_CAPTURE" | default .Values.cni.ambient.dnsCapture | toString -}}
{{- if and (eq $sent "true") (eq (get $node "ISTIO_META_DNS_CAPTURE") "false") -}}
{{- fail "cni.ambient.dnsCapture: pods' DNS would go to ztunnel, whose ISTIO_META_DNS_CAPTURE is false: set cni.ambient.dnsCapture=false" -}}
{{- end -}}
{{- end -}}
