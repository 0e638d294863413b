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
