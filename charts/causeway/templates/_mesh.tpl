{{- define "causeway.test" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
{{- end -}}

{{- define "causeway.testPod" -}}
runAsNonRoot: true
{{- if ne (include "causeway.platform" .) "openshift" }}
runAsUser: 1337
runAsGroup: 1337
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "causeway.testContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
