{{/* Beginning of all names: at most 40 characters, so that with a suffix, and what Kubernetes adds, names stay
     within 63; a letter first, because Services need one; no dots, which release names may have. */}}
{{- define "holdfast.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- $full = $full | lower | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $full) -}}
{{- $full = printf "h%s" $full -}}
{{- end -}}
{{- include "holdfast.shortened" (dict "name" $full "length" 40) -}}
{{- end -}}

{{/* A name of at most `length` characters: longer ones end with a hash, or two of them could become one. */}}
{{- define "holdfast.shortened" -}}
{{- if gt (len .name) .length -}}
{{- printf "%s-%s" (trunc (sub .length 9 | int) .name | trimSuffix "-") (sha256sum .name | trunc 8) -}}
{{- else -}}
{{- .name -}}
{{- end -}}
{{- end -}}

{{/* Name of a zone's StatefulSet; Kubernetes adds `-` and a hash of 10 in a label. */}}
{{- define "holdfast.zoneName" -}}
{{- $zone := regexReplaceAll "[^a-z0-9]+" (lower .zone) "-" | trimAll "-" -}}
{{- include "holdfast.shortened" (dict "name" (printf "%s-storage-%s" (include "holdfast.fullname" .root) $zone) "length" 52) -}}
{{- end -}}

{{/* DNS name of a Service. */}}
{{- define "holdfast.dns" -}}
{{- printf "%s.%s.svc.%s" .name .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{- define "holdfast.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Labels of an object; values are quoted, because `n` and `1e3` are no strings in YAML. No key is there twice:
     given ones go before the chart's, but for those that selectors need. */}}
{{- define "holdfast.labels" -}}
{{ include "holdfast.selectorLabels" . }}
{{- $own := dict
      "app.kubernetes.io/version" (.root.Values.image.tag | default .root.Chart.AppVersion | include "holdfast.labelValue")
      "app.kubernetes.io/part-of" "holdfast"
      "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | include "holdfast.labelValue") -}}
{{- $fixed := include "holdfast.selectorLabels" . | fromYaml -}}
{{- include "holdfast.stringMap" (include "holdfast.without" (list $fixed (merge (dict "app.kubernetes.io/managed-by" .root.Release.Service) (.labels | default dict) .root.Values.commonLabels $own)) | fromJson) }}
{{- end -}}

{{/* What a label may hold: tags of images are longer, and end in other characters. */}}
{{- define "holdfast.labelValue" -}}
{{- regexReplaceAll "[^A-Za-z0-9_.-]" . "_" | trunc 63 | trimAll "-_." -}}
{{- end -}}

{{/* The second map without the keys of the first. */}}
{{- define "holdfast.without" -}}
{{- $rest := dict -}}
{{- $fixed := first . -}}
{{- range $key, $value := last . -}}
{{- if not (hasKey $fixed $key) -}}{{- $_ := set $rest $key $value -}}{{- end -}}
{{- end -}}
{{- toJson $rest -}}
{{- end -}}

{{/* `key: "value"` lines, each after a line break. */}}
{{- define "holdfast.stringMap" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end -}}

{{/* metadata of an object: root, name, component, and perhaps labels, annotations, namespace. */}}
{{- define "holdfast.metadata" -}}
metadata:
  name: {{ .name | quote }}
  namespace: {{ .namespace | default .root.Release.Namespace | quote }}
  labels:
    {{- include "holdfast.labels" . | nindent 4 }}
  {{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
  annotations:
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* registry/repository:tag, or @digest: root, image, tag. */}}
{{- define "holdfast.imageName" -}}
{{- $registry := .root.Values.global.imageRegistry | default .image.registry -}}
{{- $name := .image.repository -}}
{{- with $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.image" -}}
{{- include "holdfast.imageName" (dict "root" . "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}

{{- define "holdfast.serviceAccountName" -}}
{{- $default := printf "%s-%s" (include "holdfast.fullname" .root) .component -}}
{{- if .values.serviceAccount.create -}}
{{- .values.serviceAccount.name | default $default -}}
{{- else -}}
{{- .values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.adminSecret" -}}
{{- .Values.admin.existingSecret | default (printf "%s-admin" (include "holdfast.fullname" .)) -}}
{{- end -}}

{{/* Where a process of this chart listens, and how a pod's address looks in host:port. */}}
{{- define "holdfast.anyAddress" -}}
{{- ternary "[::]" "0.0.0.0" (eq .Values.ipFamily "IPv6") -}}
{{- end -}}

{{- define "holdfast.podAddress" -}}
{{- ternary "[$(POD_IP)]" "$(POD_IP)" (eq .Values.ipFamily "IPv6") -}}
{{- end -}}
