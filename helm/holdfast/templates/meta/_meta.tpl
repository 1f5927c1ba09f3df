{{/* The pod template of meta-service, which is the same in its Deployment and in its StatefulSet. */}}
{{- define "holdfast.meta.pod" -}}
{{- $root := .root -}}
{{- $sled := eq $root.Values.meta.store "sled" -}}
{{- $address := include "holdfast.podAddress" $root -}}
{{- $args := list "--config" "/etc/holdfast/meta-service.toml" "--set" "name=$(POD_NAME)" -}}
{{- if $sled -}}
{{- $service := include "holdfast.dns" (dict "root" $root "name" (printf "%s-headless" .name)) -}}
{{- $args = concat $args (list "--set" (printf "grpc_advertise=$(POD_NAME).%s:7000" $service)) -}}
{{- else -}}
{{- $args = concat $args (list "--set" (printf "grpc_advertise=%s:7000" $address)) -}}
{{- end -}}
{{- $ports := list (dict "name" "grpc" "port" 7000) (dict "name" "http" "port" 8081) -}}
{{- $mounts := list (dict "name" "config" "mountPath" "/etc/holdfast" "readOnly" true) -}}
{{- $volumes := list (dict "name" "config" "configMap" (dict "name" .name)) -}}
{{- $checksums := dict "checksum/config" (include "holdfast.meta.config" $root | sha256sum) -}}
{{- if $root.Values.admin.enabled -}}
{{- $args = concat $args (list "--set" (printf "admin.advertise=%s:8080" $address)) -}}
{{- $ports = append $ports (dict "name" "admin" "port" 8080) -}}
{{- $mounts = append $mounts (dict "name" "admin" "mountPath" "/etc/holdfast-admin" "readOnly" true) -}}
{{- $volumes = append $volumes (include "holdfast.secretVolume" (dict "name" "admin" "secret" (include "holdfast.adminSecret" $root) "items" (dict $root.Values.admin.secretKey "password")) | fromYaml) -}}
{{- with $root.Values.admin.password -}}
{{- $_ := set $checksums "checksum/admin" (sha256sum .) -}}
{{- end -}}
{{- end -}}
{{- if $sled -}}
{{- $mounts = append $mounts (dict "name" "data" "mountPath" "/var/lib/holdfast") -}}
{{- else -}}
{{- if $root.Values.etcd.auth.user -}}
{{- $mounts = append $mounts (dict "name" "etcd-auth" "mountPath" "/etc/holdfast-etcd-auth" "readOnly" true) -}}
{{- $volumes = append $volumes (include "holdfast.secretVolume" (dict "name" "etcd-auth" "secret" $root.Values.etcd.auth.existingSecret "items" (dict $root.Values.etcd.auth.secretKey "password")) | fromYaml) -}}
{{- end -}}
{{- if $root.Values.etcd.tls.enabled -}}
{{- $tls := $root.Values.etcd.tls -}}
{{- $items := dict $tls.caKey "ca.crt" -}}
{{- with $tls.certKey -}}{{- $_ := set $items . "tls.crt" -}}{{- end -}}
{{- with $tls.keyKey -}}{{- $_ := set $items . "tls.key" -}}{{- end -}}
{{- $mounts = append $mounts (dict "name" "etcd-tls" "mountPath" "/etc/holdfast-etcd-tls" "readOnly" true) -}}
{{- $volumes = append $volumes (include "holdfast.secretVolume" (dict "name" "etcd-tls" "secret" (include "holdfast.etcdTlsSecret" $root) "items" $items) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- include "holdfast.pod" (merge (dict
      "image" (include "holdfast.image" $root)
      "pullPolicy" $root.Values.image.pullPolicy
      "command" (list "/usr/local/bin/meta-service")
      "args" $args "ports" $ports "mounts" $mounts "volumes" $volumes "checksums" $checksums
      "preStop" $root.Values.meta.preStopSeconds
      "grace" ($root.Values.meta.terminationGracePeriodSeconds | default (max 30 (include "holdfast.meta.leastGrace" $root | int)))
      "rolling" (not $sled)
    ) .) -}}
{{- end -}}

{{/* A volume with some keys of a Secret, for the process' group to read: name, secret, items (key → file). */}}
{{- define "holdfast.secretVolume" -}}
name: {{ .name }}
secret:
  secretName: {{ .secret | quote }}
  defaultMode: 288 # 0440
  {{- if .optional }}
  optional: true
  {{- end }}
  items:
    {{- range $key, $path := .items }}
    - key: {{ $key | quote }}
      path: {{ $path }}
    {{- end }}
{{- end -}}
