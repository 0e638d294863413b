{{- define "ztunnel.env" -}}
- name: XDS_ADDRESS
  value: {{ coalesce .Values.xdsAddress (include "causeway.istiod" .) | quote }}
- name: CA_ADDRESS
  value: {{ coalesce .Values.caAddress (include "causeway.global" (list . "caAddress")) (include "causeway.istiod" .) | quote }}
- name: CLUSTER_ID
  value: {{ include "causeway.clusterName" . | quote }}
{{- with coalesce .Values.network (include "causeway.global" (list . "network")) }}
- name: NETWORK
  value: {{ . | quote }}
{{- end }}
{{- with coalesce .Values.trustDomain (include "causeway.global" (list . "trustDomain")) }}
- name: TRUST_DOMAIN
  value: {{ . | quote }}
{{- end }}
- name: CLUSTER_DOMAIN
  value: {{ include "causeway.clusterDomain" . | quote }}
- name: RUST_LOG
  value: {{ include "causeway.logLevel" . | quote }}
- name: LOG_FORMAT
  value: {{ include "causeway.logFormat" . }}
- name: SAME_NODE
  value: {{ .Values.sameNode }}
- name: TERMINATION_GRACE_PERIOD_SECONDS
  value: {{ .Values.terminationGracePeriodSeconds | quote }}
{{ include "causeway.field" (list "POD_NAME" "metadata.name") }}
{{ include "causeway.field" (list "POD_NAMESPACE" "metadata.namespace") }}
{{ include "causeway.field" (list "NODE_NAME" "spec.nodeName") }}
{{ include "causeway.field" (list "INSTANCE_IP" "status.podIP") }}
{{ include "causeway.field" (list "SERVICE_ACCOUNT" "spec.serviceAccountName") }}
- name: ZTUNNEL_CPU_LIMIT
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
- name: ZTUNNEL_RESOURCE_CPU_REQUEST
  valueFrom:
    resourceFieldRef:
      resource: requests.cpu
{{- end -}}

{{/* OpenShift confines containers by SELinux; this one enters other pods' namespaces. */}}
{{- define "ztunnel.seLinux" -}}
{{- if .Values.seLinuxOptions -}}
{{ toYaml .Values.seLinuxOptions }}
{{- else if eq (include "causeway.platform" .) "openshift" -}}
type: spc_t
{{- end -}}
{{- end -}}
