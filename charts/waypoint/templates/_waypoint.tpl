{{- define "waypoint.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end -}}

{{- define "waypoint.account" -}}
{{ .Values.serviceAccount.name | default (include "waypoint.name" .) }}
{{- end -}}

{{/* Labels by which control planes know a waypoint's objects. */}}
{{- define "waypoint.marks" -}}
gateway.networking.k8s.io/gateway-name: {{ include "waypoint.name" . }}
gateway.networking.k8s.io/gateway-class-name: {{ .Values.gateway.className }}
{{- end -}}

{{- define "waypoint.env" -}}
{{ include "causeway.field" (list "POD_NAME" "metadata.name") }}
{{ include "causeway.field" (list "POD_NAMESPACE" "metadata.namespace") }}
{{ include "causeway.field" (list "INSTANCE_IP" "status.podIP") }}
{{ include "causeway.field" (list "SERVICE_ACCOUNT" "spec.serviceAccountName") }}
{{ include "causeway.field" (list "ISTIO_META_NODE_NAME" "spec.nodeName") }}
- name: XDS_ADDRESS
  value: {{ coalesce .Values.xdsAddress (include "causeway.istiod" .) | quote }}
- name: CA_ADDR
  value: {{ coalesce .Values.caAddress (include "causeway.global" (list . "caAddress")) (include "causeway.istiod" .) | quote }}
- name: ISTIO_META_CLUSTER_ID
  value: {{ include "causeway.clusterName" . | quote }}
{{- with coalesce .Values.network (include "causeway.global" (list . "network")) }}
- name: ISTIO_META_NETWORK
  value: {{ . | quote }}
{{- end }}
{{- with coalesce .Values.trustDomain (include "causeway.global" (list . "trustDomain")) }}
- name: TRUST_DOMAIN
  value: {{ . | quote }}
{{- end }}
- name: CLUSTER_DOMAIN
  value: {{ include "causeway.clusterDomain" . | quote }}
- name: ISTIO_META_WORKLOAD_NAME
  value: {{ include "waypoint.name" . | quote }}
- name: TERMINATION_GRACE_PERIOD
  value: {{ printf "%ds" (max 1 (sub (int .Values.terminationGracePeriodSeconds) 5)) }}
- name: RUST_LOG
  value: {{ include "causeway.logLevel" . | quote }}
- name: LOG_FORMAT
  value: {{ include "causeway.logFormat" . }}
{{- end -}}
