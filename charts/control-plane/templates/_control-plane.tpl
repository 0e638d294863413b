{{- define "control-plane.service" -}}
{{- $revision := .Values.revision | default "" -}}
{{ .Values.serviceName }}{{ if not (or (empty $revision) (eq $revision "default")) }}-{{ $revision }}{{ end }}
{{- end -}}

{{/* Where policies hold mesh-wide. */}}
{{- define "control-plane.rootNamespace" -}}
{{ .Values.meshConfig.rootNamespace | default .Release.Namespace }}
{{- end -}}

{{/* Others would look for it where global.istioNamespace says. */}}
{{- define "control-plane.check" -}}
{{- with include "causeway.global" (list . "istioNamespace") -}}
{{- if ne . $.Release.Namespace -}}
{{- fail (printf "global.istioNamespace: others would look for the control plane in %q, but this release has it in %q: leave it empty, or install with -n %s. (Where policies hold mesh-wide: meshConfig.rootNamespace.)" . $.Release.Namespace .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "control-plane.serverNames" -}}
{{- $names := list -}}
{{- range list (include "control-plane.service" .) "istiod" | uniq -}}
{{- $host := printf "%s.%s" . $.Release.Namespace -}}
{{- $names = concat $names (list (printf "%s.svc" $host) (printf "%s.svc.%s" $host (include "causeway.clusterDomain" $)) $host) -}}
{{- end -}}
{{ concat $names (list "localhost" "127.0.0.1" "::1") | join "," }}
{{- end -}}

{{- define "control-plane.waypointImage" -}}
{{- $values := dict "image" .Values.waypoint.image "hub" .Values.hub "tag" .Values.tag "global" .Values.global -}}
{{ include "causeway.image" (dict "Values" $values "Chart" .Chart) }}
{{- end -}}

{{/* What Istio's charts call global.waypoint. */}}
{{- define "control-plane.waypointValues" -}}
{{- (.Values.global | default dict).waypoint | default dict | toJson -}}
{{- end -}}

{{- define "control-plane.env" -}}
{{ include "causeway.field" (list "POD_NAME" "metadata.name") }}
{{ include "causeway.field" (list "POD_NAMESPACE" "metadata.namespace") }}
# What ends it or changes its log stays on localhost.
- name: MONITORING_LISTEN
  value: "[::]:15014"
- name: ADMIN_LISTEN
  value: "127.0.0.1:8080"
- name: XDS_LISTEN
  value: "[::]:15012"
- name: CLUSTER_ID
  value: {{ include "causeway.clusterName" . | quote }}
{{- with coalesce .Values.network (include "causeway.global" (list . "network")) }}
- name: NETWORK
  value: {{ . | quote }}
{{- end }}
{{- with coalesce .Values.meshConfig.trustDomain (include "causeway.global" (list . "trustDomain")) }}
- name: TRUST_DOMAIN
  value: {{ . | quote }}
{{- end }}
- name: DOMAIN
  value: {{ include "causeway.clusterDomain" . | quote }}
- name: ROOT_NAMESPACE
  value: {{ include "control-plane.rootNamespace" . | quote }}
- name: SERVER_NAMES
  value: {{ include "control-plane.serverNames" . | quote }}
- name: CA_TRUSTED_NODE_ACCOUNTS
  value: {{ printf "%s/%s" (.Values.trustedZtunnelNamespace | default .Release.Namespace) .Values.trustedZtunnelName | quote }}
{{- if .Values.waypoint.deploy }}
- name: WAYPOINT_IMAGE
  value: {{ include "control-plane.waypointImage" . | quote }}
{{- with coalesce .Values.imagePullPolicy (include "causeway.global" (list . "imagePullPolicy")) }}
- name: WAYPOINT_IMAGE_PULL_POLICY
  value: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets | default (.Values.global).imagePullSecrets }}
- name: WAYPOINT_IMAGE_PULL_SECRETS
  value: {{ join "," . | quote }}
{{- end }}
- name: WAYPOINT_VALUES
  value: {{ include "control-plane.waypointValues" . | quote }}
- name: WAYPOINT_DISCOVERY_ADDRESS
  value: {{ printf "%s.%s.svc:15012" (include "control-plane.service" .) .Release.Namespace | quote }}
{{- with include "causeway.global" (list . "caAddress") }}
- name: WAYPOINT_CA_ADDRESS
  value: {{ . | quote }}
{{- end }}
{{- if eq (include "causeway.platform" .) "openshift" }}
# OpenShift gives each namespace its own range of users.
- name: WAYPOINT_FIXED_USER
  value: "false"
{{- end }}
{{- end }}
- name: CLAIM_ISTIO_WAYPOINT
  value: {{ .Values.waypoint.claimIstioWaypoint | quote }}
- name: TERMINATION_DRAIN_DURATION
  value: {{ printf "%ds" (max 1 (sub (int .Values.terminationGracePeriodSeconds) 5)) }}
- name: RUST_LOG
  value: {{ include "causeway.logLevel" . | quote }}
- name: LOG_FORMAT
  value: {{ include "causeway.logFormat" . }}
{{- end -}}
