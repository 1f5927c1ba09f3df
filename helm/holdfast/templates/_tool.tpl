{{/* A pod that runs one `holdfast` command and ends: root, component, args, resources, annotations, serviceAccountName,
     credentials (whether it asks the admin API). */}}
{{- define "holdfast.toolPod" -}}
{{- $root := .root -}}
{{- $defaults := $root.Values.defaults -}}
metadata:
  labels:
    {{- include "holdfast.selectorLabels" . | nindent 4 }}
    {{- if .credentials }}
    holdfast.io/admin: "true"
    {{- end }}
    {{- $fixed := merge (dict "holdfast.io/admin" "") (include "holdfast.selectorLabels" . | fromYaml) }}
    {{- with include "holdfast.without" (list $fixed (merge (dict) $defaults.podLabels $root.Values.commonLabels)) | fromJson }}
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
    {{- end }}
  {{- with merge (dict) .annotations $defaults.podAnnotations $root.Values.commonAnnotations }}
  annotations:
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
  {{- end }}
spec:
  {{- include "holdfast.toolSpec" . | nindent 2 }}
{{- end -}}

{{- define "holdfast.toolSpec" -}}
{{- $root := .root -}}
{{- $defaults := $root.Values.defaults -}}
restartPolicy: Never
{{- with .serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "holdfast.pullSecrets" $root }}
{{ . }}
{{- end }}
securityContext:
  {{- toYaml $defaults.podSecurityContext | nindent 2 }}
{{- with $defaults.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $defaults.nodeSelector }}
nodeSelector:
  {{- include "holdfast.stringMap" . | trim | nindent 2 }}
{{- end }}
{{- with $defaults.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ include "holdfast.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command:
      - /usr/local/bin/holdfast
    args:
      {{- toYaml .args | nindent 6 }}
    {{- if .credentials }}
    env:
      - name: HOLDFAST_API
        value: {{ printf "http://%s:%d" (include "holdfast.dns" (dict "root" $root "name" (printf "%s-admin" (include "holdfast.fullname" $root)))) (int $root.Values.admin.service.port) | quote }}
      - name: HOLDFAST_USER
        value: admin
      - name: HOLDFAST_PASSWORD_FILE
        value: /etc/holdfast-admin/password
    {{- end }}
    {{- with .resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- toYaml $defaults.containerSecurityContext | nindent 6 }}
    terminationMessagePolicy: FallbackToLogsOnError
    {{- if .credentials }}
    volumeMounts:
      - name: admin
        mountPath: /etc/holdfast-admin
        readOnly: true
    {{- end }}
{{- if .credentials }}
volumes:
  {{- /* Optional: a Secret that is not there must end in words of the command, not in a pod that never starts. */}}
  - {{ include "holdfast.secretVolume" (dict "name" "admin" "secret" (include "holdfast.adminSecret" $root) "optional" true "items" (dict $root.Values.admin.secretKey "password")) | nindent 4 | trim }}
{{- end }}
{{- end -}}
