{{/* The pod template of every component. Takes root, component, values (the component's section) and
     image, pullPolicy, command, args, env, ports, mounts, volumes, preStop, grace, checksums, live, ready, rolling, zone. */}}
{{- define "holdfast.pod" -}}
{{- $text := include "holdfast.podText" . -}}
{{- with .values.podTemplate -}}
{{- $text = mustMergeOverwrite (fromYaml $text) (deepCopy .) | toYaml -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- define "holdfast.podText" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $defaults := $root.Values.defaults -}}
metadata:
  labels:
    {{- include "holdfast.selectorLabels" . | nindent 4 }}
    {{- with .zone }}
    holdfast.io/zone: {{ . | quote }}
    {{- end }}
    {{- $fixed := merge (dict "holdfast.io/zone" "") (include "holdfast.selectorLabels" . | fromYaml) }}
    {{- with include "holdfast.without" (list $fixed (merge (dict) $values.podLabels $defaults.podLabels $root.Values.commonLabels)) | fromJson }}
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
    {{- end }}
  {{- with merge (dict) (.checksums | default dict) $values.podAnnotations $defaults.podAnnotations $root.Values.commonAnnotations }}
  annotations:
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "holdfast.serviceAccountName" . | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "holdfast.pullSecrets" $root }}
  {{- . | nindent 2 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ int .grace }}
  securityContext:
    {{- toYaml (mergeOverwrite (deepCopy $defaults.podSecurityContext) (deepCopy $values.podSecurityContext)) | nindent 4 }}
  {{- with $values.priorityClassName | default $defaults.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with merge (dict) $values.nodeSelector $defaults.nodeSelector }}
  nodeSelector:
    {{- include "holdfast.stringMap" . | trim | nindent 4 }}
  {{- end }}
  {{- with concat $defaults.tolerations $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "holdfast.affinity" . }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "holdfast.spread" . }}
  topologySpreadConstraints:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with $values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ .image | quote }}
      imagePullPolicy: {{ .pullPolicy }}
      command:
        {{- toYaml .command | nindent 8 }}
      args:
        {{- toYaml (concat .args $values.extraArgs) | nindent 8 }}
      env:
        {{- include "holdfast.env" (concat (include "holdfast.podEnv" . | fromYamlArray) $defaults.extraEnv $values.extraEnv) | nindent 8 }}
      {{- with $values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- range .ports }}
        - name: {{ .name }}
          containerPort: {{ .port }}
          protocol: TCP
        {{- end }}
      {{- with include "holdfast.probes" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .preStop }}
      lifecycle:
        preStop:
          exec:
            command:
              - /usr/local/bin/holdfast
              - wait
              - {{ . | toString | quote }}
      {{- end }}
      {{- with $values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml (mergeOverwrite (deepCopy $defaults.containerSecurityContext) (deepCopy $values.containerSecurityContext)) | nindent 8 }}
      # What a process says last tells why it ended.
      terminationMessagePolicy: FallbackToLogsOnError
      {{- with concat .mounts $values.extraVolumeMounts }}
      volumeMounts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- with $values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with concat .volumes $values.extraVolumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "holdfast.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* What arguments may refer to. The zone is copied to pods from Kubernetes 1.35 on; before, it is empty. */}}
{{- define "holdfast.podEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
- name: POD_IP
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: status.podIP
{{- if eq .component "gateway" }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: spec.nodeName
{{- end }}
{{- if and (eq .component "storage") (not .zone) }}
- name: ZONE
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.labels['topology.kubernetes.io/zone']
{{- end }}
{{- if ne .component "etcd" }}
- name: RUST_LOG
  value: {{ .values.logLevel | default .root.Values.defaults.logLevel | quote }}
{{- end }}
{{- end -}}

{{/* Environment variables, each once, because an API server refuses to apply two of a name: the last one counts, at
     the first one's place. */}}
{{- define "holdfast.env" -}}
{{- $last := dict -}}
{{- range . -}}{{- $_ := set $last .name . -}}{{- end -}}
{{- $all := list -}}
{{- range . -}}
{{- with get $last .name -}}{{- $all = append $all . -}}{{- end -}}
{{- $_ := unset $last .name -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* An update strategy without the numbers of another type, which an API server refuses. */}}
{{- define "holdfast.updateStrategy" -}}
{{- toYaml (eq .type "RollingUpdate" | ternary . (omit . "rollingUpdate")) -}}
{{- end -}}

{{- define "holdfast.probes" -}}
{{- $live := .live | default "/health/live" -}}
{{- $ready := .ready | default "/health/ready" -}}
{{- $paths := dict "startup" $live "liveness" $live "readiness" $ready -}}
{{- $probes := .values.probes -}}
{{- range $kind := list "startup" "liveness" "readiness" -}}
{{- with get $probes $kind }}
{{ $kind }}Probe:
  httpGet:
    path: {{ get $paths $kind }}
    port: http
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.affinity" -}}
{{- $affinity := deepCopy .values.affinity -}}
{{- if and (not $affinity) .values.podAntiAffinityPreset -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "holdfast.selectorLabels" . | fromYaml)) -}}
{{- if eq .values.podAntiAffinityPreset "hard" -}}
{{- $affinity = dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else -}}
{{- $affinity = dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
{{- end -}}
{{- end -}}
{{- if .zone -}}
{{- $zone := dict "key" "topology.kubernetes.io/zone" "operator" "In" "values" (list .zone) -}}
{{- $node := get $affinity "nodeAffinity" | default dict -}}
{{- $required := get $node "requiredDuringSchedulingIgnoredDuringExecution" | default (dict "nodeSelectorTerms" (list dict)) -}}
{{- $terms := list -}}
{{- range $term := $required.nodeSelectorTerms -}}
{{- $terms = append $terms (merge (dict "matchExpressions" (append (get $term "matchExpressions" | default list) $zone)) $term) -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "holdfast.spread" -}}
{{- $selector := dict "matchLabels" (include "holdfast.selectorLabels" . | fromYaml) -}}
{{- if .zone -}}{{- $_ := set $selector.matchLabels "holdfast.io/zone" .zone -}}{{- end -}}
{{- $constraints := list -}}
{{- if .values.topologySpreadConstraints -}}
{{- range .values.topologySpreadConstraints -}}
{{- $constraints = append $constraints (merge (deepCopy .) (dict "labelSelector" $selector)) -}}
{{- end -}}
{{- else -}}
{{- $keys := dict "zone" "topology.kubernetes.io/zone" "hostname" "kubernetes.io/hostname" -}}
{{- $spread := .values.topologySpread -}}
{{- $rolling := .rolling -}}
{{- $zone := .zone -}}
{{- range $kind := list "zone" "hostname" -}}
{{- $when := get $spread $kind -}}
{{- if and $when (not (and $zone (eq $kind "zone"))) -}}
{{- $one := dict "maxSkew" 1 "topologyKey" (get $keys $kind) "whenUnsatisfiable" $when "labelSelector" $selector -}}
{{- /* Pods of the old version must not push those of the new one to the same node. */ -}}
{{- if $rolling -}}{{- $_ := set $one "matchLabelKeys" (list "pod-template-hash") -}}{{- end -}}
{{- $constraints = append $constraints $one -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $constraints }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* volumeClaimTemplates, whose every field is fixed once the StatefulSet is there: no labels that change with a version. */}}
{{- define "holdfast.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    labels:
      {{- include "holdfast.selectorLabels" . | nindent 6 }}
      {{- with .values.persistence.labels }}
      {{- include "holdfast.stringMap" . | trim | nindent 6 }}
      {{- end }}
    {{- with .values.persistence.annotations }}
    annotations:
      {{- include "holdfast.stringMap" . | trim | nindent 6 }}
    {{- end }}
  spec:
    accessModes:
      {{- toYaml .values.persistence.accessModes | nindent 6 }}
    {{- with .values.persistence.storageClass | default .root.Values.global.storageClass }}
    storageClassName: {{ . | quote }}
    {{- end }}
    {{- with .values.persistence.selector }}
    selector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      requests:
        storage: {{ .values.persistence.size | quote }}
{{- end -}}

{{- define "holdfast.pdb" -}}
{{- if and .values.pdb.enabled (gt (int .replicas) 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "holdfast.metadata" . }}
spec:
  maxUnavailable: {{ .values.pdb.maxUnavailable }}
  {{- with .values.pdb.unhealthyPodEvictionPolicy }}
  unhealthyPodEvictionPolicy: {{ . }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "holdfast.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "holdfast.serviceAccount" -}}
{{- if .values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
{{ include "holdfast.metadata" (merge (dict "name" (include "holdfast.serviceAccountName" .) "annotations" .values.serviceAccount.annotations) .) }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}
