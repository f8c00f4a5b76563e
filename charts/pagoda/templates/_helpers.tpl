{{- define "pagoda.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Release "pagoda" gives "pagoda", release "x" gives "x-pagoda". */}}
{{- define "pagoda.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "pagoda.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pagoda.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The operator's own objects; the chart may get other components. */}}
{{- define "pagoda.operator" -}}
{{- printf "%s-operator" (include "pagoda.fullname" .) -}}
{{- end -}}

{{- define "pagoda.metricsServer" -}}
{{- printf "%s-metrics-server" (include "pagoda.fullname" .) -}}
{{- end -}}

{{/* Not empty where the metrics server is installed: what it needs is cluster-wide. */}}
{{- define "pagoda.metricsServer.enabled" -}}
{{- if and .Values.metricsServer.enabled (not .Values.watchNamespaces) -}}true{{- end -}}
{{- end -}}

{{- define "pagoda.metricsServer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pagoda.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: metrics-server
{{- end -}}

{{- define "pagoda.metricsServer.labels" -}}
{{ include "pagoda.metricsServer.selectorLabels" . }}
{{ include "pagoda.releaseLabels" . }}
{{- end -}}

{{- define "pagoda.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pagoda.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "pagoda.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pagoda.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "pagoda.labels" -}}
{{ include "pagoda.selectorLabels" . }}
{{ include "pagoda.releaseLabels" . }}
{{- end -}}

{{- define "pagoda.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "pagoda.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do in the namespaces that it watches. It has no rule for Secrets. */}}
{{- define "pagoda.watchRules" -}}
- apiGroups: [serving.pagoda.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [serving.pagoda.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
# Needed to be named as a blocking owner where the API server checks that.
- apiGroups: [serving.pagoda.dev]
  resources: [llmdeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# Only these and the HorizontalPodAutoscaler can become superfluous while their LLMDeployment lives.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch, list]
# Why a pod does not start: the end of the log of a container that crashed, the state of its claim.
- apiGroups: [""]
  resources: [pods/log, persistentvolumeclaims]
  verbs: [get]
{{- end -}}
