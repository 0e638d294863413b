{{/*
What every chart here says in the same way. charts/shared/_causeway.tpl is the original; each chart carries a copy, so that it
can be packaged alone (`make charts` and a test see to it that they are equal).
*/}}

{{/* A global value by its path, empty when nobody set it: include "causeway.global" (list . "logging.level") */}}
{{- define "causeway.global" -}}
{{- $at := (index . 0).Values.global | default dict -}}
{{- range splitList "." (index . 1) -}}
{{- $at = ternary (get $at .) dict (hasKey $at .) | default "" -}}
{{- if not (kindIs "map" $at) }}{{ $at }}{{ $at = dict }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Namespace of the control plane. Only a waypoint is installed elsewhere by its nature. */}}
{{- define "causeway.istioNamespace" -}}
{{- $usual := ternary "istio-system" .Release.Namespace (eq .Chart.Name "waypoint") -}}
{{ coalesce .Values.istioNamespace (include "causeway.global" (list . "istioNamespace")) $usual }}
{{- end -}}

{{/* Address of whoever configures the mesh: ours or an istiod; both are called istiod. */}}
{{- define "causeway.istiod" -}}
{{- $revision := .Values.revision | default "" -}}
{{- $name := ternary "istiod" (printf "istiod-%s" $revision) (or (empty $revision) (eq $revision "default")) -}}
{{ coalesce (include "causeway.global" (list . "istiodAddress")) (printf "%s.%s.svc:15012" $name (include "causeway.istioNamespace" .)) }}
{{- end -}}

{{- define "causeway.clusterDomain" -}}
{{ coalesce .Values.clusterDomain (include "causeway.global" (list . "proxy.clusterDomain")) "cluster.local" }}
{{- end -}}

{{/* A value with a slash is a whole image; else hub/name:tag. */}}
{{- define "causeway.image" -}}
{{- if contains "/" .Values.image -}}
{{ .Values.image }}
{{- else -}}
{{- $hub := coalesce .Values.hub (include "causeway.global" (list . "hub")) "localhost/causeway" -}}
{{- $tag := coalesce .Values.tag (include "causeway.global" (list . "tag")) .Chart.AppVersion -}}
{{ $hub }}/{{ .Values.image }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{/* imagePullPolicy, as a line; Kubernetes decides when nobody does. */}}
{{- define "causeway.pullPolicy" -}}
{{- with coalesce .Values.imagePullPolicy (include "causeway.global" (list . "imagePullPolicy")) }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{/* imagePullSecrets of a pod or service account: names, as in Istio's charts. */}}
{{- define "causeway.pullSecrets" -}}
{{- $global := .Values.global | default dict -}}
{{- with .Values.imagePullSecrets | default (get $global "imagePullSecrets") }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "causeway.logLevel" -}}
{{ coalesce .Values.logLevel (include "causeway.global" (list . "logging.level")) "info" }}
{{- end -}}

{{- define "causeway.logFormat" -}}
{{- if or .Values.logAsJson (eq "true" (include "causeway.global" (list . "logAsJson"))) }}json{{ else }}plain{{ end -}}
{{- end -}}

{{- define "causeway.clusterName" -}}
{{ coalesce (.Values.multiCluster).clusterName (include "causeway.global" (list . "multiCluster.clusterName")) "Kubernetes" }}
{{- end -}}

{{- define "causeway.platform" -}}
{{ coalesce .Values.platform (include "causeway.global" (list . "platform")) | default "" }}
{{- end -}}

{{- define "causeway.networkPolicy" -}}
{{- if or (.Values.networkPolicy).enabled (eq "true" (include "causeway.global" (list . "networkPolicy.enabled"))) }}true{{ end -}}
{{- end -}}

{{/* What the chart causeway says to a part means nothing where that part is installed alone. */}}
{{- define "causeway.alone" -}}
{{- if and .Chart.IsRoot (hasKey .Values "enabled") -}}
{{- fail "enabled: only the chart causeway leaves a part away" -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. The chart's own name goes in as the second argument: an alias must not change it. */}}
{{- define "causeway.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: causeway
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ index . 1 }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
Variables of a container: those of the chart, but `env` wins, and Istio's proxyMetadata before the chart's:
include "causeway.variables" (list . $theirs)
*/}}
{{- define "causeway.variables" -}}
{{- $values := (index . 0).Values -}}
{{- $set := merge dict ($values.env | default dict) ((($values.meshConfig).defaultConfig).proxyMetadata | default dict) -}}
{{- range index . 1 | fromYamlArray }}
{{- if not (hasKey $set .name) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- range $name, $value := $set }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{/* A variable that names the pod's own field. */}}
{{- define "causeway.field" -}}
- name: {{ index . 0 }}
  valueFrom:
    fieldRef:
      fieldPath: {{ index . 1 }}
{{- end -}}
