{{/* Whether there are Gateways, now or by this release's own definitions. */}}
{{- define "causeway.hasGateway" -}}
{{- if or (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/Gateway") (and .Values.crds.enabled (.Values.crds).gatewayApi) -}}true{{- end -}}
{{- end -}}
