{{/* What is set, else what the platform has, else the default: include "cni.of" (list . "cniBinDir") */}}
{{- define "cni.of" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $tables := $root.Files.Get "platforms.yaml" | fromYaml -}}
{{- $platform := include "causeway.platform" $root -}}
{{- if and $platform (not (hasKey $tables $platform)) -}}
{{- fail (printf "platform: %q is not known; allowed are %s" $platform (keys (omit $tables "default") | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $own := get $tables $platform | default dict -}}
{{ coalesce (get $root.Values $name | toString) (get $own $name) (get $tables.default $name) | default "" }}
{{- end -}}

{{- define "cni.chained" -}}
{{ include "cni.of" (list . "chained") | default "true" }}
{{- end -}}

{{/* Values that would do nothing. */}}
{{- define "cni.check" -}}
{{- $file := include "cni.of" (list . "cniConfFileName") -}}
{{- if eq (include "cni.chained" .) "false" -}}
{{- if .Values.istioOwnedCNIConfig -}}
{{- fail "istioOwnedCNIConfig: a copy of the cluster's configuration has the plugin in its list: set chained=true, or istioOwnedCNIConfig=false" -}}
{{- end -}}
{{- if and $file (not (hasSuffix ".conf" $file)) -}}
{{- fail (printf "cniConfFileName: %q would hold one plugin (chained is false), and only files named *.conf are read as such" $file) -}}
{{- end -}}
{{- else if eq (include "cni.of" (list . "provider")) "multus" -}}
{{- fail "provider: multus calls plugins that have a file of their own: set chained=false and cniConfDir=/etc/cni/multus/net.d, or leave provider empty" -}}
{{- end -}}
{{- end -}}

{{/* What somebody must know who puts pods into the mesh here. */}}
{{- define "cni.warnings" -}}
{{- if eq (include "cni.of" (list . "provider")) "multus" }}

Multus calls the plugin only for pods with the annotation `k8s.v1.cni.cncf.io/networks: default/causeway-cni`. Others in the
mesh START BEFORE THEY ARE CAPTURED, and talk plain text until the agent has found them.
{{- else if hasSuffix "/vendor-cni-chain" (include "cni.of" (list . "cniConfDir")) }}

OpenShift's multus calls the plugin for every pod, since OpenShift 4.18. See that yours does:

  oc -n openshift-multus get configmap multus-daemon-config -o yaml | grep vendor-cni-chain

Where this prints nothing, pods START BEFORE THEY ARE CAPTURED, and talk plain text until the agent has found them. So do pods
that start after a reboot of their node and before its agent, as the plugin's file does not outlive a reboot.
{{- end }}
{{- end -}}

{{- define "cni.seLinux" -}}
{{- if .Values.seLinuxOptions -}}
{{ toYaml .Values.seLinuxOptions }}
{{- else -}}
{{- with include "cni.of" (list . "seLinuxType") }}type: {{ . }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Rules by nftables, unless nodes need iptables. (`default` would take false for not set.) */}}
{{- define "cni.nftables" -}}
{{- $global := .Values.global | default dict -}}
{{- ternary $global.nativeNftables true (hasKey $global "nativeNftables") -}}
{{- end -}}

{{- define "cni.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "cni.env" -}}
{{ include "causeway.field" (list "NODE_NAME" "spec.nodeName") }}
{{ include "causeway.field" (list "POD_NAME" "metadata.name") }}
{{ include "causeway.field" (list "POD_NAMESPACE" "metadata.namespace") }}
{{- end -}}
