{{- define "es-index-merge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "es-index-merge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "es-index-merge.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "es-index-merge.selector" -}}
app.kubernetes.io/name: {{ include "es-index-merge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "es-index-merge.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "es-index-merge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "es-index-merge.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "es-index-merge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed with serviceAccount.create=false: the account default would get the controller's rights" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "es-index-merge.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* What the controller may do where the resources are. Each rule says why it is there. */}}
{{- define "es-index-merge.rules" -}}
# list and watch: to see the resources. patch: to put the finalizer on and take it off, nothing else.
- apiGroups: [indexmerge.dev]
  resources: [esindexmerges]
  verbs: [list, watch, patch]
# The status is applied by server-side apply.
- apiGroups: [indexmerge.dev]
  resources: [esindexmerges/status]
  verbs: [patch]
# The credentials that a resource names are read by name at use; never listed, watched or kept.
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get]
# What happened to a merge, for kubectl describe. patch: to count one that repeats.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
